"""Muon: the singular values of its updates, its scale, and who is left to AdamW."""

import pytest
import torch
from torch import nn
from toy_stage import Model
from transformers import AutoModelForCausalLM

from manzano.llm.backbone import language_config
from manzano.training.muon import Muon, hidden_matrices, orthogonalize
from manzano.training.optimizer import OptimConfig, build_optimizer, set_learning_rate
from tests.llm.pararnn.language_models import PARARNN
from tests.tiny import QWEN3


@pytest.mark.parametrize("shape", [(1, 64, 64), (3, 32, 96), (2, 96, 32)])
def test_singular_values_become_one_and_vectors_stay(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    got = left.mT @ orthogonalize(matrices) @ right.mT  # diagonal where the vectors are the same
    diagonal = got.diagonal(dim1=1, dim2=2)
    # below a hundredth of the largest a value may not get there in five iterations
    assert ((diagonal > 0.6) & (diagonal < 1.25))[values > 0.02 * values.norm()].all()
    torch.testing.assert_close(got, torch.diag_embed(diagonal), rtol=0, atol=1e-4)


def test_matrices_of_one_shape_together_equal_each_alone():
    matrices = torch.randn(4, 24, 40, generator=torch.Generator().manual_seed(1))
    alone = torch.cat([orthogonalize(one[None]) for one in matrices])
    torch.testing.assert_close(orthogonalize(matrices), alone, rtol=1e-5, atol=1e-5)


def test_the_first_update_is_the_scaled_orthogonal_gradient_with_decay_apart():
    layer = nn.Conv2d(3, 8, 2, bias=False)
    before, gradient = layer.weight.detach().clone(), torch.randn(layer.weight.shape)
    layer.weight.grad = gradient.clone()
    group = {"params": [layer.weight], "momentum": 0.9, "weight_decay": 0.5}
    Muon([group], lr=0.1, fused=True).step()
    direction = orthogonalize(gradient.flatten(1)[None])[0].reshape(gradient.shape)
    expected = before * (1 - 0.1 * 0.5) - 0.1 * 0.2 * 12**0.5 * direction  # (8, 3 * 2 * 2)
    torch.testing.assert_close(layer.weight.detach(), expected, rtol=1e-4, atol=1e-5)


def test_what_is_no_matrix_moves_as_with_adamw():
    models = [Model(0.0) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    configs = OptimConfig(lr=0.1), OptimConfig(lr=0.1, matrix_lr=0.2)
    x = torch.randn(4, models[0].frozen.in_features)
    for model, config in zip(models, configs, strict=True):
        optimizer = build_optimizer(model, config)
        set_learning_rate(optimizer, config, 0, 10)
        model(x).square().sum().backward()
        optimizer.step()
    matrices = hidden_matrices(models[0])
    moved = dict(models[1].named_parameters())
    for name, parameter in models[0].named_parameters():
        if parameter.requires_grad and parameter.grad is not None:
            assert torch.equal(parameter, moved[name]) == (parameter not in matrices), name


@pytest.mark.parametrize("tied", [True, False])
def test_tables_of_words_are_left_to_adamw(tied):
    settings = {**QWEN3, "vocab_size": 40, "tie_word_embeddings": tied}
    model = AutoModelForCausalLM.from_config(language_config(settings))
    names = {name for name, p in model.named_parameters() if p in hidden_matrices(model)}
    every = {name for name, p in model.named_parameters() if p.ndim == 2}
    assert every - names == {"model.embed_tokens.weight"} | (set() if tied else {"lm_head.weight"})
    assert names


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_numbers_a_channel_of_recurrent_layers_are_no_matrices_and_do_not_decay(cell):
    """Recurrent weights (P, D), biases (G, D) and taps (D, K) have two dimensions all the same."""
    model = AutoModelForCausalLM.from_config(
        language_config(PARARNN | {"cell": cell, "vocab_size": 40})
    )
    groups = build_optimizer(model, OptimConfig(matrix_lr=0.1, weight_decay=0.1)).param_groups
    kinds = {p: (g["momentum"] > 0, g["weight_decay"] > 0) for g in groups for p in g["params"]}
    for layer in model.model.layers:
        mixer = layer.mixer
        for parameter in (mixer.cell.recurrent, mixer.cell.bias, mixer.conv.weight):
            assert parameter.ndim == 2 and kinds[parameter] == (False, False)
        assert kinds[mixer.cell.weight] == (False, True)
        for linear in (mixer.in_proj, mixer.out_proj, layer.mlp.up_proj):
            assert kinds[linear.weight] == (True, True)


def test_each_kind_has_its_own_rate_and_both_obey_the_multipliers():
    config = OptimConfig(lr=1.0, matrix_lr=10.0, lr_multipliers={"blocks.1.": 3.0})
    model = Model(0.0)
    optimizer = build_optimizer(model, config)
    set_learning_rate(optimizer, config, 0, 10)
    rates = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    assert rates[id(model.blocks[0].inner.weight)] == 10.0
    assert rates[id(model.blocks[1].inner.weight)] == 30.0
    assert rates[id(model.blocks[1].inner.bias)] == 3.0
    assert rates[id(model.unused)] == 1.0

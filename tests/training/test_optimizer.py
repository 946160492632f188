"""Parameter groups and the schedule."""

import pytest
import torch
from torch import nn
from toy_stage import Model

from manzano.llm.pararnn import ParaGRU
from manzano.training.optimizer import OptimConfig, build_optimizer, lr_scale, set_learning_rate


def test_only_trainable_matrices_decay():
    model = Model(0.0)
    optimizer = build_optimizer(model, OptimConfig(weight_decay=0.1))
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    for parameter in model.parameters():
        if parameter.requires_grad:
            assert decay.pop(id(parameter)) == (0.1 if parameter.ndim >= 2 else 0.0)
    assert not decay


def test_the_longest_matching_prefix_sets_the_rate():
    model = Model(0.0)
    config = OptimConfig(lr=1.0, lr_multipliers={"blocks.": 2.0, "blocks.1.": 3.0})
    optimizer = build_optimizer(model, config)
    set_learning_rate(optimizer, config, step=0, max_steps=10)
    rates = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            expected = 3.0 if name.startswith("blocks.1") else 2.0 if "blocks" in name else 1.0
            assert rates[id(parameter)] == expected


def test_a_prefix_without_parameters_is_an_error_that_names_the_nearest():
    with pytest.raises(ValueError, match=r"'block.', which no parameter.*Did you mean 'blocks.'"):
        build_optimizer(Model(0.0), OptimConfig(lr_multipliers={"block.": 2.0}))


def test_a_model_without_trainable_parameters_is_an_error():
    with pytest.raises(ValueError, match="nothing to train"):
        build_optimizer(Model(0.0).requires_grad_(False), OptimConfig())


def test_the_schedule_equals_torch_warm_up_then_cosine():
    config = OptimConfig(lr=2.0, warmup_steps=4, min_lr_ratio=0.1)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=16, eta_min=0.2)
    assert [lr_scale(config, step, 20) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    for step in range(4, 20):
        assert 2.0 * lr_scale(config, step, 20) == pytest.approx(cosine.get_last_lr()[0])
        optimizer.step()
        cosine.step()


def test_what_a_module_names_is_not_decayed():
    layer = ParaGRU(4, 4)
    optimizer = build_optimizer(nn.Sequential(layer), OptimConfig(weight_decay=0.1))
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert decay == {id(layer.weight): 0.1, id(layer.recurrent): 0.0, id(layer.bias): 0.0}

"""Recomputed activations give the gradients of kept ones, in the model of every stage."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from manzano.training import random_state
from manzano.training.distributed import blocks
from manzano.training.recompute import recompute
from manzano.training.stages import STAGES, load_stage
from tests.training.stages.real import configured, trained
from tests.training.test_lora import PARARNN


def gradients(stage, *, again: bool) -> tuple[dict[str, Tensor], int]:
    """Of the first batch; and the number of elements kept for the backward pass."""
    if again:
        for block in blocks(stage.model, frozen=True):
            recompute(block)
    batch = next(iter(stage.batches(rank=0, world_size=1)))
    totals = {name: torch.tensor(float(max(1, n))) for name, n in stage.targets(batch).items()}
    kept = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.numel()
        return tensor

    random_state.seed(1)
    stage.model.train()
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        loss, _ = stage.loss(batch, totals)
    loss.backward()
    return {n: p.grad for n, p in stage.model.named_parameters() if p.grad is not None}, kept


def model_of(name: str, ingredients, tmp_path, *, llm: dict | None = None):
    config = configured(name, ingredients, tmp_path)
    random_state.seed(0)
    stage = load_stage(name)[1](replace(config, llm=llm) if llm else config)
    if name == "decoder":  # its gates begin at zero, and would hide everything
        for parameter in stage.model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return stage


CASES = [(name, None) for name in STAGES] + [("llm", PARARNN)]


@pytest.mark.parametrize(("name", "llm"), CASES, ids=[*STAGES, "pararnn"])
def test_gradients_are_the_same_and_less_is_kept(name, llm, ingredients, tmp_path):
    kept, before = gradients(model_of(name, ingredients, tmp_path, llm=llm), again=False)
    again, after = gradients(model_of(name, ingredients, tmp_path, llm=llm), again=True)
    assert kept.keys() == again.keys() and kept
    assert all(torch.equal(again[key], value) for key, value in kept.items())
    assert after < before


@pytest.mark.parametrize("name", ["llm", "decoder"])
def test_a_run_that_recomputes_equals_one_that_keeps(name, ingredients, tmp_path, figures):
    for again in (False, True):
        trained(name, configured(name, ingredients, tmp_path / str(again), recompute=again))
    assert figures(tmp_path / "True") == figures(tmp_path / "False")

"""Memory of large outputs: reused when nothing holds it, never while something does."""

import pytest
import torch

from manzano.llm.pararnn import memory

LIKE = torch.zeros((), dtype=torch.float32)
SHAPE = (3, memory.LARGE // 4)


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch):
    monkeypatch.setattr(memory, "unused", {})


def test_memory_that_came_free_serves_again():
    x = memory.empty(LIKE, SHAPE)
    assert x.shape == SHAPE and x.dtype == LIKE.dtype and x.is_contiguous()
    where = x.data_ptr()
    del x
    assert memory.empty(LIKE, (1, SHAPE[1])).data_ptr() != where  # a third: it takes another block
    assert memory.empty(LIKE, SHAPE).data_ptr() == where


@pytest.mark.parametrize(
    "hold",
    [lambda x: x[1:], lambda x: x.numpy(), lambda x: x.untyped_storage()],
    ids=["view", "array", "storage"],
)
def test_memory_that_is_held_serves_nobody_else(hold):
    x = memory.empty(LIKE, SHAPE)
    where, held = x.data_ptr(), hold(x)
    del x
    assert memory.empty(LIKE, SHAPE).data_ptr() != where
    del held
    assert where in [block.data_ptr() for block in memory.unused.values()]


def test_no_more_is_kept_than_is_allowed(monkeypatch):
    monkeypatch.setattr(memory, "KEPT", 2 * 3 * memory.LARGE)
    outputs = [memory.empty(LIKE, SHAPE) for _ in range(5)]
    outputs.clear()
    assert len(memory.unused) == 2


def test_small_outputs_are_as_torch_makes_them():
    memory.empty(LIKE, (3, 5))
    assert memory.unused == {}
    assert memory.empty(LIKE.to("meta"), SHAPE).is_meta

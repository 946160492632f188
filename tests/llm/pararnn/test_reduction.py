"""The native linear recurrence: as PyTorch's, and an operator with gradients."""

import pytest
import torch
from torch.library import opcheck

from manzano.llm.pararnn import native
from manzano.llm.pararnn.newton import parallel_reduction
from manzano.llm.pararnn.reduction import native_recurrence

pytestmark = pytest.mark.skipif(
    native.missing_tool("cpu") is not None, reason="no compiler, no native kernels"
)
every_way = pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])


def problem(steps: int, block: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = (2, steps, block, block, 5), (2, steps, block, 5)
    return [torch.randn(s, generator=generator, dtype=torch.float64) / block for s in shapes]


@every_way
@pytest.mark.parametrize("block", [1, 2, 3, 4])
@pytest.mark.parametrize("steps", [1, 2, 31, 513])
def test_it_solves_what_the_reduction_in_pytorch_solves(steps, block, reverse):
    jacobians, right = problem(steps, block)
    wanted = parallel_reduction(jacobians, right, reverse)
    torch.testing.assert_close(native_recurrence(jacobians, right, reverse), wanted)


@every_way
@pytest.mark.parametrize("block", [1, 2, 3, 4])
def test_it_is_an_operator_with_gradients_of_any_order(block, reverse):
    inputs = [x.requires_grad_() for x in problem(4, block)]
    opcheck(torch.ops.manzano.pararnn_recurrence.default, (*inputs, reverse))
    assert torch.autograd.gradcheck(lambda a, b: native_recurrence(a, b, reverse), inputs)
    assert torch.autograd.gradgradcheck(lambda a, b: native_recurrence(a, b, reverse), inputs)

"""The native linear recurrence as an operator; test_cuda_kernels.py has what it computes."""

import pytest
import torch
from torch.library import opcheck

from manzano.llm.pararnn import native
from manzano.llm.pararnn.reduction import native_recurrence

pytestmark = pytest.mark.skipif(
    native.missing_tool("cpu") is not None, reason="no compiler, no native kernels"
)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("block", [1, 2, 3, 4])
def test_it_is_an_operator_with_gradients_of_any_order(block, reverse):
    generator = torch.Generator().manual_seed(0)
    shapes = (2, 4, block, block, 5), (2, 4, block, 5)
    draws = (torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes)
    inputs = [x.requires_grad_() for x in draws]
    opcheck(torch.ops.manzano.pararnn_recurrence.default, (*inputs, reverse))
    assert torch.autograd.gradcheck(lambda a, b: native_recurrence(a, b, reverse), inputs)
    assert torch.autograd.gradgradcheck(lambda a, b: native_recurrence(a, b, reverse), inputs)

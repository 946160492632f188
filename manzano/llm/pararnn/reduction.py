"""Solver `reduction`: Newton's method whose linear recurrence is solved by a native kernel.

The recurrence has a block of S x S a channel and step (S is 1 to 4): forward it gives Newton's
correction, reversed the backward pass. On a CPU the kernel substitutes step after step, channels
side by side; on CUDA it reduces over time within warps, then within blocks, then over the whole
sequence.

Letters: B rows, T steps, S state size, D channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from manzano.llm.pararnn.cells import Cell
from manzano.llm.pararnn.fused import kernels, on_device
from manzano.llm.pararnn.native import available
from manzano.llm.pararnn.newton import newton_with, parallel_reduction
from manzano.llm.pararnn.report import Report, SolverOptions


def reduction(
    cell: Cell,
    preactivations: Tensor,
    parameters: Tensor,
    state: Tensor,
    starts: Tensor | None,
    options: SolverOptions,
) -> tuple[Tensor, Tensor, Report]:
    """Newton's method with `native_recurrence`; arguments and results as `newton.newton_with`.

    Where nothing can build the kernels, PyTorch's reduction serves; `native` says so once.

    Raises:
        ConvergenceError: as `newton.newton_with`.
        native.BuildError: if a compiler is there but the build fails.
    """
    served = available(preactivations.device.type)
    recurrence = native_recurrence if served else parallel_reduction
    return newton_with(
        "reduction", recurrence, cell, preactivations, parameters, state, starts, options
    )


@torch.library.custom_op("manzano::pararnn_recurrence", mutates_args=())
def native_recurrence(jacobians: Tensor, right: Tensor, reverse: bool) -> Tensor:
    """A `newton.Recurrence`: jacobians (B, T, S, S, D) and right (B, T, S, D), fp32 or fp64."""
    jacobians, right = jacobians.contiguous(), right.contiguous()
    rows, steps, block, channels = right.shape
    solution = torch.empty_like(right)
    loaded = kernels(right)
    scratch = None
    if right.is_cuda:
        size = loaded.reduction_bytes(right.element_size(), block, rows, steps, channels)
        scratch = right.new_empty(size, dtype=torch.uint8)
    loaded.reduction(
        right.dtype == torch.float64,
        block,
        reverse,
        rows,
        steps,
        channels,
        jacobians.data_ptr(),
        right.data_ptr(),
        solution.data_ptr(),
        0 if scratch is None else scratch.data_ptr(),
        *on_device(right),
    )
    return solution


@native_recurrence.register_fake
def recurrence_fake(jacobians, right, reverse):
    return torch.empty_like(right, memory_format=torch.contiguous_format)


def keep_for_backward(ctx, inputs, output) -> None:
    jacobians, _, ctx.reverse = inputs
    ctx.save_for_backward(jacobians, output)


def recurrence_backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
    """The same recurrence the other way round; the blocks' gradients are outer products."""
    jacobians, x = ctx.saved_tensors
    multipliers = native_recurrence(jacobians, gradient, not ctx.reverse)
    later, earlier = (x, multipliers) if ctx.reverse else (multipliers, x)
    earlier = F.pad(earlier[:, :-1], (0, 0, 0, 0, 1, 0))  # x_{t-1}
    return later.unsqueeze(3) * earlier.unsqueeze(2), multipliers, None  # (B, T, S, S, D)


native_recurrence.register_autograd(recurrence_backward, setup_context=keep_for_backward)

"""Solver `fused`: the whole recurrence of ParaGRU or ParaLSTM in one native kernel, with gradients.

Forward, one of two schemes, by the size of the problem or `options.chunks`:

- an exact sweep over time, a lane a channel;
- multiple shooting: time is cut into chunks that run side by side, and Newton's method looks for
  the states at their starts alone. The last correction of those starts, and how far each is from
  the end of the chunk before, is the certificate: only when none is above the tolerance is the
  result taken. Chunks whose start has moved are run again;
  after `max_iterations` sweeps, what has not settled is swept exactly. All of that is decided
  within the kernel: the host does not wait.

Backward is one sweep back through time that gives every gradient, or, in chunks, two.

Letters: B rows, T steps, G preactivations, S state size, P parameters, D channels, N sequences.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from manzano.llm.pararnn.cells import GRU_CELL, LSTM_CELL, Cell
from manzano.llm.pararnn.memory import empty
from manzano.llm.pararnn.native import available, library
from manzano.llm.pararnn.report import ONCE, Report, SolverOptions
from manzano.llm.pararnn.sequential import sequential

CELLS = (GRU_CELL, LSTM_CELL)
"""Cells with native kernels, at the numbers that csrc/fused.h has for them."""

NUMBERS = {cell.name: number for number, cell in enumerate(CELLS)}

ELEMENTS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
"""Dtypes of inputs and outputs, likewise."""

CHECKPOINT = 16
"""csrc/fused.h: every how many steps the unrounded states of 16-bit problems are kept."""


def supports(cell: Cell, preactivations: Tensor) -> bool:
    """Whether `fused` has kernels for this cell, dtype and device; it builds them if need be.

    Raises:
        native.BuildError: if a compiler is there but the build fails.
    """
    return (
        cell in CELLS
        and preactivations.dtype in ELEMENTS
        and preactivations.device.type in ("cpu", "cuda")
        and available(preactivations.device.type)
    )


def fused(
    cell: Cell,
    preactivations: Tensor,
    parameters: Tensor,
    state: Tensor,
    starts: Tensor | None,
    options: SolverOptions,
) -> tuple[Tensor, Tensor, Report]:
    """Solve in one native kernel; arguments and results as `report.Solver` says.

    States are kept in fp32 (fp64 for fp64) whatever the dtype, and gradients are those of the
    states before rounding. Where nothing can build the kernels, `sequential` serves; `native` says
    so once.

    Raises:
        ValueError: for a cell other than GRU_CELL and LSTM_CELL.
        native.BuildError: if a compiler is there but the build fails.
    """
    if cell not in CELLS:
        raise ValueError(
            f"the fused solver has kernels for {[known.name for known in CELLS]}, not for "
            f'{cell.name!r}: use solver="reduction", "newton" or "sequential"'
        )
    if not supports(cell, preactivations):
        return sequential(cell, preactivations, parameters, state, starts, options)
    computed = torch.finfo(state.dtype)
    states, final, _, sweeps, residual = torch.ops.manzano.pararnn_forward(
        preactivations,
        parameters,
        state,
        starts,
        NUMBERS[cell.name],
        options.chunks or 0,
        options.max_iterations,
        options.tolerance or computed.eps,
    )
    return states, final, Report("fused", sweeps, residual.detach())


def shape_of(preactivations: Tensor, state: Tensor, cell: int) -> list[int]:
    """Cell, element, rows, sequences, steps and channels, as the kernels take them."""
    rows, steps, _, channels = preactivations.shape
    element = ELEMENTS.index(preactivations.dtype)
    return [cell, element, rows, state.shape[0], steps, channels]


def checkpoint_shape(preactivations: Tensor, state: Tensor) -> tuple[int, ...]:
    """Of the unrounded states that the backward pass needs besides the states: (0,) or 4-D."""
    if preactivations.dtype == state.dtype:
        return (0,)
    rows, steps, _, channels = preactivations.shape
    return (rows, (steps + CHECKPOINT - 1) // CHECKPOINT, state.shape[1], channels)


def chunk_count(asked: int, preactivations: Tensor, state: Tensor) -> int:
    """Chunks of time: as asked, else as many as fill the device, and 1 where few would not pay.

    Shooting takes two sweeps or more, so that under four chunks gain nothing.
    """
    if asked:
        most = 32 if preactivations.is_cuda else asked
        return min(asked, preactivations.shape[1], most)
    rows, total, _, channels = preactivations.shape
    lanes, steps = state.shape[0] * channels, rows * total // state.shape[0]  # of a sequence
    # A GPU wants some warps on every multiprocessor, a CPU one vector of channels in every thread.
    filling = 32768 if preactivations.is_cuda else 16 * torch.get_num_threads()
    chunks = min(filling // lanes, steps // 128, 32)
    return chunks if chunks >= 4 else 1


def on_device(preactivations: Tensor) -> list[int]:
    """The kernels' last arguments: threads on a CPU, device and stream on CUDA."""
    if preactivations.is_cuda:
        device = preactivations.device.index
        return [device, torch.cuda.current_stream(device).cuda_stream]
    return [torch.get_num_threads()]


def kernels(preactivations: Tensor):
    """The loaded kernels; they are there, for `supports` has been asked."""
    loaded = library(preactivations.device.type)
    if loaded is None:
        raise RuntimeError(
            f"no native ParaRNN kernels for {preactivations.device.type}: this is called through "
            'solver="fused", which checks that'
        )
    return loaded


@torch.library.custom_op("manzano::pararnn_forward", mutates_args=())
def forward_op(
    preactivations: Tensor,
    parameters: Tensor,
    state: Tensor,
    starts: Tensor | None,
    cell: int,
    chunks: int,
    max_sweeps: int,
    tolerance: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """States (B, T, S, D), the final ones unrounded (N, S, D), checkpoints, and the counts of the
    report: sweeps (int32), residual."""
    states, final, checkpoints, sweeps, residual = forward_outputs(preactivations, state, empty)
    parameters, state = parameters.contiguous(), state.contiguous()
    borders = None if starts is None else starts.to(torch.int64).contiguous()
    kernels(preactivations).fused_forward(
        *shape_of(preactivations, state, cell),
        chunk_count(chunks, preactivations, state),
        0 if borders is None else borders.data_ptr(),
        preactivations.data_ptr(),
        *preactivations.stride(),
        parameters.data_ptr(),
        state.data_ptr(),
        states.data_ptr(),
        final.data_ptr(),
        checkpoints.data_ptr(),
        sweeps.data_ptr(),
        residual.data_ptr(),
        max_sweeps,
        tolerance,
        *on_device(preactivations),
    )
    return states, final, checkpoints, sweeps, residual


@forward_op.register_fake
def forward_fake(preactivations, parameters, state, starts, cell, chunks, max_sweeps, tolerance):
    return forward_outputs(preactivations, state)


def forward_outputs(
    preactivations: Tensor, state: Tensor, new: Callable[..., Tensor] = Tensor.new_empty
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """What `forward_op` returns, unwritten; the states are new(preactivations, their shape)."""
    rows, steps, _, channels = preactivations.shape
    return (
        new(preactivations, (rows, steps, state.shape[1], channels)),
        state.new_empty(state.shape),
        state.new_empty(checkpoint_shape(preactivations, state)),
        state.new_empty((), dtype=torch.int32),
        state.new_empty((), dtype=torch.float32),
    )


@torch.library.custom_op("manzano::pararnn_backward", mutates_args=())
def backward_op(
    grad_states: Tensor,
    grad_final: Tensor,
    preactivations: Tensor,
    parameters: Tensor,
    state: Tensor,
    starts: Tensor | None,
    saved: Tensor,
    cell: int,
    chunks: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of preactivations (B, T, G, D), parameters (P, D) and initial state (N, S, D).

    `saved` is the states, or the checkpoints of a 16-bit problem.
    """
    grad_preactivations = empty(preactivations, preactivations.shape)
    by_sequence = parameters.new_empty((len(state), *parameters.shape))
    grad_state = state.new_empty(state.shape)
    parameters, state, saved = parameters.contiguous(), state.contiguous(), saved.contiguous()
    grad_final = grad_final.contiguous()
    borders = None if starts is None else starts.to(torch.int64).contiguous()
    kernels(preactivations).fused_backward(
        *shape_of(preactivations, state, cell),
        chunk_count(chunks, preactivations, state),
        0 if borders is None else borders.data_ptr(),
        preactivations.data_ptr(),
        *preactivations.stride(),
        parameters.data_ptr(),
        state.data_ptr(),
        saved.data_ptr(),
        grad_states.data_ptr(),
        *grad_states.stride(),
        grad_final.data_ptr(),
        grad_preactivations.data_ptr(),
        by_sequence.data_ptr(),
        grad_state.data_ptr(),
        *on_device(preactivations),
    )
    return grad_preactivations, by_sequence.sum(0), grad_state


@backward_op.register_fake
def backward_fake(
    grad_states, grad_final, preactivations, parameters, state, starts, saved, cell, chunks
):
    return (
        preactivations.new_empty(preactivations.shape),
        parameters.new_empty(parameters.shape),
        state.new_empty(state.shape),
    )


def keep_for_backward(ctx, inputs, output) -> None:
    """What the backward pass reads: the inputs, and the states as they were before rounding."""
    preactivations, parameters, state, starts, cell, chunks, _, _ = inputs
    states, _, checkpoints, _, _ = output
    saved = states if preactivations.dtype == state.dtype else checkpoints
    ctx.save_for_backward(preactivations, parameters, state, starts, saved)
    ctx.cell, ctx.chunks = cell, chunks
    ctx.set_materialize_grads(False)


def backward(ctx, grad_states, grad_final, *_):
    """Gradients of `forward_op`'s arguments; what else it returns has none."""
    if grad_states is None and grad_final is None:
        return (None,) * 8
    preactivations, parameters, state, starts, saved = ctx.saved_tensors
    if grad_states is None:  # one zero for all: the kernels honour strides
        rows, steps, _, channels = preactivations.shape
        grad_states = preactivations.new_zeros(()).expand(rows, steps, state.shape[1], channels)
    if grad_final is None:
        grad_final = torch.zeros_like(state)
    gradients = torch.ops.manzano.pararnn_backward(
        grad_states,
        grad_final,
        preactivations,
        parameters,
        state,
        starts,
        saved,
        ctx.cell,
        ctx.chunks,
    )
    return (*gradients, *(None,) * 5)


def second_derivative(ctx, *_):
    """There is none."""
    raise RuntimeError(ONCE)


forward_op.register_autograd(backward, setup_context=keep_for_backward)
backward_op.register_autograd(second_derivative)

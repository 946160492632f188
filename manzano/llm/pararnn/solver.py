"""One way into all solvers of h_t = step(h_{t-1}, u_t): checks, the registry, and the choice.

Letters: B rows, T steps, G preactivations a channel, S state size, P parameters a channel,
D channels, N sequences.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor

from manzano.llm.pararnn.cells import GRU_CELL, LSTM_CELL, Cell
from manzano.llm.pararnn.fused import fused, supports
from manzano.llm.pararnn.jacobian import check_channelwise
from manzano.llm.pararnn.newton import newton
from manzano.llm.pararnn.packing import check_borders
from manzano.llm.pararnn.reduction import reduction
from manzano.llm.pararnn.report import ConvergenceError, Report, Solver, SolverOptions
from manzano.llm.pararnn.sequential import sequential

__all__ = ["SOLVERS", "ConvergenceError", "Report", "Solver", "SolverOptions", "solve"]

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def auto(
    cell: Cell,
    preactivations: Tensor,
    parameters: Tensor,
    state: Tensor,
    starts: Tensor | None,
    options: SolverOptions,
) -> tuple[Tensor, Tensor, Report]:
    """The fastest solver that serves; what none can certify is solved by the plain loop.

    `fused` where it has the cell and the device. Else, where steps are many and channels few,
    `reduction`, which waits for the device in every iteration. Else, and where that has not
    converged, `sequential`.
    """
    arguments = (cell, preactivations, parameters, state, starts, options)
    if supports(cell, preactivations):
        return fused(*arguments)
    if newton_pays(cell, preactivations):
        try:
            return reduction(*arguments)
        except ConvergenceError:
            pass  # the loop below needs no convergence, and its report says that it was the loop
    return sequential(*arguments)


def newton_pays(cell: Cell, preactivations: Tensor) -> bool:
    """Whether Newton's whole-array operations are likely to beat T steps of few elements each.

    A step of the loop costs its launches, whatever its size; Newton a few hundred passes over the
    whole array. Measured break-even on a CPU; a CUDA device has its passes so much faster.
    """
    rows, steps, _, channels = preactivations.shape
    limit = 32768 if preactivations.is_cuda else 512
    return steps >= 128 and rows * channels * cell.state_size <= limit


SOLVERS: dict[str, Solver] = {
    "sequential": sequential,
    "newton": newton,
    "reduction": reduction,
    "fused": fused,
}


def check_input(
    cell: Cell, preactivations: Tensor, parameters: Tensor, state: Tensor | None
) -> None:
    """Raise ValueError for shapes, dtypes or devices that do not fit `cell` and one another."""
    if preactivations.dim() != 4 or preactivations.shape[2] != cell.num_preactivations:
        raise ValueError(
            f"preactivations of cell {cell.name!r} have shape (rows, steps, "
            f"{cell.num_preactivations}, channels), got {tuple(preactivations.shape)}"
        )
    if preactivations.dtype not in DTYPES:
        raise ValueError(f"preactivations are one of {DTYPES}, got {preactivations.dtype}")
    shape = (cell.num_parameters, preactivations.shape[3])
    if parameters.shape != shape:
        raise ValueError(
            f"parameters of cell {cell.name!r} have shape (parameters, channels) = {shape} here, "
            f"got {tuple(parameters.shape)}"
        )
    if parameters.dtype not in DTYPES:
        raise ValueError(f"parameters are one of {DTYPES}, got {parameters.dtype}")
    devices = {"parameters": parameters} | ({} if state is None else {"state": state})
    for name, tensor in devices.items():
        if tensor.device != preactivations.device:
            raise ValueError(
                f"{name} are on {tensor.device} but preactivations on {preactivations.device}: "
                "move one of them"
            )


def initial_state(
    cell: Cell, preactivations: Tensor, state: Tensor | None, cu_seqlens: Tensor | None
) -> Tensor:
    """The state (N, S, D) to begin from: `state`, checked, or zeros.

    Raises:
        ValueError: for a wrong shape or dtype, or more than one row where sequences are packed.
    """
    rows, steps, _, channels = preactivations.shape
    count = rows
    if cu_seqlens is not None:
        if rows != 1:
            raise ValueError(f"packed sequences (cu_seqlens) are one row, got {rows} rows")
        check_borders(cu_seqlens, steps, preactivations.device)
        count = len(cu_seqlens) - 1
    shape = (count, cell.state_size, channels)
    dtype = state_dtype(preactivations.dtype)
    if state is None:
        return torch.zeros(shape, dtype=dtype, device=preactivations.device)
    if state.shape != shape:
        raise ValueError(
            f"the state of cell {cell.name!r} has shape (sequences, state size, channels) = "
            f"{shape} here, got {tuple(state.shape)}"
        )
    if state.dtype != dtype:
        raise ValueError(
            f"the state is {dtype} where preactivations are {preactivations.dtype}, "
            f"got {state.dtype}"
        )
    return state


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of states in and out, and of computation: fp32 for half types, else `dtype`."""
    return torch.float32 if dtype.itemsize < 4 else dtype


def solve(
    cell: Cell,
    preactivations: Tensor,
    parameters: Tensor,
    state: Tensor | None = None,
    *,
    cu_seqlens: Tensor | None = None,
    solver: str = "auto",
    options: SolverOptions = SolverOptions(),  # noqa: B008 (frozen)
) -> tuple[Tensor, Tensor, Report]:
    """States of the recurrence h_t = cell.step(h_{t-1}, preactivations_t, parameters).

    Args:
        preactivations: (B, T, G, D) fp16, bf16, fp32 or fp64, any strides; B, T, D may be 0.
        parameters: (P, D), used in the dtype of the state.
        state: (N, S, D), before each sequence; fp32 for half types, else as `preactivations`.
            None is zeros. N = B unless packed.
        cu_seqlens: (N + 1,) int32 or int64: B = 1 row holds N sequences, from cu_seqlens[i] to
            cu_seqlens[i + 1]. None is one sequence a row.
        solver: "auto" or a name in `SOLVERS`.

    Returns:
        The states (B, T, S, D) in the dtype of `preactivations`, the final state (N, S, D) in the
        dtype of `state`, not rounded to the former, and a report. Both states are differentiable in
        the first three tensors.

    Raises:
        ValueError: for input that does not fit, an unknown solver, or a cell that is not
            channelwise; with `options.check_finite`, for NaN or infinity.
        ConvergenceError: by "newton" and "reduction" if they have not converged.
    """
    chosen = auto if solver == "auto" else SOLVERS.get(solver)
    if chosen is None:
        raise ValueError(f"unknown solver {solver!r}: choose one of {['auto', *SOLVERS]}")
    check_input(cell, preactivations, parameters, state)
    state = initial_state(cell, preactivations, state, cu_seqlens)
    if options.check_finite:
        named = {"preactivations": preactivations, "parameters": parameters, "state": state}
        for name, tensor in named.items():
            if not tensor.isfinite().all():
                raise ValueError(f"{name} hold NaN or infinity")
    device, dtype = preactivations.device, preactivations.dtype
    # Entering it costs as much as a small kernel: only where there is something to turn off.
    autocast = torch.is_autocast_enabled(device.type)
    with torch.autocast(device.type, enabled=False) if autocast else nullcontext():
        parameters = parameters.to(state.dtype)
        if preactivations.numel() == 0:  # the step of nothing: empty, and in the graph like others
            rows, steps = preactivations.shape[:2]
            begin = state.sum(0).expand(rows, steps, -1, -1)
            states = cell.step(begin, preactivations.to(state.dtype), parameters).to(dtype)
            return states, state, Report("none", 0, state.new_zeros(()))
        # torch.compile cannot trace it; a layer has tried its cell before.
        if cell not in (GRU_CELL, LSTM_CELL) and not torch.compiler.is_compiling():
            check_channelwise(cell, preactivations.shape[3], state.dtype, device)
        return chosen(cell, preactivations, parameters, state, cu_seqlens, options)

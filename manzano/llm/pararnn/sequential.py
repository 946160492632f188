"""The plain loop over time in PyTorch: the oracle of all solvers, differentiable repeatedly.

Letters: B rows, T steps, G preactivations, S state size, D channels, N sequences.
"""

import torch
from torch import Tensor

from manzano.llm.pararnn.cells import Cell
from manzano.llm.pararnn.report import Report, SolverOptions


def sequential(
    cell: Cell,
    preactivations: Tensor,
    parameters: Tensor,
    state: Tensor,
    starts: Tensor | None,
    options: SolverOptions,
) -> tuple[Tensor, Tensor, Report]:
    """Apply `cell.step` T times; arguments and results as `report.Solver` says.

    Exact but for rounding. Packed input is read back to the host once, for its borders.
    """
    # Unbound once: a slice a step would make autograd build T gradients of the full size.
    steps = preactivations.to(state.dtype).unbind(1)
    states, ends = [], []
    if starts is None:
        for step in steps:
            state = cell.step(state, step, parameters)
            states.append(state)
        ends.append(state)
    else:
        borders = starts.tolist()
        for number, (start, end) in enumerate(zip(borders, borders[1:], strict=False)):
            current = state[number : number + 1]
            for step in steps[start:end]:
                current = cell.step(current, step, parameters)
                states.append(current)
            ends.append(current)
    exact = torch.zeros((), device=state.device, dtype=state.dtype)
    states = torch.stack(states, dim=1).to(preactivations.dtype)
    return states, torch.cat(ends), Report("sequential", 1, exact)

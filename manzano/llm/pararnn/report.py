"""What a solver is asked and what it tells: options, report, and the error of not converging."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from manzano.llm.pararnn.cells import Cell


@dataclass(frozen=True)
class SolverOptions:
    """Args:
    tolerance: largest residual of a step, relative to max(1, size of the states before and after
        it). None is eight times the rounding unit of the dtype that is computed in.
    max_iterations: most Newton iterations (sweeps, in the fused solver's chunked scheme).
    chunks: chunks of time of the fused solver's chunked scheme; 1 is one exact sweep, None leaves
        it to the solver. Other solvers have no chunks.
    check_finite: raise ValueError where an input holds NaN or infinity. It waits for the device.
    """

    tolerance: float | None = None
    max_iterations: int = 16
    chunks: int | None = None
    check_finite: bool = False

    def __post_init__(self):
        if self.tolerance is not None and not self.tolerance > 0:
            raise ValueError(f"tolerance is positive or None, got {self.tolerance}")
        if self.max_iterations < 1:
            raise ValueError(f"max_iterations is at least 1, got {self.max_iterations}")
        if self.chunks is not None and self.chunks < 1:
            raise ValueError(f"chunks is at least 1 or None, got {self.chunks}")


@dataclass
class Report:
    """What a solver did. Reading its tensors waits for the device; keeping the report does not.

    Args:
        solver: the solver that computed the result; with "auto", the one chosen.
        iterations: Newton iterations or sweeps; 1 for an exact sweep over time.
        residual: scalar, how far the states are from solving the recurrence; 0 for an exact sweep.
    """

    solver: str
    iterations: Tensor | int
    residual: Tensor

    def summary(self) -> dict[str, str | int | float]:
        """The same as plain values, for logs. Waits for the device."""
        return {
            "solver": self.solver,
            "iterations": int(self.iterations),
            "residual": float(self.residual),
        }


ONCE = 'this ParaRNN solver is differentiable once: for second derivatives use solver="sequential"'
"""What a second derivative of any other solver says."""


class ConvergenceError(RuntimeError):
    """A solver chosen by name has not converged; its states are not returned."""


class Solver(Protocol):
    """What all solvers are.

    Args:
        preactivations: (B, T, G, D) with B, T, D at least 1, floating, any strides.
        parameters: (P, D) in the dtype of `state`.
        state: (N, S, D), the state before each sequence: fp32 for half types, else the dtype of
            `preactivations`; N = B unless packed.
        starts: None, or where packed (B = 1) the valid cu_seqlens (N + 1,).

    Returns:
        The states (B, T, S, D) in the dtype of `preactivations`, the final one of each sequence
        (N, S, D) in that of `state`, not rounded to the former, and what was done. Both states are
        differentiable in the first three tensors.
    """

    def __call__(
        self,
        cell: Cell,
        preactivations: Tensor,
        parameters: Tensor,
        state: Tensor,
        starts: Tensor | None,
        options: SolverOptions,
    ) -> tuple[Tensor, Tensor, Report]: ...

"""Recurrences to solve, easy and hard, and what the plain loop makes of them in float64.

Letters: B rows, T steps, G preactivations, S state size, P parameters, D channels.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from manzano.llm.pararnn import GRU_CELL, LSTM_CELL, Cell, SolverOptions, solve
from manzano.llm.pararnn.solver import state_dtype

CELLS = {"gru": GRU_CELL, "lstm": LSTM_CELL}


@dataclass(frozen=True)
class Case:
    """One recurrence: `weights` bounds the recurrent parameters, `memory` shifts the gate that
    admits new values, so that its logit is about minus that."""

    cell: str
    steps: int
    weights: float = 0.5
    memory: float = 0.0
    rows: int = 2
    channels: int = 5
    parity: bool = False
    packed: tuple[int, ...] | None = None

    def inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Preactivations, parameters and state, fp64, of numbers that bf16 and fp16 hold."""
        generator = torch.Generator().manual_seed(self.steps)
        cell = CELLS[self.cell]

        def draw(*shape: int) -> Tensor:
            return torch.empty(shape, dtype=torch.float64).normal_(generator=generator)

        if self.parity:
            return parity_gru(self.steps, self.channels, generator)
        rows, steps, channels = self.rows, self.steps, self.channels
        preactivations = draw(rows, steps, cell.num_preactivations, channels)
        # GRU's z admits what is new, LSTM's f keeps what is old; both are row 0.
        preactivations[:, :, 0] += -self.memory if self.cell == "gru" else self.memory
        parameters = draw(cell.num_parameters, channels)
        parameters = (
            parameters.sign()
            * self.weights
            * torch.rand(parameters.shape, generator=generator, dtype=torch.float64).sqrt()
        )
        sequences = rows if self.packed is None else len(self.packed) - 1
        state = draw(sequences, cell.state_size, channels).tanh()
        return tuple(
            tensor.bfloat16().half().double() for tensor in (preactivations, parameters, state)
        )

    def __str__(self) -> str:
        kind = "parity" if self.parity else f"weights{self.weights}-memory{self.memory}"
        return f"{self.cell}-{self.steps}-{kind}{'-packed' if self.packed else ''}"

    def borders(self) -> Tensor | None:
        return None if self.packed is None else torch.tensor(self.packed)


def parity_gru(steps: int, channels: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """A GRU whose sign flips with every 1 of a random bit string: strongly stable, yet Newton's
    method from f(0, u) without bounds does not get there in 60 iterations at T = 1024."""
    bits = torch.randint(0, 2, (1, steps, 1), generator=generator)
    preactivations = torch.zeros(1, steps, 3, channels, dtype=torch.float64)
    preactivations[:, :, 0] = torch.where(bits == 1, 8.0, -8.0)  # z: take the new value or hold
    preactivations[:, :, 1] = 8.0  # r: always open
    parameters = torch.zeros(3, channels, dtype=torch.float64)
    parameters[2] = -torch.linspace(1.5, 5, channels)  # the new value is minus the old one
    state = torch.full((1, 1, channels), 0.875, dtype=torch.float64)
    return preactivations, parameters.bfloat16().double(), state


def results(
    case: Case,
    dtype: torch.dtype,
    solver: str,
    options: SolverOptions | None = None,
    noise: int | None = None,
) -> dict[str, Tensor]:
    """States, final state and all gradients of one loss, in fp64, from `solver` run in `dtype`.

    With `noise`, a seed, inputs are changed by half a rounding unit of the dtype computed in.
    """
    inputs = case.inputs()
    if noise is not None:
        generator, unit = torch.Generator().manual_seed(noise), torch.finfo(state_dtype(dtype)).eps
        inputs = [x * (1 + (torch.rand(x.shape, generator=generator) - 0.5) * unit) for x in inputs]
    dtypes = (dtype, state_dtype(dtype), state_dtype(dtype))
    leaves = [x.to(d).requires_grad_() for x, d in zip(inputs, dtypes, strict=True)]
    states, final, _ = solve(
        CELLS[case.cell],
        *leaves,
        cu_seqlens=case.borders(),
        solver=solver,
        options=options or SolverOptions(),
    )
    generator = torch.Generator().manual_seed(1)
    weights = [
        torch.randn(x.shape, generator=generator).bfloat16().to(x.dtype) for x in (states, final)
    ]
    gradients = torch.autograd.grad((states, final), leaves, weights)
    names = ("states", "final state", "d preactivations", "d parameters", "d state")
    tensors = (states, final, *gradients)
    return {n: x.detach().double() for n, x in zip(names, tensors, strict=True)}


@lru_cache(maxsize=128)
def loop_results(case: Case, dtype: torch.dtype, noise: int | None = None) -> dict[str, Tensor]:
    """`results` of the plain loop, computed once."""
    return results(case, dtype, "sequential", noise=noise)


def allowed_errors(case: Case, dtype: torch.dtype) -> dict[str, float]:
    """Twice the error of the plain loop in `dtype`, and a floor of a few roundings.

    In fp64, whose own loop is the reference, it is fp32's in proportion to the rounding unit, and
    four times as much, for the reference is rounded as well. With strong weights a rounding grows
    a thousandfold, and one channel's luck is the largest error: there the loop's is the worst of
    several that round differently.
    """
    computed = torch.finfo(state_dtype(dtype)).eps
    share = 4 * computed / torch.finfo(torch.float32).eps if dtype == torch.float64 else 1
    measured = torch.float32 if dtype == torch.float64 else dtype
    draws = (None, 1, 2, 3, 4) if case.weights >= 4 else (None,)
    loops = [errors(case, loop_results(case, measured, noise)) for noise in draws]
    return {
        name: 2 * share * max(loop[name] for loop in loops)
        + 16 * computed * max(1.0, float(wanted.abs().max()))
        for name, wanted in loop_results(case, torch.float64).items()
    }


def errors(case: Case, found: dict[str, Tensor]) -> dict[str, float]:
    """Largest absolute difference from the plain loop in fp64."""
    exact = loop_results(case, torch.float64)
    return {name: float((found[name] - wanted).abs().max()) for name, wanted in exact.items()}


def user_cell(state_size: int) -> Cell:
    """A cell of `state_size` numbers a channel that all act on one another, within [-1, 1]."""

    def step(state: Tensor, preactivations: Tensor, parameters: Tensor) -> Tensor:
        gate = torch.sigmoid(preactivations[..., :1, :] + parameters[0] * state.sum(-2, True))
        candidate = torch.tanh(preactivations[..., 1:, :] + parameters[1] * state.roll(1, -2))
        return torch.lerp(state, candidate.expand_as(state), gate)

    return Cell(f"rolled{state_size}", step, state_size, 2, 2, state_bound=1.0)

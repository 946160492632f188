"""Recurrent cells whose channels do not mix: what a cell is, and the paper's GRU and LSTM.

ParaRNN (arXiv 2510.21450, eq. 3.1): all recurrent and peephole weights are diagonal, so that every
channel is a recurrence of its own with a state of one to four numbers.

Letters: S state size a channel, G preactivations a channel, P recurrent parameters a channel,
D channels.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Cell:
    """One step of a recurrence, written once as a plain function; all solvers work from it.

    Args:
        name: what reports and errors call it.
        step: step(state (..., S, D), preactivations (..., G, D), parameters (P, D)) -> the next
            state (..., S, D) of the same dtype. It must be differentiable, work for any leading
            dimensions and compute every channel of every leading index by itself; solvers refuse a
            step that does not.
        state_size: S, 1 to 4.
        num_preactivations: G, at least 1.
        num_parameters: P, at least 0.
        state_bound: states that begin in [-bound, bound] stay there; None if no bound is known.
            Solvers keep their guesses within it.
        keeping: the direction in which the first preactivation makes a step keep the state, +1 or
            -1; 0 if it is no such gate.

    The last row of the state is the output of the layer.

    Raises:
        ValueError: for sizes outside these ranges.
    """

    name: str
    step: Callable[[Tensor, Tensor, Tensor], Tensor]
    state_size: int
    num_preactivations: int
    num_parameters: int
    state_bound: float | None = None
    keeping: int = 0

    def __post_init__(self):
        if not 1 <= self.state_size <= 4:
            raise ValueError(f"cell {self.name!r}: state_size is 1 to 4, got {self.state_size}")
        if self.num_preactivations < 1 or self.num_parameters < 0:
            raise ValueError(
                f"cell {self.name!r} needs at least one preactivation and no negative number of "
                f"parameters, got {self.num_preactivations} and {self.num_parameters}"
            )
        if self.state_bound is not None and not self.state_bound > 0:
            raise ValueError(
                f"cell {self.name!r}: state_bound is positive or None, got {self.state_bound}"
            )


def gru_step(state: Tensor, preactivations: Tensor, parameters: Tensor) -> Tensor:
    """ParaGRU (eq. 3.1a): state (h), preactivation rows (z, r, c), parameter rows (a_z, a_r, a_c).

    The reset gate applies before a_c, and z gates the new value (torch.nn.GRU's z keeps the old).
    """
    h = state[..., 0, :]
    u_z, u_r, u_c = preactivations.unbind(-2)
    a_z, a_r, a_c = parameters.unbind(0)
    z = torch.sigmoid(a_z * h + u_z)
    r = torch.sigmoid(a_r * h + u_r)
    c = torch.tanh(a_c * (r * h) + u_c)
    return (h + z * (c - h)).unsqueeze(-2)


def lstm_step(state: Tensor, preactivations: Tensor, parameters: Tensor) -> Tensor:
    """ParaLSTM (eq. 3.1b): coupled forget and input gate, peepholes.

    State rows (c, h), preactivation rows (f, o, z), parameter rows (a_f, a_o, a_z, p_f, p_o). The
    forget gate sees the old c, the output gate the new one.
    """
    c, h = state.unbind(-2)
    u_f, u_o, u_z = preactivations.unbind(-2)
    a_f, a_o, a_z, p_f, p_o = parameters.unbind(0)
    f = torch.sigmoid(a_f * h + p_f * c + u_f)
    z = torch.tanh(a_z * h + u_z)
    c = z + f * (c - z)
    o = torch.sigmoid(a_o * h + p_o * c + u_o)
    return torch.stack((c, o * torch.tanh(c)), dim=-2)


GRU_CELL = Cell(
    "gru", gru_step, 1, num_preactivations=3, num_parameters=3, state_bound=1.0, keeping=-1
)
LSTM_CELL = Cell(
    "lstm", lstm_step, 2, num_preactivations=3, num_parameters=5, state_bound=1.0, keeping=+1
)

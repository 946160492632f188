"""Recurrent layers that train in parallel over time: ParaGRU, ParaLSTM, and a layer of any cell.

ParaRNN (arXiv 2510.21450): a block-diagonal input projection, then one recurrence a channel.

Letters: B rows, T steps, G preactivations, S state size, P parameters, N sequences, H heads,
I = D_in / H, D = D_h / H, D_in and D_h the layer's input and hidden size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from manzano.llm.pararnn.cells import GRU_CELL, LSTM_CELL, Cell
from manzano.llm.pararnn.jacobian import check_channelwise
from manzano.llm.pararnn.report import Report, SolverOptions
from manzano.llm.pararnn.solver import SOLVERS, solve, state_dtype


class Clamp(torch.autograd.Function):
    """Clamp to [-bound, bound] whose gradient is that of the clamped values.

    A plain clamp has none outside: a parameter that one optimiser step carried over the bound would
    stay there for good.
    """

    @staticmethod
    def forward(ctx, values: Tensor, bound: float) -> Tensor:
        return values.clamp(-bound, bound)

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


class ParaRNNLayer(nn.Module):
    """y = states of `cell` over a block-diagonal projection of x; used as torch.nn.GRU is.

    Args:
        cell: the recurrence.
        input_size, hidden_size: D_in and D_h.
        num_heads: H blocks of the input projection; states never mix channels.
        bias: whether preactivations have one.
        solver: "auto" or a name in `solver.SOLVERS`.
        recurrent_bound: recurrent parameters are used clamped to [-bound, bound]: 0.5 is the
            paper's recipe, which keeps Newton's iterations few; None does not clamp, as state
            tracking (parity) wants it.
        keep_bias: initial bias of the gate that keeps the state, towards keeping: of 3, a step
            keeps sigmoid(3) = .95 of it at first; of 0, as in the paper, half.
        options: for the solver.

    Initial values are those of the paper's training: Kaiming-uniform projection, recurrent
    parameters normal with deviation 1 / sqrt(D_h) (Xavier's for a D_h x D_h matrix, of which they
    are the diagonal), other biases zero.

    Raises:
        ValueError: for sizes that `num_heads` does not divide, a bound that is not positive, an
            unknown solver, a `keep_bias` where there is no bias or no such gate, or a cell that is
            not channelwise.
    """

    def __init__(
        self,
        cell: Cell,
        input_size: int,
        hidden_size: int,
        num_heads: int = 1,
        bias: bool = True,
        solver: str = "auto",
        recurrent_bound: float | None = 0.5,
        keep_bias: float = 0.0,
        options: SolverOptions = SolverOptions(),  # noqa: B008 (frozen)
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        for name, size in (("input_size", input_size), ("hidden_size", hidden_size)):
            if num_heads < 1 or size < 1 or size % num_heads:
                raise ValueError(
                    f"{name} must be a positive multiple of num_heads, got {name}={size} and "
                    f"num_heads={num_heads}"
                )
        if recurrent_bound is not None and not recurrent_bound > 0:
            raise ValueError(f"recurrent_bound is positive or None, got {recurrent_bound}")
        if solver != "auto" and solver not in SOLVERS:
            raise ValueError(f"unknown solver {solver!r}: choose one of {['auto', *SOLVERS]}")
        if keep_bias and not (bias and cell.keeping):
            raise ValueError(
                f"keep_bias {keep_bias} needs bias=True and a cell that says which way its first "
                f"preactivation keeps the state; {cell.name!r} has keeping={cell.keeping}"
            )
        self.cell, self.solver, self.options = cell, solver, options
        self.input_size, self.hidden_size, self.num_heads = input_size, hidden_size, num_heads
        self.recurrent_bound, self.keep_bias = recurrent_bound, keep_bias
        self.last_report: Report | None = None
        gates = cell.num_preactivations
        shape = (num_heads, input_size // num_heads, gates, hidden_size // num_heads)
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        shape = (cell.num_parameters, hidden_size)
        self.recurrent = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.bias = None
        if bias:
            self.bias = nn.Parameter(torch.empty(gates, hidden_size, device=device, dtype=dtype))
        self.reset_parameters()
        if cell not in (GRU_CELL, LSTM_CELL) and not self.weight.is_meta:
            dtype = state_dtype(self.weight.dtype)
            check_channelwise(cell, hidden_size, dtype, self.weight.device)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the paper's initial values."""
        bound = (6 / (self.input_size // self.num_heads)) ** 0.5
        self.weight.uniform_(-bound, bound)
        self.recurrent.normal_(std=self.hidden_size**-0.5)
        if self.bias is not None:
            self.bias.zero_()
            self.bias[0] = self.cell.keeping * self.keep_bias

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that are a number a channel, though they have two dimensions."""
        return {"recurrent", "bias"}

    def recurrent_parameters(self) -> Tensor:
        """The recurrent parameters (P, D_h) as the recurrence uses them: within the bound."""
        if self.recurrent_bound is None:
            return self.recurrent
        return Clamp.apply(self.recurrent, self.recurrent_bound)  # pyright: ignore

    def project(self, x: Tensor) -> Tensor:
        """x (rows, D_in) -> preactivations (rows, G, D_h), in autocast's dtype where that is on."""
        heads, gates = self.num_heads, self.cell.num_preactivations
        weight = self.weight.flatten(2)  # (H, I, G*D)
        inputs = x.unflatten(1, (heads, -1)).transpose(0, 1)  # (H, rows, I)
        blocks = torch.bmm(inputs, weight).unflatten(2, (gates, -1)).permute(1, 2, 0, 3)
        if self.bias is not None:  # (rows, G, H, D)
            # The bias first: a sum is laid out as its first operand is, so that `flatten` is free.
            blocks = self.bias.to(blocks.dtype).unflatten(1, (heads, -1)) + blocks
        return blocks.flatten(2)

    def forward(
        self, x: Tensor, state: Tensor | None = None, cu_seqlens: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """x (B, T, D_in) -> y (B, T, D_h) and the final state (N, S, D_h).

        Args:
            state: (N, S, D_h) before each sequence, fp32 for half types, else as x; None is zeros.
            cu_seqlens: (N + 1,), for B = 1 row that packs N sequences; None for one a row (N = B).

        Raises:
            ValueError, ConvergenceError: as `solver.solve`.
        """
        self.check(x, 3, "(rows, steps, features)")
        preactivations = self.project(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        states, state, self.last_report = solve(
            self.cell,
            preactivations,
            self.recurrent_parameters(),
            state,
            cu_seqlens=cu_seqlens,
            solver=self.solver,
            options=self.options,
        )
        # Of the only row, a view of all: the gradient of an index is a copy into zeros.
        return states.squeeze(2) if self.cell.state_size == 1 else states[:, :, -1], state

    def step(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One step, for decoding: x (B, D_in) -> y (B, D_h) and the next state (B, S, D_h).

        The state stays in its own dtype (see `forward`) from step to step.
        """
        self.check(x, 2, "(rows, features)")
        preactivations = self.project(x)
        dtype = state_dtype(preactivations.dtype)
        shape = (len(x), self.cell.state_size, self.hidden_size)
        if state is None:
            state = torch.zeros(shape, dtype=dtype, device=x.device)
        elif (state.shape, state.dtype, state.device) != (shape, dtype, x.device):
            raise ValueError(
                f"the state has shape {shape} and dtype {dtype} here, on {x.device}; got "
                f"{tuple(state.shape)} and {state.dtype} on {state.device}"
            )
        with torch.autocast(x.device.type, enabled=False):
            parameters = self.recurrent_parameters().to(dtype)
            state = self.cell.step(state, preactivations.to(dtype), parameters)
        return state[:, -1].to(preactivations.dtype), state

    def check(self, x: Tensor, dimensions: int, shape: str) -> None:
        """Raise ValueError for x of another rank, number of features, device or dtype."""
        if x.dim() != dimensions or x.shape[-1] != self.input_size:
            raise ValueError(
                f"x has shape {shape} with {self.input_size} features, got {tuple(x.shape)}"
            )
        if x.device != self.weight.device:
            raise ValueError(
                f"x is on {x.device} but the layer on {self.weight.device}: move one of them"
            )
        dtypes = (x.dtype, self.weight.dtype)
        # Autocast casts all but fp64 to one dtype.
        mixed = torch.is_autocast_enabled(x.device.type) and torch.float64 not in dtypes
        if x.dtype != self.weight.dtype and not (mixed and x.is_floating_point()):
            raise ValueError(
                f"x is {x.dtype} but the layer {self.weight.dtype}: convert one of them"
            )

    def extra_repr(self) -> str:
        return (
            f"{self.cell.name}, {self.input_size}, {self.hidden_size}, "
            f"num_heads={self.num_heads}, bias={self.bias is not None}, solver={self.solver!r}, "
            f"recurrent_bound={self.recurrent_bound}"
        )


class ParaGRU(ParaRNNLayer):
    """ParaRNNLayer of `GRU_CELL`; z gates the new value, and r applies before a_c."""

    def __init__(self, input_size: int, hidden_size: int, **settings):
        super().__init__(GRU_CELL, input_size, hidden_size, **settings)


class ParaLSTM(ParaRNNLayer):
    """ParaRNNLayer of `LSTM_CELL`; the state is (c, h), the output h."""

    def __init__(self, input_size: int, hidden_size: int, **settings):
        super().__init__(LSTM_CELL, input_size, hidden_size, **settings)

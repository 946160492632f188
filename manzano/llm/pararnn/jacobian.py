"""Jacobians of a cell's step from autograd, and the check that the step is what a Cell claims.

Where every channel of every leading index is computed by itself, the gradient of the sum over all
of them holds each one's own derivative: S vector-Jacobian products give all S x S blocks.

Letters: S state size, G preactivations, D channels.
"""

from functools import lru_cache

import torch
from torch import Tensor

from manzano.llm.pararnn.cells import Cell


def jacobian_of(after: Tensor, before: Tensor) -> Tensor:
    """Blocks (..., S, S, D), [..., i, j, :] the derivative of `after` row i by `before` row j.

    Both are (..., S, D), `after` computed from `before` by a channelwise step. The graph between
    them is kept.
    """
    if not after.requires_grad:  # a step that ignores the state
        return after.new_zeros((*after.shape[:-1], *after.shape[-2:]))
    rows = []
    for row in after.unbind(-2):
        (gradient,) = torch.autograd.grad(
            row, before, torch.ones_like(row), retain_graph=True, materialize_grads=True
        )
        rows.append(gradient)
    return torch.stack(rows, dim=-3)


def step_with_jacobian(
    cell: Cell, before: Tensor, preactivations: Tensor, parameters: Tensor
) -> tuple[Tensor, Tensor]:
    """The next state (..., S, D) and the Jacobian (..., S, S, D) of the step, both detached."""
    with torch.enable_grad():
        before = before.detach().requires_grad_()
        after = cell.step(before, preactivations.detach(), parameters.detach())
        jacobian = jacobian_of(after, before)
    return after.detach(), jacobian


@lru_cache(maxsize=64)
def check_channelwise(cell: Cell, channels: int, dtype: torch.dtype, device: torch.device) -> None:
    """Refuse a step that is not a function of its own channel and leading index alone.

    A probe of 2 rows and 3 steps is evaluated again with part of its input replaced; what was kept
    must come out as before. The parts are the bits of the row's, the step's and the channel's
    number, so that any two places are told apart by one of them. Nothing is assumed of
    differentiability, and randomness in the step is found too. Once per cell, width, dtype, device.

    Raises:
        ValueError: for a step that mixes channels, steps or rows, depends on other leading
            dimensions, is random, or returns another shape or dtype.
    """
    rows, steps = 2, 3
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        # On the generator's device, whatever device torch makes tensors on by default.
        values = torch.empty(shape, dtype=torch.float64, device="cpu")
        return values.normal_(generator=generator).to(device, dtype)

    state_shape = (rows, steps, cell.state_size, channels)
    first, other = (
        (
            # Inside the bound, if there is one: a step may be made for such states only.
            draw(*state_shape).tanh() * (cell.state_bound or 1.0),
            draw(rows, steps, cell.num_preactivations, channels),
            draw(cell.num_parameters, channels),
        )
        for _ in range(2)
    )
    with torch.no_grad():
        expected = cell.step(*first)
        if expected.shape != state_shape or expected.dtype != dtype:
            raise ValueError(
                f"the step of cell {cell.name!r} must return the state's shape and dtype, "
                f"{state_shape} and {dtype} here; got {tuple(expected.shape)} and {expected.dtype}"
            )
        tolerance = 100 * torch.finfo(dtype).eps * expected.abs().max().clamp(min=1)

        def require_same(found: Tensor, wanted: Tensor, what: str) -> None:
            if not ((found - wanted).abs() <= tolerance).all():
                raise ValueError(
                    f"the step of cell {cell.name!r} is not channelwise: {what}. Solvers need each "
                    "channel of each step to be computed from its own state, preactivations and "
                    "parameters alone; mix channels before or after the layer"
                )

        alone = cell.step(first[0][:, 1], first[1][:, 1], first[2])
        require_same(
            alone, expected[:, 1], "one step alone comes out differently from it among others"
        )
        for axis, name in ((0, "rows"), (1, "steps"), (3, "channels")):
            size = state_shape[axis]
            view = [1] * 4
            view[axis] = size
            for bit in range((size - 1).bit_length()):
                for value in (0, 1):
                    kept = ((torch.arange(size, device=device) >> bit) & 1) == value
                    keep = kept.view(view)
                    parameters = first[2]
                    if name == "channels":
                        parameters = torch.where(kept, first[2], other[2])
                    changed = cell.step(
                        torch.where(keep, first[0], other[0]),
                        torch.where(keep, first[1], other[1]),
                        parameters,
                    )
                    wanted = torch.where(keep, expected, changed)
                    require_same(changed, wanted, f"it reads other {name}")

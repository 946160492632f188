"""Three-axis rotary positions for the decoder's one token sequence (DiT-Air 3; OmniGen2).

Every token has a position (type, row, column). The type tells the three streams apart, the rows and
columns of all three are written on the grid of the noisy latents: a condition token sits at the
centre of the square of latents that it describes, and a pixel of the reference image sits on the
pixel that it becomes.

Letters: T tokens, K head dim.
"""

from __future__ import annotations

import math

import torch
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from torch import Tensor

NOISY, REFERENCE, CONDITION = 0, 1, 2
"""The type axis of a position: which of the three streams a token belongs to."""


def grid_positions(
    kind: int, grid: tuple[int, int], onto: tuple[float, float], device: torch.device
) -> Tensor:
    """Positions (T, 3), fp32, of the tokens of `grid` (rows, columns), raster order, on grid
    `onto`."""
    rows, columns = (
        (torch.arange(size, device=device) + 0.5) * target / size - 0.5
        for size, target in zip(grid, onto, strict=True)
    )
    kinds = torch.tensor([float(kind)], device=device)
    return torch.cartesian_prod(kinds, rows, columns)  # (T, 3)


def scaled_grid(grid: tuple[int, int], side: float | None) -> tuple[float, float]:
    """The grid shrunk or enlarged to the area side x side, its proportions kept; None changes
    nothing.

    Positions on it keep to the range of a model trained on side x side tokens, whatever the size of
    the picture (position interpolation, arXiv 2306.15595).
    """
    if side is None:
        return grid
    scale = side / math.sqrt(grid[0] * grid[1])
    return grid[0] * scale, grid[1] * scale


def rotary_embedding(positions: Tensor, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines, each (T, K) fp32, of positions (T, 3).

    A quarter of the head dim turns with the type, three eighths with the row, as many with the
    column.
    """
    sizes = (head_dim // 4, head_dim * 3 // 8, head_dim * 3 // 8)
    axes = [
        get_1d_rotary_pos_embed(size, axis, theta=theta, use_real=True)  # pyright: ignore
        for size, axis in zip(sizes, positions.unbind(dim=1), strict=True)
    ]
    cosines, sines = zip(*axes, strict=True)
    return torch.cat(cosines, dim=-1), torch.cat(sines, dim=-1)

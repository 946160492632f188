"""Spatial-to-channel: fold each 3x3 block of features into one token (Manzano, Sec. 3.2)."""

from einops import rearrange
from torch import Tensor, nn


class SpatialToChannel(nn.Module):
    """(B, H, W, C) -> (B, H / block, W / block, block * block * C), row-major within a block.

    The paper: 42 x 42 x 1024 -> 14 x 14 x 9216, nine times fewer tokens and nothing thrown away.
    """

    def __init__(self, block: int = 3):
        super().__init__()
        self.block = block

    def forward(self, features: Tensor) -> Tensor:
        height, width = features.shape[1:3]
        if height % self.block or width % self.block:
            raise ValueError(
                f"got a {height}x{width} feature grid, which {self.block}x{self.block} "
                "spatial-to-channel cannot divide: choose image size / patch size as a multiple of "
                f"{self.block}"
            )
        return rearrange(features, "b (h p) (w q) c -> b h w (p q c)", p=self.block, q=self.block)

    def extra_repr(self) -> str:
        return f"block={self.block}"

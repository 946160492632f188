"""Finite scalar quantisation (Mentzer et al. 2023, arXiv 2309.15505), always in float32.

vector-quantize-pytorch does the quantising. This wrapper fixes what is easily got wrong: bf16
halves the codebook in use, and cross-entropy wants int64 where the library gives int32 ids.
"""

from math import prod

import torch
from torch import Tensor, nn
from vector_quantize_pytorch import FSQ as LibraryFSQ


class FSQ(nn.Module):
    """Rounds each of L numbers to one of `levels[i]` values; the id is their mixed-radix number.

    Args:
        levels: values per dimension, first varying fastest in the id. The paper's 64K codebook is
            taken to be [8, 8, 8, 5, 5, 5] = 64,000 (FSQ paper, Table 1).
    """

    def __init__(self, levels: tuple[int, ...]):
        super().__init__()
        self.levels = tuple(levels)
        # Its tables are computed, not stored: real even where a model is built on the meta device.
        with torch.device("cpu"):
            self.quantize = LibraryFSQ(levels=list(levels))

    @property
    def codebook_size(self) -> int:
        return prod(self.levels)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """z (B, N, L) of any float type -> codes (B, N, L) float32 with straight-through gradient,
        ids (B, N) int64."""
        with torch.autocast(z.device.type, enabled=False):
            codes, ids = self.quantize(z.float())
        return codes, ids.long()

    def ids_to_codes(self, ids: Tensor) -> Tensor:
        """ids (B, N) -> codes (B, N, L) float32, exactly those of `forward`."""
        return self.quantize.indices_to_codes(ids).float()

    def codes_to_ids(self, codes: Tensor) -> Tensor:
        """codes (B, N, L) -> ids (B, N) int64."""
        return self.quantize.codes_to_indices(codes.float()).long()


def code_usage(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Share of the codebook in use, and perplexity (the effective number of codes); scalars.

    Args:
        counts: (codebook_size,) how often each code was seen.
    """
    p = counts / counts.sum().clamp(min=1)
    return (counts > 0).float().mean(), torch.special.entr(p).sum().exp()


@torch.no_grad()
def restore_tables(quantize: LibraryFSQ, levels: tuple[int, ...]) -> None:
    """Fills the tables of vector-quantize-pytorch's FSQ in place, for loaders that leave buffers
    which no checkpoint holds uninitialised (transformers does)."""
    fresh = LibraryFSQ(levels=list(levels))
    for name, table in fresh.named_buffers():
        quantize.get_buffer(name).copy_(table)

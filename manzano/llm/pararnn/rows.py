"""Rows with padding, or with several sequences each, as one packed row of whole sequences.

    padded, mask         packed, position_ids          both become
    . . a a a            a a a b b | c c c c c         a a a b b c c c c c      cu_seqlens 0 3 5 10
    b b b b b

A recurrence over the packed row, reset at each start, never meets padding nor a neighbour.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.masking_utils import find_packed_sequence_indices


@dataclass(frozen=True)
class PackedRows:
    """Where the M real tokens of (B, T) rows are: N sequences, each of at least one token.

    tokens: (M,) int64 places in the flattened rows, ascending; None where every place is real.
    cu_seqlens: (N + 1,) int32, from 0 to M.
    owners: (M,) int64, the sequence of each token.
    rows: (N,) int64, the row of each sequence.
    """

    tokens: Tensor | None
    cu_seqlens: Tensor
    owners: Tensor
    rows: Tensor

    def pack(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (1, M, D)"""
        flat = x.flatten(0, 1)
        return (flat if self.tokens is None else flat[self.tokens])[None]

    def unpack(self, packed: Tensor, like: Tensor) -> Tensor:
        """(1, M, D) -> (B, T, D), the shape of `like`; 0 at padding."""
        if self.tokens is None:
            return packed.view(like.shape)
        flat = packed.new_zeros(like.shape[0] * like.shape[1], packed.shape[-1])
        return flat.index_copy(0, self.tokens, packed[0]).view(like.shape)


def padded_rows(mask: Tensor) -> PackedRows | None:
    """Rows of one sequence each, real where mask (B, T) is not 0; None if there is no padding.

    Padding may be anywhere in a row. A row without a real token has no sequence.
    """
    real = mask != 0
    if real.all():
        return None
    lengths = real.sum(1)
    rows = lengths.nonzero().flatten()
    tokens = real.flatten().nonzero().flatten()
    return _packed(tokens, lengths[rows], rows)


def several_sequences(position_ids: Tensor, batch: int) -> PackedRows | None:
    """Rows (B, T) whose positions do not go on by 1 everywhere; None if all do.

    A sequence begins where position_ids (B or 1, T) do not go on by 1, which is how transformers
    tells attention about sequences in one row. Rows are full: what is left of one is a sequence.
    """
    owners = find_packed_sequence_indices(position_ids.expand(batch, -1))  # from 0 in every row
    if owners is None:
        return None
    starts = torch.diff(owners, dim=1, prepend=owners.new_full((batch, 1), -1)) != 0
    places = starts.flatten().nonzero().flatten()  # (N,)
    lengths = torch.diff(places, append=places.new_tensor([owners.numel()]))
    return _packed(None, lengths, places // owners.shape[1])


def _packed(tokens: Tensor | None, lengths: Tensor, rows: Tensor) -> PackedRows:
    owners = torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths)
    return PackedRows(
        tokens=tokens, cu_seqlens=F.pad(lengths.cumsum(0), (1, 0)).int(), owners=owners, rows=rows
    )

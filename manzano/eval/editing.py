"""Was the edit that was asked for made, and was the rest left alone?

The first is read off the glyph (`manzano.eval.glyph_judge`), the second off the pixels that source
and target have in common. Copying the source scores 0 in the first and is perfect in the second;
a decoder cannot be better in the second than its VAE, whose round trip is the practical floor.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from manzano.eval.glyph_judge import Glyph


def edit_success(edited: Glyph | None, *, source: Glyph, target: Glyph) -> bool:
    """Whether every attribute that was to change did, and no other one.

    Args:
        edited: What the judge saw in the edited picture; None (no glyph there) is a failure.
        source: The glyph before.
        target: The glyph that was asked for.

    Raises:
        ValueError: Nothing was to change, so that copying would count as success.
    """
    if source == target:
        raise ValueError(f"The edit asks for no change: source and target are both {source}.")
    return edited == target


def kept_mask(source: Tensor, target: Tensor, *, threshold: float = 0.02) -> Tensor:
    """(B, H, W) bool: the pixels an edit has to leave alone, one pixel away from any change.

    `source` and `target` are (B, C, H, W) in [0, 1]; a pixel changes if any channel differs by more
    than `threshold`.
    """
    changed = (source - target).abs().amax(dim=1, keepdim=True) > threshold  # (B, 1, H, W)
    widened = F.max_pool2d(changed.float(), kernel_size=3, stride=1, padding=1)
    return widened.squeeze(1) == 0


def kept_error(
    edited: Tensor, *, source: Tensor, target: Tensor, threshold: float = 0.02
) -> Tensor:
    """Mean absolute error over all pixels that the edits had to leave alone, a scalar in [0, 1].

    All (B, C, H, W) in [0, 1]; the mean runs over the kept pixels of the whole batch. Call it with
    the VAE's round trip of `source` as `edited` for the practical floor.

    Raises:
        ValueError: The shapes differ, or no pixel is kept.
    """
    if not edited.shape == source.shape == target.shape:
        raise ValueError(
            f"edited, source and target must have one shape, got {tuple(edited.shape)}, "
            f"{tuple(source.shape)} and {tuple(target.shape)}: resize them first."
        )
    kept = kept_mask(source, target, threshold=threshold)  # (B, H, W)
    if not kept.any():
        raise ValueError("Source and target differ at every pixel: there is no kept region.")
    error = (edited - source).abs().mean(dim=1)  # (B, H, W)
    return torch.masked_select(error, kept).mean()

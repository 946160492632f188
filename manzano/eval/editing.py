"""Was the edit that was asked for made, and was the rest left alone?

Of glyphs the first is read off the picture (`manzano.eval.glyph_judge`); of any other picture only
whether something was done where something was to change, by the target if there is one, else by a
mask. The second is read off the pixels outside, which source and target have in common. Copying
the source scores 0 in the first and is perfect in the second; a decoder cannot be better in the
second than its VAE, whose round trip is the practical floor.
"""

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from manzano.data_mix.masks import load_mask
from manzano.eval.glyph_judge import Glyph
from manzano.eval.pixels import pixels


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


def region_error(pictures: Tensor, others: Tensor, region: Tensor) -> Tensor:
    """Mean absolute difference of each two pictures inside a region: (B,) in [0, 1].

    Args:
        pictures: (B, C, H, W) in [0, 1].
        others: The same shape.
        region: (B, H, W) bool.

    Raises:
        ValueError: The shapes do not fit, or a region is empty.
    """
    shape = pictures.shape
    if others.shape != shape or region.shape != (shape[0], *shape[2:]):
        raise ValueError(
            f"two (B, C, H, W) and a region (B, H, W) are compared, got {tuple(shape)}, "
            f"{tuple(others.shape)} and {tuple(region.shape)}: resize them first."
        )
    counts = region.sum(dim=(1, 2))  # (B,)
    if not counts.all():
        raise ValueError(f"Region {int((counts == 0).nonzero()[0])} of {len(counts)} is empty.")
    error = (pictures - others).abs().mean(dim=1)  # (B, H, W)
    return (error * region).sum(dim=(1, 2)) / counts


def edit_scores(
    edited: Image.Image,
    source: Image.Image,
    *,
    round_trip: Image.Image,
    target: Image.Image | None = None,
    mask: Image.Image | None = None,
) -> dict[str, float]:
    """Scores of one edit of any benchmark; it needs a target, a mask or both.

    The region to change is the mask, or else where source and target differ. The edit `changed` it
    (1 or 0) if it is nearer there to the target than to the source; without a target, if it is
    farther from the source than the VAE's round trip. The latter shows that something was done, not
    that it was the right thing.

    Args:
        edited: Resized to the source's size, as `round_trip` is.
        source: The picture before.
        round_trip: The source encoded and decoded by the VAE, without any edit.
        target: The picture asked for, of the source's size. Without a mask it must be the source's
            pixels wherever nothing changes: JPEG noise would count as change.
        mask: As for `load_mask`, of the source's size: white is to change, the rest is kept.

    Returns:
        `changed`, `kept_error` and `changed_error` (mean absolute differences from the source in
        [0, 1]), and the same three of two answers beside it: `floor_` of the source returned as it
        is, `vae_` of the round trip.

    Raises:
        ValueError: There is neither target nor mask, one has another size than the source, nothing
            is to change or nothing to be kept.
    """
    region = _region(source, target, mask)
    before, wanted = pixels([source]), None if target is None else pixels([target])
    round_trip = round_trip.resize(source.size, Image.Resampling.BICUBIC)
    by_vae = region_error(pixels([round_trip]), before, region)
    scores = {}
    for prefix, answer in {"": edited, "floor_": source, "vae_": round_trip}.items():
        after = pixels([answer.resize(source.size, Image.Resampling.BICUBIC)])
        done = region_error(after, before, region)
        changed = done > by_vae if wanted is None else region_error(after, wanted, region) < done
        scores[f"{prefix}changed"] = float(changed)
        scores[f"{prefix}kept_error"] = float(region_error(after, before, ~region))
        scores[f"{prefix}changed_error"] = float(done)
    return scores


def _region(source: Image.Image, target: Image.Image | None, mask: Image.Image | None) -> Tensor:
    """(1, H, W) bool: where the source is to change."""
    for name, picture in {"target": target, "mask": mask}.items():
        if picture is not None and picture.size != source.size:
            raise ValueError(
                f"The {name} must have the source's size {source.size}, got {picture.size}."
            )
    if mask is not None:
        region = pixels([load_mask(mask, source.size)])[:, 0] > 0.5
    elif target is not None:
        region = ~kept_mask(pixels([source]), pixels([target]))
    else:
        raise ValueError("An edit is scored by its target or by a mask of what was to change.")
    if not region.any():
        raise ValueError("Nothing of the picture is to change.")
    if region.all():
        raise ValueError("All of the picture is to change: there is no kept region.")
    return region

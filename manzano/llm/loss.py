"""The joint objective (Manzano, Sec. 3.1): next-token cross-entropy, text : image = 1 : 0.5.

Each modality is averaged over its own targets in the global batch, so that an image of 196 ids does
not swamp a caption of ten words.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from manzano.llm.vocabulary import JointVocabulary

IGNORE = -100


def count_targets(labels: Tensor, vocabulary: JointVocabulary) -> dict[str, int]:
    """Targets of each modality in labels (B, T); the first position of a row is never predicted.

    `<target>` placeholders count as image targets."""
    labels = labels[:, 1:]
    image = (labels >= vocabulary.image_offset) | (labels == vocabulary.target)
    return {"text": int(((labels != IGNORE) & ~image).sum()), "image": int(image.sum())}


def unified_loss(
    logits: Tensor,
    labels: Tensor,
    vocabulary: JointVocabulary,
    totals: dict[str, Tensor],
    image_weight: float = 0.5,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean text cross-entropy + image_weight * mean image cross-entropy.

    Args:
        logits: (B, T, vocabulary.size), any float type; computed in float32 here.
        labels: (B, T) int64 joint ids, IGNORE where nothing is to be predicted; not shifted.
        totals: targets per modality in the global batch. Sums over this micro-batch are divided by
            them, so that adding losses over micro-batches and ranks gives the global mean.

    Returns:
        The loss and its unweighted terms {"text", "image"}.
    """
    labels = labels[:, 1:]
    keep = labels != IGNORE
    targets = labels[keep]  # (M,)
    losses = F.cross_entropy(logits[:, :-1][keep].float(), targets, reduction="none")
    image = targets >= vocabulary.image_offset
    zero = torch.zeros_like(losses)
    terms = {
        "text": torch.where(image, zero, losses).sum() / totals["text"].clamp(min=1),
        "image": torch.where(image, losses, zero).sum() / totals["image"].clamp(min=1),
    }
    return terms["text"] + image_weight * terms["image"], terms

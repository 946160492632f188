"""What one can ask of a drawing: its settings, and its seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import SupportsIndex

import torch


@dataclass(frozen=True, kw_only=True)
class DrawingSettings:
    """How ids are sampled and painted; the defaults suit the demo."""

    temperature: float = 0.5
    """Of the ids; 0 takes the likeliest."""
    top_k: int | None = None
    """Sample among this many likeliest ids."""
    top_p: float | None = None
    """Sample among the likeliest ids that hold this much probability."""
    guidance_scale: float = 2.0
    """How far ids follow the words and the reference: 1 is no guidance."""
    decoder_guidance_scale: float = 3.0
    """How far the decoder follows the ids: 1 is no guidance."""
    reference_guidance_scale: float = 1.0
    """How far an edit keeps to its reference: 1 is no guidance."""
    num_steps: int = 20
    """Sampling steps of the decoder."""
    max_words: int = 64
    """Tokens that the model may say before it draws, if it was trained to say any."""

    def __post_init__(self):
        if self.num_steps < 1:
            raise ValueError(f"the decoder needs at least one step, got {self.num_steps}")
        if self.temperature < 0:
            raise ValueError(f"temperature must be 0 or more, got {self.temperature}")


def seeded(seed: int | Sequence[int] | None, count: int) -> list[torch.Generator] | None:
    """A generator for each of `count` pictures, of their own seeds or of those from `seed` on; None
    for None.

    Raises:
        ValueError: for another number of seeds.
    """
    if seed is None:
        return None
    if isinstance(seed, SupportsIndex):  # an integer, NumPy's among them
        seed = range(int(seed), int(seed) + count)
    if len(seed) != count:
        raise ValueError(f"{len(seed)} seeds were given for {count} pictures: give one for each")
    return [torch.Generator().manual_seed(int(own)) for own in seed]

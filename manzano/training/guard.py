"""The first loss of a run tells whether its weights were loaded, and read what they were made for.

A model that knows nothing gives ln(choices) nats for a prediction among so many, and the variance
of the target for a regression. Weights, tokenizer or normalisation that do not belong together give
far more: such a run stops before it has saved anything.
"""

import math
from collections.abc import Mapping

HEADROOM = 3.0
"""Nats above ln(choices): logits drawn at random with a deviation of 2.4 cost so much more."""


def know_nothing(choices: int) -> float:
    """The largest plausible cross-entropy, in nats, of a prediction among `choices`."""
    return math.log(choices) + HEADROOM


def check_first_step(figures: Mapping[str, float], ceilings: Mapping[str, float]) -> None:
    """Compares the figures of the first step, means over the global batch, with `ceilings`.

    Raises:
        ValueError: where one is above its ceiling.
    """
    for name, ceiling in ceilings.items():
        if figures[name] > ceiling:
            raise ValueError(
                f"{name} is {figures[name]:.2f} in the first step, above the {ceiling:.2f} that "
                "a model that knows nothing may give. Nothing was saved. Look whether the weights "
                "that the run starts from are the right ones and were all loaded (start, llm, "
                "vit_weights), whether text tokenizer, vision tokenizer and VAE are the ones they "
                "were trained with, and how pictures and latents are normalised. If all that is "
                "right, give --loop.guard=false."
            )

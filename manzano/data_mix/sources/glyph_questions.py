"""Questions about a glyph: what it is, its colour, its shape, its size."""

import random
from collections.abc import Iterator
from itertools import islice

from manzano.data_mix.schema import Sample
from manzano.data_mix.sources import glyphs

NAME = "glyph_questions"
LICENCE, ATTRIBUTION, PACKAGES = glyphs.LICENCE, glyphs.ATTRIBUTION, glyphs.PACKAGES

_NUM_TRAIN = 5000
_TEST_ROUNDS = 6


def samples(split: str, *, image_size: int, seed: int) -> Iterator[Sample]:
    """Four questions an image, of everything in `glyphs.shown` equally often."""
    rng = random.Random(f"{seed}/{NAME}/{split}")
    shown = glyphs.shown(split)
    count = _NUM_TRAIN if split == "train" else _TEST_ROUNDS * len(shown)
    for index, (colour, shape, size) in enumerate(islice(glyphs.shuffled_cycle(shown, rng), count)):
        pairs = [
            ("What is this?", glyphs.describe(colour, shape)),
            ("What colour is it?", colour),
            ("What shape is it?", shape),
            ("Is it small or large?", size),
        ]
        yield Sample(
            key=f"{NAME}-{split}-{index:05d}",
            task="understanding",
            turns=glyphs.question_turns(pairs),
            images=(
                glyphs.render(
                    shape, colour, size, image_size=image_size, **glyphs.random_place(rng)
                ),
            ),
            caption=glyphs.describe(colour, shape, size),
            source=NAME,
            licence=LICENCE,
            concept=f"glyph/{colour} {shape}",
            extra={"kinds": ["name", "colour", "shape", "size"]},
        )

"""Drawing: "Draw a small red heart." and the picture that was asked for."""

import random
from collections.abc import Iterator
from itertools import islice

from manzano.data_mix.schema import Sample, Turn
from manzano.data_mix.sources import glyphs

NAME = "drawing"
LICENCE, ATTRIBUTION, PACKAGES = glyphs.LICENCE, glyphs.ATTRIBUTION, glyphs.PACKAGES

TEMPLATES = ("Draw {}.", "{}", "Please draw {}.", "A picture of {}.")
_NUM_TRAIN = 4000


def samples(split: str, *, image_size: int, seed: int) -> Iterator[Sample]:
    """Train: everything in `glyphs.shown` equally often. Test: each of it once."""
    rng = random.Random(f"{seed}/{NAME}/{split}")
    wanted = glyphs.shown(split)
    if split == "train":
        wanted = list(islice(glyphs.shuffled_cycle(wanted, rng), _NUM_TRAIN))
    for index, (colour, shape, size) in enumerate(wanted):
        template = rng.choice(TEMPLATES) if split == "train" else TEMPLATES[0]
        caption = glyphs.describe(colour, shape, size)
        yield Sample(
            key=f"{NAME}-{split}-{index:05d}",
            task="generation",
            turns=(Turn(role="user", text=template.format(caption)),),
            target=glyphs.render(
                shape, colour, size, image_size=image_size, **glyphs.random_offset(rng)
            ),
            caption=caption,
            source=NAME,
            licence=LICENCE,
            concept=f"glyph/{colour} {shape}",
            extra={"colour": colour, "shape": shape, "size": size},
        )

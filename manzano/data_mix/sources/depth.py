"""Depth: shapes that hide one another, and how near each of them is, as a grey.

All shapes have one size in space, so that the nearer is the larger, and hides what is behind it.
The map shows inverse distance, which is in proportion to that size; the background is black, for
it is far away. No pixel is mixed of two shapes, so the map is exact.
"""

import math
import random
from collections.abc import Iterator
from typing import Any

from PIL import Image, ImageDraw

from manzano.data_mix.schema import Sample, Turn
from manzano.data_mix.sources import glyphs

NAME = "depth"
LICENCE = "CC0-1.0"
ATTRIBUTION = "Drawn by Manzano: plain shapes."
PACKAGES = ()

TEMPLATES = ("Show the depth.", "How far is everything? Draw the depth map.")
CORNERS = {"circle": 0, "square": 4, "triangle": 3}
"""0: round."""
BLACK: glyphs.Colour = (0, 0, 0)
FAR, NEAR = 0.3, 0.7
"""The diameter of the farthest and the nearest shape, as a fraction of the picture."""
_WHITE = 0.8
"""The diameter that is white in the map: none is larger."""
_LEAST = 0.02
"""The least part of the picture that a shape must show."""
_NUM_TRAIN, _NUM_TEST = 3000, 120

Scene = list[dict[str, Any]]
"""Shapes with colour, place (fractions of the picture) and diameter, from far to near."""


def samples(split: str, *, image_size: int, seed: int) -> Iterator[Sample]:
    """Two to four shapes a picture, no scene twice."""
    rng = random.Random(f"{seed}/{NAME}/{split}")
    for index in range(_NUM_TRAIN if split == "train" else _NUM_TEST):
        scene, background = random_scene(rng), rng.choice(glyphs.BACKGROUNDS)
        colours = [glyphs.COLOURS[item["colour"]] for item in scene]
        caption = f"the depth of {len(scene)} shapes"
        yield Sample(
            key=f"{NAME}-{split}-{index:05d}",
            task="editing",
            turns=(
                Turn(role="user", text=rng.choice(TEMPLATES)),
                Turn(role="assistant", text=caption),
            ),
            images=(paint(scene, colours, background, image_size),),
            target=paint(scene, [_shade(grey(s["diameter"])) for s in scene], BLACK, image_size),
            caption=caption,
            source=NAME,
            licence=LICENCE,
            concept=f"depth/{split} {index}",
            extra={"kind": "depth", "scene": scene},
        )


def random_scene(rng: random.Random) -> Scene:
    """Two to four shapes of other colours and sizes, none of which is hidden altogether."""
    side = 64
    while True:
        scene = _scene(rng)
        areas = regions(scene, side).histogram()[1 : len(scene) + 1]
        if min(areas) >= _LEAST * side**2:
            return scene


def _scene(rng: random.Random) -> Scene:
    """Diameters differ by a twelfth of the picture or more."""
    count = rng.randint(2, 4)
    colours = rng.sample(list(glyphs.COLOURS), count)
    step = (NEAR - FAR) / (count - 1)
    diameters = [FAR + step * (i + rng.uniform(-0.18, 0.18)) for i in range(count)]
    return [
        {
            "shape": rng.choice(list(CORNERS)), "colour": colour, "diameter": round(diameter, 3),
            "x": round(rng.uniform(0.25, 0.75), 3), "y": round(rng.uniform(0.25, 0.75), 3),
        }
        for colour, diameter in zip(colours, diameters, strict=True)
    ]  # fmt: skip


def grey(diameter: float) -> int:
    """How bright a shape of that diameter is in the map."""
    return round(255 * diameter / _WHITE)


def paint(
    scene: Scene, colours: list[glyphs.Colour], background: glyphs.Colour, image_size: int
) -> Image.Image:
    """The scene's shapes in the given colours; the later hide the earlier."""
    image = Image.new("RGB", (image_size, image_size), background)
    pen = ImageDraw.Draw(image)
    for item, colour in zip(scene, colours, strict=True):
        x, y, radius = (
            image_size * value for value in (item["x"], item["y"], item["diameter"] / 2)
        )
        if corners := CORNERS[item["shape"]]:
            turn = -math.pi / 2 + math.pi / corners * (corners % 2 == 0)
            angles = [turn + 2 * math.pi * corner / corners for corner in range(corners)]
            around = [(x + radius * math.cos(a), y + radius * math.sin(a)) for a in angles]
            pen.polygon(around, fill=colour)
        else:
            pen.circle((x, y), radius, fill=colour)
    return image


def regions(scene: Scene, image_size: int) -> Image.Image:
    """Which shape each pixel shows: mode "L", 1 for the first of the scene; 0 for none."""
    numbers = [_shade(number) for number in range(1, len(scene) + 1)]
    return paint(scene, numbers, BLACK, image_size).getchannel(0)


def _shade(value: int) -> glyphs.Colour:
    return value, value, value

"""Tiles: which grid a picture gets, and that nothing of it is lost or shown twice."""

import random
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from PIL import Image, ImageOps

from manzano.data_mix.masks import GREY
from manzano.data_mix.tiles import fit, grid, split

SIDE = 24


def noise(height: int, width: int) -> Image.Image:
    pixels = np.random.default_rng(height * width).integers(0, 256, (height, width, 3))
    return Image.fromarray(pixels.astype(np.uint8))


def shapes() -> list[tuple[int, int]]:
    rng = random.Random(0)
    found = [(rng.randint(1, 200), rng.randint(1, 200)) for _ in range(60)]
    edges = (1, SIDE - 1, SIDE, SIDE + 1, 2 * SIDE, 3 * SIDE, 3 * SIDE + 1)
    return [*found, *product(edges, edges), (40_000, 10), (10, 40_000), (40_000, 500)]


@pytest.mark.parametrize("max_tiles", [1, 2, 4, 5, 9, 16])
def test_the_grid_is_the_best_of_all(max_tiles):
    """Against a search through every grid, in the words of MM1.5."""
    every = [
        (r, c) for r, c in product(range(1, max_tiles + 1), repeat=2) if r * c <= max_tiles
    ]  # fmt: skip
    for height, width in shapes():
        rows, columns = grid(height, width, SIDE, max_tiles)
        assert rows * columns <= max_tiles
        cover = [(r, c) for r, c in every if r * SIDE >= height and c * SIDE >= width]
        if cover:
            padding = {g: g[0] * g[1] * SIDE**2 - height * width for g in cover}
            assert padding[rows, columns] == min(padding.values())
        else:
            scales = {
                (r, c): min(Fraction(r * SIDE, height), Fraction(c * SIDE, width)) for r, c in every
            }
            best = [g for g in every if scales[g] == max(scales.values())]
            assert (rows, columns) in best
            assert rows * columns == min(r * c for r, c in best)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((24, 24), (1, 1)), ((5, 7), (1, 1)), ((25, 24), (2, 1)), ((48, 48), (2, 2)),
     ((49, 30), (3, 2)), ((72, 72), (3, 3)), ((240, 240), (3, 3)), ((40_000, 10), (9, 1)),
     ((10, 40_000), (1, 9))],
)  # fmt: skip
def test_grids_of_well_known_pictures(shape, expected):
    assert grid(*shape, SIDE, 9) == expected


@pytest.mark.parametrize("shape", [(48, 48), (25, 24), (30, 61), (500, 90), (3, 50)])
def test_tiles_glued_together_are_the_picture_on_its_canvas(shape):
    """So every pixel of the canvas is in exactly one tile."""
    image = noise(*shape)
    rows, columns = grid(*shape, SIDE, 9)
    *tiles, overview = split(image, SIDE, 9)
    assert [tile.size for tile in [*tiles, overview]] == [(SIDE, SIDE)] * (rows * columns + 1)
    arrays = np.stack([np.asarray(tile) for tile in tiles])
    lines = arrays.reshape(rows, columns, SIDE, SIDE, 3).transpose(0, 2, 1, 3, 4)
    glued = lines.reshape(rows * SIDE, columns * SIDE, 3)
    assert np.array_equal(glued, np.asarray(fit(image, rows * SIDE, columns * SIDE)))
    assert overview.tobytes() == image.resize((SIDE, SIDE), Image.Resampling.BICUBIC).tobytes()


def test_a_picture_of_the_size_of_its_grid_is_cut_and_not_changed():
    image = noise(2 * SIDE, 3 * SIDE)
    tiles = split(image, SIDE, 6)[:-1]
    corners = [(left, top) for top in (0, SIDE) for left in (0, SIDE, 2 * SIDE)]
    assert [tile.tobytes() for tile in tiles] == [
        image.crop((left, top, left + SIDE, top + SIDE)).tobytes() for left, top in corners
    ]


@pytest.mark.parametrize("shape", [(60, 36), (30, 120), (200, 50)])
def test_a_picture_keeps_its_aspect_and_lies_on_grey(shape):
    rows, columns = grid(*shape, SIDE, 9)
    size = (columns * SIDE, rows * SIDE)
    canvas = fit(Image.new("RGB", shape[::-1], "red"), rows * SIDE, columns * SIDE)
    expected = ImageOps.pad(Image.new("RGB", shape[::-1], "red"), size, color=GREY)
    assert np.array_equal(np.asarray(canvas), np.asarray(expected))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (10, 24), (24, 24)])
def test_a_picture_no_larger_than_a_tile_is_itself(height, width):
    image = noise(height, width)
    assert split(image, SIDE, 9) == [image]


def test_one_tile_splits_nothing():
    image = noise(100, 90)
    assert split(image, SIDE, 1) == [image]


@pytest.mark.parametrize("shape", [(40_000, 10), (10, 40_000), (40_000, 500)])
def test_a_page_of_any_length_is_split(shape):
    *tiles, _ = split(Image.new("RGB", shape[::-1], "red"), SIDE, 9)
    shown = [any(p == (255, 0, 0) for _, p in tile.getcolors()) for tile in tiles]
    assert shown == [True] * 9


@pytest.mark.parametrize("max_tiles", [0, -4])
def test_less_than_one_tile_is_refused(max_tiles):
    with pytest.raises(ValueError, match=rf"max_tiles must be 1 .* got {max_tiles}"):
        grid(100, 100, SIDE, max_tiles)

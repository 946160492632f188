"""Large pictures as tiles, so that small print survives: image splitting (Manzano, Sec. 4.1.2).

The paper gives no rule and cites MM1.5, whose rule this is: a grid of tiles, each as large as the
ViT's square, and after them the whole picture as an overview.
"""

from fractions import Fraction
from itertools import product

from PIL import Image

from manzano.data_mix.masks import extend

Grid = tuple[int, int]
"""Rows and columns."""

WHOLE: Grid = (1, 1)
"""The grid of a picture that is not split."""


def check_max_tiles(max_tiles: int) -> None:
    """Raises ValueError for a number of tiles that is not at least 1."""
    if max_tiles < 1:
        raise ValueError(
            f"max_tiles must be 1 (pictures are not split) or more (MM1.5 trains with 9), "
            f"got {max_tiles}"
        )


def grid(height: int, width: int, side: int, max_tiles: int) -> Grid:
    """The grid that a picture is split into.

    Of the grids that cover the picture the one with the least padding, which is also the one with
    the fewest tiles; where none covers it, the one for which it is scaled down the least. A picture
    no larger than one tile is not split.

    Args:
        height, width: of the picture, in pixels.
        side: of a tile, in pixels.
        max_tiles: tiles that a grid may have, the overview not counted.

    Raises:
        ValueError: if max_tiles is less than 1.
    """
    check_max_tiles(max_tiles)
    # More rows or columns than cover the picture would hold nothing but padding.
    most_rows, most_columns = -(-height // side), -(-width // side)
    candidates = [
        (rows, columns)
        for rows in range(1, min(most_rows, max_tiles) + 1)
        for columns in range(1, min(most_columns, max_tiles // rows) + 1)
    ]

    def scale(rows: int, columns: int) -> Fraction:
        """By how much the picture is scaled to fit, 1 where it fits as it is."""
        return min(Fraction(1), Fraction(rows * side, height), Fraction(columns * side, width))

    return min(candidates, key=lambda found: (-scale(*found), found[0] * found[1]))


def split(image: Image.Image, side: int, max_tiles: int) -> list[Image.Image]:
    """The tiles of a picture in raster order, then the overview; the picture itself for `WHOLE`.

    The picture is scaled, its aspect kept, as large as fits the grid, and lies in the middle on
    grey. The overview is the picture stretched to a square, as pictures are that are not split.

    Args:
        image: RGB.
        side, max_tiles: see `grid`.
    """
    rows, columns = grid(image.height, image.width, side, max_tiles)
    if (rows, columns) == WHOLE:
        return [image]
    canvas = fit(image, rows * side, columns * side)
    corners = [(c * side, r * side) for r, c in product(range(rows), range(columns))]
    tiles = [canvas.crop((left, top, left + side, top + side)) for left, top in corners]
    return [*tiles, image.resize((side, side), Image.Resampling.BICUBIC)]


def fit(image: Image.Image, height: int, width: int) -> Image.Image:
    """The picture as large as fits height x width, its aspect kept, in the middle on grey."""
    scale = min(height / image.height, width / image.width)
    # A page of 40,000 x 10 pixels keeps at least one pixel across.
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return extend(image.resize(size, Image.Resampling.BICUBIC), height, width)[0]

"""Fixed pixel rules that read colour, shape and size off a drawn glyph; nothing is learned.

The background is the median colour of the picture's border, the glyph is what differs from it. Each
of the glyph's pixels votes for the nearest colour in CIELAB, black outlines apart. Its silhouette,
scaled to its bounding box, is compared with those of the true glyphs by intersection over union.
Where a picture may show several glyphs, each connected area is one: every true glyph is of one
piece. The rules know the palette and the shapes of `manzano.data_mix.sources.glyphs`, and no
picture.
"""

import itertools
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter
from scipy import ndimage

from manzano.data_mix.sources import glyphs

CHANCE = {
    "colour": 1 / len(glyphs.COLOURS),
    "shape": 1 / len(glyphs.SHAPES),
    "size": 1 / len(glyphs.SIZES),
}
"""What guessing reaches, by attribute."""

_FOREGROUND = 18.0
"""Distance from the background in CIELAB from which a pixel belongs to the glyph."""
_MIN_PIXELS = 0.01
"""The least part of the picture that counts as a glyph."""
_MIN_AREA = 0.004
"""The same where there may be several: half of the thinnest one at a quarter of its usual side."""
_TRIM = 0.004
"""The part of the glyph's pixels left outside its bounding box on each side: specks."""
_SOFTNESS = (0.0, 1.0, 2.0)
"""Templates are taken sharp and blurred (sigma in pixels of 72), as a decoder draws them."""
_GRID = 32
"""Side of the square in which silhouettes are compared."""
_SHADES = (1.0, 0.8)
"""Glyphs are filled with their colour and a darker shade of it."""


@dataclass(frozen=True, kw_only=True)
class Glyph:
    """What a picture shows, in the words of `glyphs.COLOURS`, `SHAPES` and `SIZES`."""

    colour: str
    shape: str
    size: str


@dataclass(frozen=True, kw_only=True)
class Found:
    """One of several glyphs, and its bounding box in pixels, right and bottom excluded."""

    colour: str
    shape: str
    left: int
    top: int
    right: int
    bottom: int


class GlyphJudge:
    """Reads the glyph off a picture of any size; the templates are rendered once, here."""

    def __init__(self) -> None:
        self.shapes: list[str] = []
        silhouettes = []
        for shape, size, softness in itertools.product(glyphs.SHAPES, glyphs.SIZES, _SOFTNESS):
            picture = glyphs.render(shape, "red", size)
            soft = picture.filter(ImageFilter.GaussianBlur(softness))
            self.shapes.append(shape)
            silhouettes.append(_silhouette(_foreground(_denoised(soft))))
        self.templates = np.stack(silhouettes)  # (templates, G, G)

    def __call__(self, picture: Image.Image) -> Glyph | None:
        """The glyph in the picture; None where nothing stands out from the background."""
        picture = _denoised(picture)
        mask = _foreground(picture)
        if mask.mean() < _MIN_PIXELS:
            return None
        return Glyph(
            colour=_colour(picture, mask),
            shape=self._shape(_silhouette(mask)),
            size=_size(mask),
        )

    def find(self, picture: Image.Image) -> list[Found]:
        """Every glyph in the picture, those that cover most pixels first."""
        picture = _denoised(picture)
        areas = np.zeros((picture.height, picture.width), dtype=np.int32)
        ndimage.label(_foreground(picture), structure=np.ones((3, 3)), output=areas)
        masks = [areas == number for number in range(1, areas.max() + 1)]
        masks = [mask for mask in masks if mask.mean() >= _MIN_AREA]
        found = []
        for mask in sorted(masks, key=lambda mask: -mask.sum()):
            left, top, right, bottom = _box(mask)
            colour, shape = _colour(picture, mask), self._shape(_silhouette(mask))
            found.append(
                Found(colour=colour, shape=shape, left=left, top=top, right=right, bottom=bottom)
            )
        return found

    def _shape(self, silhouette: np.ndarray) -> str:
        overlap = np.minimum(self.templates, silhouette).sum(axis=(1, 2))
        union = np.maximum(self.templates, silhouette).sum(axis=(1, 2))
        return self.shapes[int(np.argmax(overlap / union))]


def _denoised(picture: Image.Image) -> Image.Image:
    return picture.convert("RGB").filter(ImageFilter.MedianFilter(3))


def _lab(rgb: np.ndarray) -> np.ndarray:
    """8-bit sRGB (..., 3) to CIELAB (..., 3), white point D65."""
    value = rgb.astype(np.float64) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    xyz = linear @ to_xyz.T / np.array([0.9505, 1.0, 1.089])
    root = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    x, y, z = np.moveaxis(root, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def _foreground(picture: Image.Image) -> np.ndarray:
    """(H, W) bool: the pixels that are not background, single specks removed."""
    lab = _lab(np.asarray(picture.convert("RGB")))  # (H, W, 3)
    border = np.concatenate([lab[:2].reshape(-1, 3), lab[-2:].reshape(-1, 3)])
    sides = np.concatenate([lab[:, :2].reshape(-1, 3), lab[:, -2:].reshape(-1, 3)])
    background = np.median(np.concatenate([border, sides]), axis=0)
    mask = np.linalg.norm(lab - background, axis=-1) > _FOREGROUND
    smooth = Image.fromarray(mask.astype(np.uint8) * 255).filter(ImageFilter.MedianFilter(3))
    return np.asarray(smooth) > 0


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of all but a few of the mask's pixels; right and bottom excluded."""
    rows, columns = np.nonzero(mask)
    (left, right), (top, bottom) = (
        np.quantile(places, [_TRIM, 1 - _TRIM], method="nearest") for places in (columns, rows)
    )
    return int(left), int(top), int(right) + 1, int(bottom) + 1


def _silhouette(mask: np.ndarray) -> np.ndarray:
    """(G, G) in [0, 1]: the mask, its bounding box fitted into a square without distortion."""
    left, top, right, bottom = _box(mask)
    side = max(right - left, bottom - top)
    cut = Image.fromarray(mask.astype(np.uint8) * 255).crop((left, top, right, bottom))
    square = Image.new("L", (side, side))
    square.paste(cut, ((side - cut.width) // 2, (side - cut.height) // 2))
    return np.asarray(square.resize((_GRID, _GRID), Image.Resampling.BOX)) / 255.0


def _size(mask: np.ndarray) -> str:
    """The size whose longer side is nearest."""
    left, top, right, bottom = _box(mask)
    longer = max((right - left) / mask.shape[1], (bottom - top) / mask.shape[0])
    return min(glyphs.SIZES, key=lambda size: abs(glyphs.SIZES[size] - longer))


def _colour(picture: Image.Image, mask: np.ndarray) -> str:
    """The palette colour that most of the glyph's pixels are nearest to, black ones not counted."""
    pixels = _lab(np.asarray(picture.convert("RGB")))[mask]  # (M, 3)
    names = [name for name in glyphs.COLOURS for _ in _SHADES]
    shades = [np.array(colour) * shade for colour in glyphs.COLOURS.values() for shade in _SHADES]
    palette = _lab(np.stack([*shades, np.zeros(3)]))  # (2 * colours + 1, 3)
    nearest = np.linalg.norm(pixels[:, None] - palette, axis=-1).argmin(axis=1)
    chroma = np.linalg.norm(pixels[:, 1:], axis=-1)
    votes = np.bincount(nearest, weights=chroma**2, minlength=len(palette))[:-1]
    by_name = {name: votes[[n == name for n in names]].sum() for name in glyphs.COLOURS}
    return max(by_name, key=lambda name: by_name[name])

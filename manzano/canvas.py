"""A picture on its way through an edit: how large it is painted, what of it is shown and kept."""

import math
from dataclasses import dataclass

from PIL import Image

from manzano.data_mix.images import MAX_PIXELS
from manzano.data_mix.masks import extend, hide, keep

SMALLEST_SIDE = 256
"""Pixels: smaller pictures are painted as large as squares of this side, on which the decoder's
training begins (Manzano, Sec. 4.2.3)."""
LONGEST = 8
"""How many times longer than wide a picture may be that is painted."""


@dataclass(frozen=True, kw_only=True)
class Canvas:
    """What one edit starts from."""

    picture: Image.Image
    """RGB, of the size of the result; grey where it was extended."""
    mask: Image.Image | None
    """Mode "L", of the same size: white where it is painted anew. None: anywhere may change."""
    height: int
    """Of the painting, pixels: a multiple of what the decoder can paint."""
    width: int

    @property
    def shown(self) -> Image.Image:
        """What the model sees."""
        return self.picture if self.mask is None else hide(self.picture, self.mask)

    def finish(self, painted: Image.Image) -> Image.Image:
        """The result: the painting at the picture's size, and the picture where it is kept."""
        if painted.size != self.picture.size:
            painted = painted.resize(self.picture.size, Image.Resampling.BICUBIC)
        return painted if self.mask is None else keep(painted, self.picture, self.mask)


def make_canvas(
    picture: Image.Image,
    mask: Image.Image | None,
    size: tuple[int, int] | None,
    *,
    side: int,
    step: int,
) -> Canvas:
    """The canvas of an edit.

    Args:
        picture: RGB.
        mask: of the picture's size, as `load_mask` gives it.
        size: height and width of the result; None is the picture's own. A result of another shape
            holds the whole picture in its middle, and what is around it is painted anew.
        side: of the square that the decoder was trained to paint. Without `size`, larger pictures
            are painted on its area and scaled up.
        step: height and width of a painting are multiples of it, pixels.

    Raises:
        ValueError: for a size of less than one pixel, or a shape that cannot be painted.
    """
    height, width = (picture.height, picture.width) if size is None else size
    if min(height, width) < 1 or height * width > MAX_PIXELS:
        raise ValueError(
            f"height and width must be 1 or more, and {MAX_PIXELS:,} pixels at most in all, got "
            f"{height} and {width}"
        )
    if max(height, width) > LONGEST * min(height, width):
        raise ValueError(
            f"a picture of {height} x {width} (height x width) cannot be painted: one side may be "
            f"at most {LONGEST} times the other; crop it"
        )
    if size is None:
        area = min(max(height * width, min(SMALLEST_SIDE, side) ** 2), side**2)
    else:
        picture, mask = fit(picture, mask, height, width, step)
        area = height * width
    scale = math.sqrt(area / (height * width))
    rows, columns = (max(1, round(length * scale / step)) for length in (height, width))
    return Canvas(picture=picture, mask=mask, height=rows * step, width=columns * step)


def fit(
    picture: Image.Image, mask: Image.Image | None, height: int, width: int, step: int
) -> tuple[Image.Image, Image.Image | None]:
    """Picture and mask, scaled to fit into height x width and extended to it; stretched where less
    than `step` pixels are missing."""
    scale = min(height / picture.height, width / picture.width)
    inner = round(picture.width * scale), round(picture.height * scale)
    if width - inner[0] < step and height - inner[1] < step:
        inner = width, height
    inner = max(1, inner[0]), max(1, inner[1])
    picture = picture.resize(inner, Image.Resampling.BICUBIC)
    if mask is not None:
        # What white touches is painted, however small it becomes.
        mask = mask.resize(inner, Image.Resampling.BOX).point([0] + [255] * 255)
    if inner == (width, height):
        return picture, mask
    canvas, border = extend(picture, height, width)
    if mask is not None:
        border.paste(mask, ((width - inner[0]) // 2, (height - inner[1]) // 2))
    return canvas, border

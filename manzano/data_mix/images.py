"""One way to open an image, for the data, the processor and the command line alike.

Everything becomes RGB in the orientation a person sees. What cannot be shown faithfully is refused
with a sentence that says why; nothing is guessed.
"""

import io
import logging
import os
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

logger = logging.getLogger(__name__)

MAX_PIXELS = 100_000_000
"""Default limit on width x height: above it a file is refused before its pixels are decoded."""

ImageSource = str | os.PathLike[str] | bytes | Image.Image


def load_image(source: ImageSource, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Opens an image as RGB, 8 bits a channel, upright.

    Transparency is laid over white, 16-bit greys are scaled to 8 bits, CMYK and palettes are
    converted, the EXIF orientation is applied, and of an animation the first frame is taken (with a
    logged warning). Any shape is accepted, from one pixel up to `max_pixels` in all.

    Args:
        source: A path, the bytes of an image file, or a PIL image (whose pixels are not changed).
        max_pixels: Limit on width x height; Pillow's own (about 179 million) holds besides.

    Raises:
        ValueError: The file is missing, is not an image, is truncated or corrupt, or is too large.
    """
    name = _name(source)
    image = source if isinstance(source, Image.Image) else _open(source, name)
    width, height = image.size
    if width * height > max_pixels:
        raise ValueError(
            f"{name} has {width} x {height} pixels, more than the limit of {max_pixels:,}: "
            "scale it down or raise max_pixels"
        )
    if getattr(image, "n_frames", 1) > 1:
        logger.warning("%s is animated: only its first frame is used", name)
    try:
        image.load()
        return _to_rgb(ImageOps.exif_transpose(image))
    except (OSError, SyntaxError, EOFError, ValueError) as error:
        raise ValueError(f"{name} is a truncated or corrupt image: {error}") from error


def _name(source: ImageSource) -> str:
    if isinstance(source, bytes):
        return f"the image of {len(source)} bytes"
    if isinstance(source, Image.Image):
        return f"the image {getattr(source, 'filename', '') or source.mode}"
    return f"'{os.fspath(source)}'"


def _open(source: str | os.PathLike[str] | bytes, name: str) -> Image.Image:
    try:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read {name}: {error.strerror}") from error
    try:
        with warnings.catch_warnings():
            # Our own limit, checked before any pixel is decoded, replaces Pillow's warning.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(io.BytesIO(data))
    except Image.DecompressionBombError as error:
        raise ValueError(f"{name} is too large: {error}") from error
    except UnidentifiedImageError as error:
        raise ValueError(
            f"{name} is not an image that can be read; PNG, JPEG, WebP, GIF, BMP and TIFF can be"
        ) from error
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{name} is a truncated or corrupt image: {error}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I;16") or image.mode == "I":
        return Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8)).convert(
            "RGB"
        )
    if image.mode == "F":
        raise ValueError("floating-point pixels have no agreed range; convert to 8 bits first")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")

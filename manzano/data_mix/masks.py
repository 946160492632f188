"""Masks of edits: white where a picture is painted anew, black where it is kept to the pixel.

What is painted anew is hidden from the model, in training as in use, by grey: so any picture with
any mask is an example, and a hole inside a picture (inpainting) and one around it (outpainting) are
the same task.
"""

from PIL import Image, ImageOps

from manzano.data_mix.images import ImageSource, load_image

GREY = (127, 127, 127)


def load_mask(source: ImageSource, size: tuple[int, int]) -> Image.Image:
    """A mask as mode "L" with 0 and 255 alone.

    Args:
        source: As for `load_image`; transparent counts as white, as does what is lighter than grey.
        size: Width and height of the picture that it belongs to.

    Raises:
        ValueError: It cannot be read, has another size, or nothing in it is white.
    """
    mask = read_mask(source)
    for fault in mask_faults(mask, size):
        raise ValueError(fault)
    return mask


def read_mask(source: ImageSource) -> Image.Image:
    """As `load_mask`, of any size, and perhaps without anything white.

    Raises:
        ValueError: It cannot be read.
    """
    return load_image(source).convert("L").point([0] * 128 + [255] * 128)


def mask_faults(mask: Image.Image, size: tuple[int, int]) -> list[str]:
    """What is wrong with the mask of a picture of that width and height, in words."""
    faults = []
    if mask.mode != "L":
        faults.append(f'the mask has mode "{mask.mode}", not "L"')
    if mask.size != size:
        faults.append(
            f"the mask has {mask.width} x {mask.height} pixels and its picture "
            f"{size[0]} x {size[1]}: give a mask of the picture's size"
        )
    if mask.getbbox() is None:
        faults.append("nothing in the mask is white: white is what is painted anew")
    return faults


def hide(image: Image.Image, mask: Image.Image) -> Image.Image:
    """The picture with grey where the mask is white."""
    return Image.composite(Image.new("RGB", image.size, GREY), image, mask)


def keep(painted: Image.Image, image: Image.Image, mask: Image.Image) -> Image.Image:
    """What was painted where the mask is white, the picture itself elsewhere; all of one size."""
    return Image.composite(painted, image, mask)


def extend(image: Image.Image, height: int, width: int) -> tuple[Image.Image, Image.Image]:
    """The picture in the middle of a grey canvas, and the mask of what is new: for outpainting.

    Raises:
        ValueError: if the canvas is smaller than the picture along a side.
    """
    if height < image.height or width < image.width:
        raise ValueError(
            f"a canvas of {height} x {width} (height x width) cannot hold a picture of "
            f"{image.height} x {image.width}: outpainting makes pictures larger"
        )
    left, top = (width - image.width) // 2, (height - image.height) // 2
    border = (left, top, width - image.width - left, height - image.height - top)
    mask = ImageOps.expand(Image.new("L", image.size, 0), border, fill=255)
    return ImageOps.expand(image, border, fill=GREY), mask

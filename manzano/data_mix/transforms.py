"""Pictures to pixels in [-1, 1], the same for the ViT and the VAE."""

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

INTERPOLATION = v2.InterpolationMode.BICUBIC


def resize_transform(height: int, width: int) -> v2.Transform:
    """PIL RGB -> (3, height, width) uint8; other shapes are stretched."""
    resize = v2.Resize((height, width), interpolation=INTERPOLATION, antialias=True)
    return v2.Compose([v2.PILToTensor(), resize])


def normalize_transform() -> v2.Transform:
    """uint8 (..., 3, H, W) -> float32 in [-1, 1]."""
    return v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.5] * 3)])


def pixel_transform(size: int) -> v2.Transform:
    """PIL RGB -> (3, size, size) float32 in [-1, 1]; other shapes are stretched to the square."""
    return v2.Compose([resize_transform(size, size), normalize_transform()])


def crop_to_shape(image: Image.Image, height: int, width: int) -> Image.Image:
    """The largest part of the shape height : width, to the pixel, from the middle of a picture."""
    scale = min(image.height / height, image.width / width)
    rows, columns = max(1, round(height * scale)), max(1, round(width * scale))
    top, left = (image.height - rows) // 2, (image.width - columns) // 2
    return image.crop((left, top, left + columns, top + rows))


def to_image(pixels: Tensor) -> Image.Image:
    """(3, H, W) in [-1, 1], clipped, -> PIL RGB."""
    scaled = (pixels.detach().float().clamp(-1, 1) + 1) * 127.5
    return v2.functional.to_pil_image(scaled.round().to(torch.uint8).cpu())

"""Pictures to pixels: one size, [-1, 1], the same for the ViT and the VAE."""

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

INTERPOLATION = v2.InterpolationMode.BICUBIC


def pixel_transform(size: int) -> v2.Transform:
    """PIL RGB -> (3, size, size) float32 in [-1, 1]; other shapes are stretched to the square."""
    return v2.Compose(
        [
            v2.PILToTensor(),
            v2.Resize((size, size), interpolation=INTERPOLATION, antialias=True),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.5] * 3, [0.5] * 3),
        ]
    )


def to_image(pixels: Tensor) -> Image.Image:
    """(3, H, W) in [-1, 1], clipped, -> PIL RGB."""
    scaled = (pixels.detach().float().clamp(-1, 1) + 1) * 127.5
    return v2.functional.to_pil_image(scaled.round().to(torch.uint8).cpu())

"""Pictures as tensors, and how far two of them are apart."""

from collections.abc import Sequence

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor


def pixels(pictures: Sequence[Image.Image]) -> Tensor:
    """Pictures of one size as (B, 3, H, W) in [0, 1], float32."""
    sizes = {picture.size for picture in pictures}
    if len(sizes) != 1:
        raise ValueError(
            f"The pictures must have one size, got {sorted(sizes)}: resize them first."
        )
    array = np.stack([np.asarray(picture.convert("RGB")) for picture in pictures])
    return rearrange(torch.from_numpy(array), "b h w c -> b c h w").float() / 255


def psnr(pictures: Tensor, targets: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each picture, in dB; infinite for equal ones.

    Both (B, C, H, W), floating point, values in [0, 1]. Returns (B,) in float32.
    """
    if pictures.shape != targets.shape:
        raise ValueError(
            f"psnr compares pictures of one shape, got {tuple(pictures.shape)} and "
            f"{tuple(targets.shape)}: resize one of them first."
        )
    error = (pictures.float() - targets.float()).square().mean(dim=(1, 2, 3))  # (B,)
    return -10 * torch.log10(error)


def psnr_floor(targets: Tensor) -> Tensor:
    """The PSNR that filling each picture with its own mean colour reaches: (B, C, H, W) -> (B,)."""
    return psnr(targets.mean(dim=(2, 3), keepdim=True).expand_as(targets), targets)

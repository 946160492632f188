"""The VAE between pixels and latents: diffusers' AutoencoderKL, loaded, scaled and, if need be,
trained.

A pretrained VAE (FLUX.1-schnell's, SDXL's) is the better choice wherever one is at hand. The small
one that `VAEConfig` describes exists so that the whole model can be trained from nothing.

Pictures larger than 1024 x 1024 pixels, in area, pass through it in tiles, so that 2048 x 2048 take
the memory of one tile.

The decoder works on scaled latents, (z - shift_factor) * scaling_factor, whose mean is 0 and
deviation 1. Images are (B, 3, H, W) in [-1, 1], latents (B, C, H / f, W / f).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from manzano.load_report import strict_report
from manzano.weights import check_files, fetch

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

TILE = 1024
"""Pixels, side of a tile."""
WHOLE = 1.1 * TILE**2
"""Pixels that pass through the VAE at once: a tile's, and what rounded sides may add to them."""


@dataclass(frozen=True, kw_only=True)
class VAEConfig:
    """A convolutional VAE, small enough to train on a CPU by default."""

    block_out_channels: tuple[int, ...] = (16, 32, 64, 64)
    """Channels at each resolution, from full to latent: n entries shrink the image 2^(n-1)
    times."""
    latent_channels: int = 8
    """Channels of the latents."""
    layers_per_block: int = 1
    """Residual blocks at each resolution."""
    norm_num_groups: int = 8
    """Groups of every GroupNorm: a divisor of all channel counts."""
    mid_block_add_attention: bool = False
    """Attention at the latent resolution."""

    def __post_init__(self) -> None:
        uneven = [c for c in self.block_out_channels if c % self.norm_num_groups]
        if not self.block_out_channels or uneven:
            raise ValueError(
                f"block_out_channels must be multiples of norm_num_groups {self.norm_num_groups}, "
                f"got {self.block_out_channels}: change either."
            )

    @property
    def factor(self) -> int:
        """Pixels to a latent, along one side."""
        return 2 ** (len(self.block_out_channels) - 1)


def build_vae(config: VAEConfig) -> AutoencoderKL:
    """A new VAE with random weights."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL  # 4 s to import

    levels = len(config.block_out_channels)
    return AutoencoderKL(
        block_out_channels=config.block_out_channels,  # pyright: ignore
        down_block_types=("DownEncoderBlock2D",) * levels,  # pyright: ignore
        up_block_types=("UpDecoderBlock2D",) * levels,  # pyright: ignore
        latent_channels=config.latent_channels,
        layers_per_block=config.layers_per_block,
        norm_num_groups=config.norm_num_groups,
        mid_block_add_attention=config.mid_block_add_attention,
        scaling_factor=1.0,
        shift_factor=0.0,
    )


def vae_folder(source: str | Path) -> Path:
    """The folder with `config.json` and weights: `source` itself or, of a whole FLUX or Stable
    Diffusion repository, its `vae/`. A model of the Hugging Face hub is fetched into its cache.

    Raises:
        ValueError: if there is no VAE, or one of another class than AutoencoderKL.
    """
    wanted = ("config.json", "diffusion_pytorch_model.safetensors")
    root = fetch(source, (*wanted, *(f"vae/{name}" for name in wanted)))
    folder = next((f for f in (root, root / "vae") if (f / "config.json").is_file()), None)
    if folder is None:
        raise ValueError(
            f"There is no VAE in '{root}': expected a folder with the config.json and weights of a "
            "diffusers AutoencoderKL, as the vae stage exports or as downloaded from a model hub, "
            "or one that holds such a folder as vae/."
        )
    config = json.loads((folder / "config.json").read_text())
    others = config.get("architectures") or ["nothing known"]
    kind = config.get("_class_name") or " or ".join(others)
    if kind != "AutoencoderKL":
        raise ValueError(
            f"'{folder}' holds a {kind}, not an AutoencoderKL. The decoder works on latents with a "
            "mean and one scale and shift: give the VAE of FLUX.1, Stable Diffusion 1 to 3 or SDXL."
        )
    if config.get("latents_mean") or config.get("latents_std"):
        raise ValueError(
            f"'{folder}' scales each latent channel by itself (latents_mean, latents_std), which "
            "is not done here: give a VAE with one scaling_factor, such as FLUX.1's or SDXL's."
        )
    return folder


def load_vae(source: str | Path) -> AutoencoderKL:
    """The frozen VAE, in fp32, of a folder, of its repository, or of a name on the hub.

    What was loaded is logged.

    Raises:
        ValueError: as `vae_folder`; if files are not whole, or any weight is missing or left over.
    """
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    folder = vae_folder(source)
    check_files(folder)
    vae, info = AutoencoderKL.from_pretrained(  # pyright: ignore
        folder, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True
    )
    strict_report("VAE", str(folder), vae, info).log()
    return vae.eval().requires_grad_(False)


def pixels_per_latent(vae: AutoencoderKL) -> int:
    """f, pixels to a latent along one side."""
    return 2 ** (len(vae.config["block_out_channels"]) - 1)


@contextmanager
def _tiled(vae: AutoencoderKL, height: int, width: int) -> Iterator[None]:
    """diffusers' tiles, overlapping by a quarter, for a picture of more pixels than WHOLE."""
    vae.tile_sample_min_size = TILE  # diffusers' own is that of the training: 32 for our small VAE
    vae.tile_latent_min_size = TILE // pixels_per_latent(vae)
    if height * width > WHOLE:
        vae.enable_tiling()
    try:
        yield
    finally:
        vae.disable_tiling()


def _mode(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """The mode of the posterior, not yet scaled."""
    return vae.encode(images).latent_dist.mode()  # pyright: ignore


def _scaling(vae: AutoencoderKL) -> tuple[float, float]:
    """(shift, scale) of the config; older VAEs have no shift."""
    config = dict(vae.config)
    return config["shift_factor"] or 0.0, config["scaling_factor"]


@torch.no_grad()
def encode(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """Images (B, 3, H, W) in [-1, 1] -> scaled latents (B, C, H / f, W / f), without sampling."""
    shift, scale = _scaling(vae)
    with _tiled(vae, *images.shape[2:]):
        return (_mode(vae, images) - shift) * scale


@torch.no_grad()
def decode(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Scaled latents (B, C, h, w) -> images (B, 3, f h, f w), clamped to [-1, 1]."""
    shift, scale = _scaling(vae)
    height, width = (pixels_per_latent(vae) * side for side in latents.shape[2:])
    with _tiled(vae, height, width):
        return vae.decode(latents / scale + shift).sample.clamp(-1, 1)  # pyright: ignore


def vae_loss(
    vae: AutoencoderKL,
    images: Tensor,
    *,
    kl_weight: float = 1e-4,
    coarse_weight: float = 2.0,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of each sample (B,): l1 + mse + coarse_weight x coarse + kl_weight x KL per latent.

    The absolute error keeps edges and thin strokes sharp. The coarse term is that of 8 x 8 means:
    it gives areas their colour, which the other two leave for late in the training (docs/log.md).
    Also returns the terms, (B,) each: "l1", "mse", "coarse", "kl".
    """
    posterior = vae.encode(images).latent_dist  # pyright: ignore
    error = vae.decode(posterior.sample(generator)).sample - images  # pyright: ignore
    terms = {
        "l1": error.abs().mean(dim=(1, 2, 3)),
        "mse": error.square().mean(dim=(1, 2, 3)),
        "coarse": F.adaptive_avg_pool2d(error, (images.shape[2] // 8, images.shape[3] // 8))
        .abs()
        .mean(dim=(1, 2, 3)),
        "kl": posterior.kl() / posterior.mean[0].numel(),
    }
    loss = terms["l1"] + terms["mse"] + coarse_weight * terms["coarse"] + kl_weight * terms["kl"]
    return loss, terms


@torch.no_grad()
def estimate_scaling(vae: AutoencoderKL, batches: Iterable[Tensor]) -> None:
    """Write the shift and scale of the latents of these images (each (B, 3, H, W)) into the VAE's
    config.

    They are saved with it, so `encode` gives latents of mean 0 and deviation 1 ever after.
    """
    latents = torch.cat([_mode(vae, images).flatten() for images in batches])
    vae.register_to_config(
        shift_factor=latents.mean().item(), scaling_factor=1 / latents.std().item()
    )

"""Stage `vae`: an AutoencoderKL from nothing, where no pretrained one is given.

Small pictures are trained on crops: a convolutional VAE does not know where in the picture it is,
and a crop costs a fraction of the whole.
"""

from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor
from torchvision.utils import save_image

from manzano.data_mix.encoders import PictureBatch, PictureEncoder
from manzano.decoder.vae import VAEConfig, build_vae, decode, encode, estimate_scaling, vae_loss
from manzano.training.config import TrainConfig
from manzano.training.stages.data import DataConfig, open_loader


@dataclass(frozen=True, kw_only=True)
class Config(TrainConfig):
    """Training of a VAE."""

    data: DataConfig
    vae: VAEConfig = field(default_factory=VAEConfig)
    """Sizes."""
    image_size: int = 256
    """Pixels, side of the square."""
    crop: int = 0
    """Side of the crop of each picture that is trained on; 0 takes the whole picture."""
    kl_weight: float = 1e-6
    """Weight of the KL term per latent."""

    def __post_init__(self):
        for name, side in (("image_size", self.image_size), ("crop", self.crop)):
            if side % self.vae.factor:
                raise ValueError(
                    f"{name} is {side}; it must be a multiple of {self.vae.factor}, what the VAE "
                    "shrinks by."
                )
        if self.crop > self.image_size:
            raise ValueError(f"crop {self.crop} is larger than image_size {self.image_size}.")


class Stage:
    """Trains an AutoencoderKL and exports it, with the scale of its latents, for diffusers."""

    def __init__(self, config: Config):
        self.config = config
        self.model = build_vae(config.vae)
        self.model._no_split_modules = ["DownEncoderBlock2D", "UpDecoderBlock2D"]

    def batches(self, *, rank: int, world_size: int):
        encoder = PictureEncoder(self.config.image_size)
        return open_loader(
            self.config.data, encoder, seed=self.config.loop.seed, rank=rank, world_size=world_size
        )

    def targets(self, batch: PictureBatch) -> dict[str, int]:
        return {"samples": len(batch.pixels)}

    def loss(
        self, batch: PictureBatch, totals: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        losses, terms = vae_loss(
            self.model, self._crop(batch.pixels), kl_weight=self.config.kl_weight
        )
        metrics = {name: term.detach().sum() / totals["samples"] for name, term in terms.items()}
        return losses.sum() / totals["samples"], metrics

    def _crop(self, pixels: Tensor) -> Tensor:
        """The same random crop of all pictures, (B, 3, crop, crop)."""
        crop = self.config.crop or self.config.image_size
        top, left = torch.randint(self.config.image_size - crop + 1, (2,)).tolist()
        return pixels[..., top : top + crop, left : left + crop]

    def _pictures(self, batches: int) -> list[Tensor]:
        """A few batches of a stream of their own, so that the training stream is not touched."""
        loader = open_loader(
            replace(self.config.data, num_workers=0), PictureEncoder(self.config.image_size),
            seed=self.config.loop.seed + 1, rank=0, world_size=1,
        )  # fmt: skip
        device = next(self.model.parameters()).device
        return [batch.pixels.to(device) for batch in islice(loader, batches)]

    def ceilings(self) -> dict[str, float]:
        return {}  # always from random weights

    @torch.no_grad()
    def preview(self, directory: Path, step: int) -> None:
        """Pictures above their reconstructions."""
        pixels = self._pictures(1)[0][:16]
        rows = torch.cat([pixels, decode(self.model, encode(self.model, pixels))])
        directory.mkdir(parents=True, exist_ok=True)
        save_image(
            rows * 0.5 + 0.5, directory / f"reconstructions-{step:06d}.png", nrow=len(pixels)
        )

    def export(self, directory: Path) -> None:
        estimate_scaling(self.model, self._pictures(16))
        self.model.save_pretrained(directory)

"""Painter: ids to pictures, through DiT-Air and the VAE (Manzano, Sec. 3.2)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from manzano.canvas import Canvas
from manzano.data_mix.transforms import normalize_transform, resize_transform, to_image
from manzano.decoder.dit_air import DiTAir
from manzano.decoder.flow import resolution_shift
from manzano.decoder.sampling import sample, steps_made
from manzano.decoder.vae import decode, encode, pixels_per_latent
from manzano.drawing import DrawingSettings
from manzano.tokenizer.hybrid import HybridTokenizer
from manzano.watch import Watch


class Painter:
    """The image decoder.

    Args:
        vision: the tokenizer whose ids are painted.
        transformer: predicts the flow of latents.
        vae: latents to pixels.
        scheduler: flow-matching schedule.
    """

    def __init__(
        self,
        vision: HybridTokenizer,
        transformer: DiTAir,
        vae: AutoencoderKL,
        scheduler: FlowMatchEulerDiscreteScheduler,
    ):
        self.vision, self.transformer, self.vae = vision, transformer, vae
        self.scheduler = scheduler

    @property
    def side(self) -> int:
        """Side of the square that the decoder was trained to paint, pixels."""
        trained = dict(self.transformer.config).get("sample_size")
        return trained or self.vision.config.image_size

    @property
    def factor(self) -> int:
        """Pixels to a latent, along one side."""
        return pixels_per_latent(self.vae)

    @property
    def step(self) -> int:
        """Height and width of a painting are multiples of it, pixels."""
        return self.factor * self.transformer.patch_size

    def check_size(self, height: int, width: int) -> None:
        """Raises ValueError for a size that cannot be painted."""
        if min(height, width) < self.step or height % self.step or width % self.step:
            raise ValueError(
                f"height and width must be multiples of {self.step} pixels for this decoder, "
                f"got {height} and {width}"
            )

    @torch.no_grad()
    def paint(
        self,
        ids: Tensor,
        height: int,
        width: int,
        *,
        settings: DrawingSettings,
        generators: list[torch.Generator] | None = None,
        canvases: list[Canvas] | None = None,
        strength: float = 1.0,
        watch: Watch | None = None,
    ) -> list[Image.Image]:
        """ids (B, N) -> pictures of height x width pixels.

        Args:
            generators: of the noise, one for each picture.
            canvases: what is edited, for each picture.
            strength: see `sample`.

        Raises:
            ValueError: for a size that cannot be painted.
        """
        self.check_size(height, width)
        watch = watch or Watch(ids.device)
        self.scheduler.set_shift(resolution_shift(height, width))
        given = {}
        if canvases is not None:
            with watch.part("VAE encoder"):
                given = self.given_latents(canvases, height, width, strength)
        with watch.part("decoder", steps=steps_made(settings.num_steps, strength)) as on_step:
            latents = sample(
                self.transformer, self.scheduler, self.vision.embed_ids(ids),
                height=height // self.factor, width=width // self.factor,
                condition_grid=self.vision.grid, **given, strength=strength,
                guidance_scale=settings.decoder_guidance_scale,
                reference_guidance_scale=settings.reference_guidance_scale,
                num_steps=settings.num_steps, generator=generators, on_step=on_step,
            )  # fmt: skip
        with watch.part("VAE decoder"):
            return [to_image(pixels) for pixels in decode(self.vae, latents)]

    def given_latents(
        self, canvases: list[Canvas], height: int, width: int, strength: float
    ) -> dict[str, Tensor | None]:
        """What `sample` is told of the pictures that are edited: their latents, encoded once."""
        reference = self.latents([c.shown for c in canvases], height, width)
        known = mask = None
        if any(canvas.mask is not None for canvas in canvases):
            known = reference  # what is hidden leaves no trace at the edges of what is kept
            mask = torch.stack([self.latent_mask(c, reference.shape[-2:]) for c in canvases])
        if strength < 1:
            known = self.latents([c.picture for c in canvases], height, width)
        return {"reference_latents": reference, "known_latents": known, "paint_mask": mask}

    def latents(self, pictures: list[Image.Image], height: int, width: int) -> Tensor:
        """Pictures (RGB), stretched to height x width pixels -> latents (B, C, h, w)."""
        transform = v2.Compose([resize_transform(height, width), normalize_transform()])
        pixels = torch.stack([transform(p) for p in pictures])  # (B, 3, height, width)
        return encode(self.vae, pixels.to(self.transformer.device))

    def latent_mask(self, canvas: Canvas, size: Sequence[int]) -> Tensor:
        """(1, h, w) bool: latents of which any pixel is painted anew; all without a mask."""
        device = self.transformer.device
        if canvas.mask is None:
            return torch.ones(1, *size, dtype=torch.bool, device=device)
        white = v2.functional.pil_to_tensor(canvas.mask) > 0  # (1, H, W)
        return (F.adaptive_max_pool2d(white.float(), tuple(size)) > 0).to(device)

"""Stage `decoder`: DiT-Air learns to paint what ids say (Manzano, Sec. 4.2.3).

The ids come from the target picture itself, through the frozen tokenizer: no language model takes
part. Where the target edits another picture, that picture's latents are given too. Resolutions are
configurations of this stage; each starts from the one before.
"""

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.utils import save_image

from manzano.card import write_card
from manzano.data_mix.encoders import PictureBatch, PictureEncoder
from manzano.decoder.conditioning import corrupt_ids, keep_mask
from manzano.decoder.dit_air import DIT_AIR, DiTAir
from manzano.decoder.flow import flow_matching_loss, resolution_shift
from manzano.decoder.sampling import sample
from manzano.decoder.vae import decode, encode, load_vae
from manzano.tokenizer.hybrid import HybridTokenizer
from manzano.training.config import TrainConfig
from manzano.training.kept import Kept
from manzano.training.lora import Adapter, LoraConfig, add_lora, merged
from manzano.training.stages.data import DataConfig, open_loader


@dataclass(frozen=True, kw_only=True)
class Config(TrainConfig):
    """Training of the image decoder."""

    data: DataConfig
    tokenizer: str
    """Export folder of the tokenizer stage."""
    vae: str
    """Folder of an AutoencoderKL (diffusers), pretrained or exported by the vae stage."""
    start: str = ""
    """Export folder of a decoder to go on from, e.g. of the next lower resolution, in place of
    model."""
    model: dict = field(default_factory=lambda: {"preset": "L"})
    """Arguments of DiTAir, or {preset: S | B | L | XL | XXL} with others on top."""
    lora: LoraConfig = LoraConfig()
    """Small matrices in place of the decoder's own weights."""
    image_size: int = 256
    """Pixels, side of the square that is painted."""
    drop_condition: float = 0.1
    """Share of samples trained without ids, for classifier-free guidance."""
    drop_reference: float = 0.1
    """Share of edits trained without the reference, for guidance on it."""
    corrupt: float = 0.05
    """Share of ids moved by one FSQ step, since the language model's ids will not be perfect."""
    time_shift: float = 1.0
    """Factor on the shift of training times towards noise that goes with the image size; above 1,
    more of the training is about form and colour, which the ids decide, and less about texture."""
    keep_encoded: int = 0
    """Pictures whose ids and latents each rank keeps on its device once computed, since the parts
    that compute them are frozen; 0 computes them in every step. No smaller than the corpus,
    references counted: pictures beyond it are computed one by one."""
    num_steps: int = 25
    """Sampling steps of previews, and the default of the exported decoder."""
    guidance_scale: float = 2.0
    """Guidance of previews."""

    def __post_init__(self):
        if self.lora.rank and not self.start:
            raise ValueError("lora adapts a decoder that is on disk: give start, its folder.")


def build_decoder(settings: dict, *, in_channels: int, condition_width: int) -> DiTAir:
    """A DiTAir from its arguments or a preset.

    Raises:
        ValueError: for an unknown preset or argument.
    """
    settings = dict(settings)
    preset = settings.pop("preset", None)
    if preset is not None and preset not in DIT_AIR:
        raise ValueError(f"model.preset is {preset!r}; the presets are {', '.join(DIT_AIR)}")
    base = dict(DIT_AIR[preset]) if preset else {}
    try:
        return DiTAir(
            **{**base, **settings}, in_channels=in_channels, condition_width=condition_width
        )
    except TypeError as error:
        raise ValueError(f"model does not fit DiTAir: {error}") from error


class Stage:
    """Trains a DiTAir and exports it for diffusers."""

    def __init__(self, config: Config):
        self.config = config
        self.tokenizer = HybridTokenizer.load(config.tokenizer).eval().requires_grad_(False)
        self.vae = load_vae(config.vae)
        if config.start:
            self.model = DiTAir.from_pretrained(config.start, dtype=torch.float32)
        else:
            self.model = build_decoder(
                config.model, in_channels=self.vae.config["latent_channels"],
                condition_width=self.tokenizer.config.discrete_width,
            )  # fmt: skip
        self.adapter = None
        if config.lora.rank:
            self.adapter = Adapter.of(self.model, config.start)
            add_lora(self.model, config.lora)
        self.ids = Kept(self._compute_ids, config.keep_encoded)
        self.latents = Kept(partial(encode, self.vae), config.keep_encoded)
        self.shift = resolution_shift(config.image_size, config.image_size)

    def batches(self, *, rank: int, world_size: int):
        encoder = PictureEncoder(self.config.image_size, references=True)
        seed = self.config.loop.seed
        return open_loader(self.config.data, encoder, seed=seed, rank=rank, world_size=world_size)

    def targets(self, batch: PictureBatch) -> dict[str, int]:
        return {"samples": len(batch.pixels)}

    def _compute_ids(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, N), from the frozen tokenizer at its own size."""
        side = self.tokenizer.config.image_size
        if pixels.shape[-1] != side:
            pixels = F.interpolate(pixels, size=(side, side), mode="bicubic", antialias=True)
        return self.tokenizer.discrete(pixels)

    def _references(self, batch: PictureBatch, latents: Tensor) -> Tensor | None:
        """Latents of the references, shaped like the targets' `latents`, zeros where there is none;
        None if no sample of the batch is an edit."""
        if batch.reference is None:
            return None
        edits = batch.has_reference.nonzero().squeeze(1)
        found = self.latents(batch.reference[edits])
        return torch.zeros_like(latents).index_copy(0, edits, found)

    def loss(
        self, batch: PictureBatch, totals: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        device, count = batch.pixels.device, len(batch.pixels)
        self._place(device)
        with torch.no_grad():
            levels = self.tokenizer.config.levels
            ids = corrupt_ids(self.ids(batch.pixels), levels, self.config.corrupt)
            condition = self.tokenizer.embed_ids(ids)  # (B, N, D)
            latents = self.latents(batch.pixels)
            reference = self._references(batch, latents)
        kept = keep_mask(count, self.config.drop_reference).to(device)
        losses = flow_matching_loss(
            self.model, latents, condition, condition_grid=self.tokenizer.grid,
            reference_latents=reference,
            reference_mask=None if reference is None else batch.has_reference & kept,
            condition_mask=keep_mask(count, self.config.drop_condition).to(device),
            shift=self.shift * self.config.time_shift,
        )  # fmt: skip
        loss = losses.sum() / totals["samples"]
        return loss, {"flow": loss.detach()}

    def ceilings(self) -> dict[str, float]:
        return {"flow": 4.0}  # twice the variance of latents minus noise

    def _place(self, device: torch.device) -> None:
        for part in (self.tokenizer, self.vae):
            if next(part.parameters()).device != device:
                part.to(device)  # pyright: ignore[reportArgumentType]

    @torch.no_grad()
    def preview(self, directory: Path, step: int) -> None:
        """Pictures above what the decoder paints from their true ids."""
        from diffusers import FlowMatchEulerDiscreteScheduler

        loader = open_loader(
            replace(self.config.data, num_workers=0), PictureEncoder(self.config.image_size),
            seed=self.config.loop.seed + 1, rank=0, world_size=1,
        )  # fmt: skip
        batch = next(iter(loader)).to(self.model.device)
        pixels, has = batch.pixels[:16], batch.has_reference[:16]
        generator = torch.Generator(self.model.device).manual_seed(0)
        side = self.config.image_size // (2 ** (len(self.vae.config["block_out_channels"]) - 1))
        painted = sample(
            self.model, FlowMatchEulerDiscreteScheduler(shift=self.shift),
            self.tokenizer.embed_ids(self._compute_ids(pixels)),
            height=side, width=side, condition_grid=self.tokenizer.grid,
            guidance_scale=self.config.guidance_scale, num_steps=self.config.num_steps,
            generator=generator,
        )  # fmt: skip
        rows = torch.cat([pixels, decode(self.vae, painted)])
        directory.mkdir(parents=True, exist_ok=True)
        save_image(rows * 0.5 + 0.5, directory / f"painted-{step:06d}.png", nrow=len(has))

    def export(self, directory: Path) -> None:
        with merged(self.model):
            self.model.save_pretrained(directory)
        if self.adapter:
            self.adapter.save(self.model, directory / "adapter")
        metrics = Path(self.config.loop.output) / "metrics.jsonl"
        write_card(directory, library="diffusers", metrics=metrics)

"""Stage `decoder`: DiT-Air learns to paint what ids say (Manzano, Sec. 4.2.3).

The ids come from the target picture itself, through the frozen tokenizer: no language model takes
part. Where the target edits another picture, that picture's latents are given too. Resolutions are
configurations of this stage; each starts from the one before.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.utils import save_image

from manzano.card import write_card
from manzano.data_mix.encoders import BucketEncoder, PictureBatch, PictureEncoder
from manzano.data_mix.sizes import SQUARE, bucket_size
from manzano.decoder.conditioning import corrupt_ids, keep_mask
from manzano.decoder.dit_air import PRESETS, DiTAir
from manzano.decoder.flow import flow_matching_loss, resolution_shift
from manzano.decoder.sampling import sample
from manzano.decoder.vae import decode, encode, load_vae, pixels_per_latent
from manzano.load_report import strict_report
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
    model: dict[str, Any] = field(default_factory=lambda: {"preset": "L"})
    """Arguments of DiTAir, or {preset: S | B | L | XL | XXL | 0.9B | 1.75B | 3.52B} with others on
    top."""
    lora: LoraConfig = LoraConfig()
    """Small matrices in place of the decoder's own weights."""
    image_size: int = 256
    """Pixels, side of the square that is painted."""
    buckets: bool = False
    """Crop pictures to the nearest of the aspect ratios of data_mix/sizes.py, each of about the
    area of that square, in place of stretching them to it; a batch holds one ratio."""
    min_short_side: int = 0
    """Pixels; pictures whose shorter side has fewer are left out. 0 takes all."""
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
        if self.min_short_side < 0:
            raise ValueError(
                f"min_short_side is {self.min_short_side}; give pixels, or 0 to take all pictures"
            )

        if self.lora.rank and not self.start:
            raise ValueError("lora adapts a decoder that is on disk: give start, its folder.")


def build_decoder(settings: dict, *, in_channels: int, condition_width: int) -> DiTAir:
    """A DiTAir from its arguments or a preset.

    Raises:
        ValueError: for an unknown preset or argument.
    """
    settings = dict(settings)
    preset = settings.pop("preset", None)
    if preset is not None and preset not in PRESETS:
        raise ValueError(f"model.preset is {preset!r}; the presets are {', '.join(PRESETS)}")
    base = dict(PRESETS[preset]) if preset else {}
    try:
        return DiTAir(
            **{**base, **settings}, in_channels=in_channels, condition_width=condition_width
        )
    except TypeError as error:
        raise ValueError(f"model does not fit DiTAir: {error}") from error


def new_decoder(config: Config, vae: Mapping[str, Any], condition_width: int) -> DiTAir:
    """The decoder that `config` describes, for latents of the VAE with the configuration `vae`."""
    side = config.image_size // 2 ** (len(vae["block_out_channels"]) - 1)
    settings = {"rope_size": side, **config.model}
    return build_decoder(
        settings, in_channels=vae["latent_channels"], condition_width=condition_width
    )


def load_start(folder: str, *, in_channels: int, condition_width: int) -> DiTAir:
    """The exported decoder that training goes on from, in fp32.

    Raises:
        ValueError: if it was trained with another VAE or tokenizer than is given now, or its
            weights are not whole.
    """
    model, info = DiTAir.from_pretrained(  # pyright: ignore[reportGeneralTypeIssues]
        folder, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True
    )
    strict_report("decoder", folder, model, info).log()
    for name, found, what in (
        ("in_channels", in_channels, "the latents of vae have {} channels"),
        ("condition_width", condition_width, "the ids of tokenizer are embedded in {} numbers"),
    ):
        if model.config[name] != found:
            raise ValueError(
                f"start '{folder}' was trained with {name} {model.config[name]}, but "
                f"{what.format(found)}: give the vae and tokenizer that it was trained with"
            )
    return model


class Stage:
    """Trains a DiTAir and exports it for diffusers."""

    def __init__(self, config: Config):
        self.config = config
        self.tokenizer = HybridTokenizer.load(config.tokenizer).eval().requires_grad_(False)
        self.vae = load_vae(config.vae)
        factor = pixels_per_latent(self.vae)
        sizes = {
            "in_channels": self.vae.config["latent_channels"],
            "condition_width": self.tokenizer.config.discrete_width,
        }
        if config.start:
            self.model = load_start(config.start, **sizes)
        else:
            self.model = new_decoder(config, self.vae.config, sizes["condition_width"])
        self.adapter = None
        if config.lora.rank:
            self.adapter = Adapter.of(self.model, config.start)
            add_lora(self.model, config.lora)
        self.model.register_to_config(sample_size=config.image_size)
        self.encoder = self._encoder(factor * self.model.patch_size)
        self.ids = Kept(self._compute_ids, config.keep_encoded)
        self.latents = Kept(partial(encode, self.vae), config.keep_encoded)

    def _encoder(self, step: int) -> PictureEncoder:
        config = self.config
        bucket_size(SQUARE, config.image_size, step)  # refuses a side that does not divide
        options = {
            "references": True,
            "tokenizer_size": self.tokenizer.config.image_size,
            "min_short_side": config.min_short_side,
        }
        if config.buckets:
            return BucketEncoder(config.image_size, step=step, **options)
        return PictureEncoder(config.image_size, **options)

    def batches(self, *, rank: int, world_size: int):
        seed = self.config.loop.seed
        return open_loader(
            self.config.data, self.encoder, seed=seed, rank=rank, world_size=world_size
        )

    def targets(self, batch: PictureBatch) -> dict[str, int]:
        return {"samples": len(batch.pixels)}

    @torch.no_grad()
    def _compute_ids(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, N), from the frozen tokenizer."""
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
            ids = corrupt_ids(self.ids(batch.seen), levels, self.config.corrupt)
            condition = self.tokenizer.embed_ids(ids)  # (B, N, D)
            latents = self.latents(batch.pixels)
            reference = self._references(batch, latents)
        kept = keep_mask(count, self.config.drop_reference).to(device)
        losses = flow_matching_loss(
            self.model, latents, condition, condition_grid=self.tokenizer.grid,
            reference_latents=reference,
            reference_mask=None if reference is None else batch.has_reference & kept,
            condition_mask=keep_mask(count, self.config.drop_condition).to(device),
            shift=resolution_shift(*batch.pixels.shape[2:]) * self.config.time_shift,
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
        """Pictures above what the decoder paints from their true ids; edits apart, below their
        references."""
        directory.mkdir(parents=True, exist_ok=True)
        for batch in self._preview_batches():
            batch = batch.to(self.model.device)
            size, edits = "{}x{}".format(*batch.pixels.shape[2:]), batch.has_reference
            file = directory / f"painted-{step:06d}-{size}.png"
            self._save_painted(file, batch.pixels[~edits], batch.seen[~edits])
            if batch.reference is not None:
                file = directory / f"edited-{step:06d}-{size}.png"
                shown = batch.pixels[edits], batch.seen[edits], batch.reference[edits]
                self._save_painted(file, *shown)

    def _preview_batches(self) -> list[PictureBatch]:
        """The first batch of a stream of their own; with buckets one of another shape as well."""
        loader = open_loader(
            replace(self.config.data, num_workers=0), self.encoder,
            seed=self.config.loop.seed + 1, rank=0, world_size=1,
        )  # fmt: skip
        batches = iter(loader)
        first = next(batches)
        if not self.config.buckets:
            return [first]
        others = (b for b in islice(batches, 50) if b.pixels.shape[2:] != first.pixels.shape[2:])
        return [first, *islice(others, 1)]

    def _save_painted(
        self, file: Path, pixels: Tensor, seen: Tensor, reference: Tensor | None = None
    ) -> None:
        """Up to 16 pictures (B, 3, H, W), painted from the ids of what the tokenizer sees; none
        makes no file."""
        from diffusers import FlowMatchEulerDiscreteScheduler

        if not len(pixels):
            return
        pixels, seen = pixels[:16], seen[:16]
        reference = None if reference is None else reference[:16]
        (height, width), factor = pixels.shape[2:], pixels_per_latent(self.vae)
        latents = sample(
            self.model, FlowMatchEulerDiscreteScheduler(shift=resolution_shift(height, width)),
            self.tokenizer.embed_ids(self._compute_ids(seen)),
            height=height // factor, width=width // factor, condition_grid=self.tokenizer.grid,
            reference_latents=None if reference is None else encode(self.vae, reference),
            guidance_scale=self.config.guidance_scale, num_steps=self.config.num_steps,
            generator=torch.Generator(self.model.device).manual_seed(0),
        )  # fmt: skip
        shown = [pixels, decode(self.vae, latents)]
        rows = torch.cat(shown if reference is None else [reference, *shown])
        save_image(rows * 0.5 + 0.5, file, nrow=len(pixels))

    def export(self, directory: Path) -> None:
        with merged(self.model):
            self.model.save_pretrained(directory)
        if self.adapter:
            self.adapter.save(self.model, directory / "adapter")
        metrics = Path(self.config.loop.output) / "metrics.jsonl"
        write_card(directory, library="diffusers", metrics=metrics)

"""What the tokenizer, the VAE and the decoder keep of held-out pictures."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from manzano.data_mix.schema import read_samples
from manzano.data_mix.transforms import pixel_transform
from manzano.drawing import DrawingSettings, seeded
from manzano.eval.batches import batches
from manzano.eval.generation import through_vae
from manzano.eval.pixels import pixels, psnr, psnr_floor
from manzano.eval.record import CodeUse, Figure, Reconstruction
from manzano.pipeline import ManzanoPipeline
from manzano.tokenizer.fsq import code_usage

PICTURES = 64
"""Pictures reconstructed, half of them drawings, half results of edits."""
PICTURES_PER_SOURCE = 400
"""Pictures of each source whose codes are counted."""
SOURCES = ("easy_vqa", "glyph_questions", "reading", "charts", "drawing", "editing")


def held_out_pictures(folder: Path, limit: int) -> Iterator[Image.Image]:
    """Up to `limit` pictures of a source's test split: the one to be drawn, else the one shown."""
    for sample in islice(read_samples(folder, "test"), limit):
        yield sample.target or sample.images[0]


def reconstruction(
    pipeline: ManzanoPipeline, data: Path, *, seed: int
) -> tuple[list[Figure], list[Reconstruction]]:
    """PSNR of the VAE alone, and of the decoder that paints pictures from their own ids."""
    pictures = [
        picture
        for source in ("drawing", "editing")
        for picture in held_out_pictures(data / source, PICTURES // 2)
    ]
    painted = [
        picture
        for batch in batches(pictures, "painting")
        for picture in pipeline.painter.paint(
            image_ids(pipeline, batch),
            batch[0].height,
            batch[0].width,
            settings=DrawingSettings(),
            generators=seeded(seed, len(batch)),
        )
    ]
    round_trip = through_vae(pipeline, pictures)
    floor = float(psnr_floor(pixels(pictures)).mean())
    note = "floor: each picture's mean colour"
    figures = [
        Figure(
            name=name,
            label=label,
            value=float(psnr(pixels(made), pixels(pictures)).mean()),
            floor=floor,
            n=len(pictures),
            unit="dB",
            note=note,
        )
        for name, label, made in (
            ("vae_psnr", "VAE, there and back (PSNR)", round_trip),
            ("decoder_psnr", "Decoder, from a picture's own ids (PSNR)", painted),
        )
    ]
    return figures, [
        Reconstruction(picture=picture, vae=vae, decoder=decoder)
        for picture, vae, decoder in zip(pictures, round_trip, painted, strict=True)
    ]


@torch.no_grad()
def image_ids(pipeline: ManzanoPipeline, pictures: Sequence[Image.Image]) -> Tensor:
    """The ids (B, N) that the discrete adapter gives to pictures."""
    vision = pipeline.model.vision
    transform = pixel_transform(vision.config.image_size)
    return vision.discrete(torch.stack([transform(p) for p in pictures]).to(pipeline.device))


def code_use(pipeline: ManzanoPipeline, data: Path) -> CodeUse:
    """How much of the codebook the held-out pictures of all sources use."""
    pictures = [
        picture
        for source in SOURCES
        for picture in held_out_pictures(data / source, PICTURES_PER_SOURCE)
    ]
    size = pipeline.model.vision.config.codebook_size
    counts = torch.zeros(size)
    for batch in batches(pictures, "codes"):
        counts += torch.bincount(image_ids(pipeline, batch).flatten().cpu(), minlength=size)
    _, perplexity = code_usage(counts)
    return CodeUse(
        used=int((counts > 0).sum()), size=size, perplexity=float(perplexity), n=len(pictures)
    )

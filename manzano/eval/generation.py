"""Held-out pictures drawn and edited by the model, judged by fixed rules (`glyph_judge`)."""

from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

from PIL import Image

from manzano.data_mix.schema import Sample, read_samples
from manzano.data_mix.transforms import pixel_transform, to_image
from manzano.decoder.vae import decode, encode
from manzano.eval.batches import batches
from manzano.eval.editing import edit_success, kept_error
from manzano.eval.glyph_judge import CHANCE, Glyph, GlyphJudge
from manzano.eval.pixels import pixels
from manzano.eval.record import Drawing, Edit, Figure
from manzano.pipeline import ManzanoPipeline

ROUNDS = 2
"""Pictures drawn of each held-out prompt."""
MAX_EDITS = 128
"""Held-out edits made."""


def drawing(
    pipeline: ManzanoPipeline, data: Path, judge: GlyphJudge, *, seed: int
) -> tuple[list[Figure], list[Drawing]]:
    """Every held-out prompt, ROUNDS times; right in both colour and shape counts as correct."""
    samples = list(read_samples(data / "drawing", "test"))
    wanted = samples * ROUNDS
    drawn = in_batches(
        wanted,
        "drawing",
        lambda batch, first: pipeline.draw_batch(
            [sample.turns[0].text for sample in batch], seed=seed + first
        ),
    )
    seen = [judge(picture) for picture in drawn]
    hits = {
        attribute: [
            glyph is not None and getattr(glyph, attribute) == sample.extra[attribute]
            for glyph, sample in zip(seen, wanted, strict=True)
        ]
        for attribute in ("colour", "shape")
    }
    both = [all(pair) for pair in zip(*hits.values(), strict=True)]
    count = len(samples)
    drawings = [
        Drawing(
            prompt=sample.turns[0].text,
            pictures=tuple(drawn[index::count]),
            correct=tuple(both[index::count]),
        )
        for index, sample in enumerate(samples)
    ]
    return [_drawn(name, found) for name, found in hits.items()], drawings


def _drawn(attribute: str, hits: Sequence[bool]) -> Figure:
    return Figure(
        name=f"draw_{attribute}",
        label=f"Drawn in the right {attribute}",
        value=sum(hits) / len(hits),
        floor=CHANCE[attribute],
        target={"colour": 0.9, "shape": 0.7}[attribute],
        n=len(hits),
        note="pairs of colour and shape never seen in training; floor: chance",
    )


def editing(
    pipeline: ManzanoPipeline, data: Path, judge: GlyphJudge, *, seed: int
) -> tuple[list[Figure], list[Edit]]:
    """Held-out edits: was the change made, and was the rest left alone?"""
    samples = list(islice(read_samples(data / "editing", "test"), MAX_EDITS))
    edited = in_batches(
        samples,
        "editing",
        lambda batch, first: pipeline.edit_batch(
            [sample.images[0] for sample in batch],
            [sample.turns[0].text for sample in batch],
            seed=seed + first,
        ),
    )
    edits = [
        Edit(
            source=sample.images[0],
            instruction=sample.turns[0].text,
            edited=picture,
            target=target(sample),
            correct=succeeded(judge, picture, sample),
        )
        for sample, picture in zip(samples, edited, strict=True)
    ]
    copied = [succeeded(judge, sample.images[0], sample) for sample in samples]
    success = Figure(
        name="edit_success",
        label="Edits made, and nothing else of the glyph changed",
        value=sum(edit.correct is True for edit in edits) / len(edits),
        floor=sum(copied) / len(copied),
        target=0.7,
        n=len(edits),
        note="the result is a pair of colour and shape never seen in training; "
        "floor: the source, returned as it is",
    )
    return [success, _kept(pipeline, edits)], edits


def _kept(pipeline: ManzanoPipeline, edits: Sequence[Edit]) -> Figure:
    sources, targets = pixels([e.source for e in edits]), pixels([e.target for e in edits])
    error = kept_error(pixels([e.edited for e in edits]), source=sources, target=targets)
    round_trip = pixels(through_vae(pipeline, [e.source for e in edits]))
    return Figure(
        name="edit_kept_error",
        label="Mean error of pixels that an edit has to leave alone",
        value=float(error),
        floor=float(kept_error(round_trip, source=sources, target=targets)),
        n=len(edits),
        unit="of 1",
        lower_is_better=True,
        note="floor: the source through the VAE, which bounds the decoder; a copy has 0",
    )


def in_batches(
    samples: Sequence[Sample],
    what: str,
    make: Callable[[Sequence[Sample], int], list[Image.Image]],
) -> list[Image.Image]:
    """The pictures that `make` makes of each batch, given the place of its first sample."""
    pictures: list[Image.Image] = []
    for batch in batches(samples, what):
        pictures += make(batch, len(pictures))
    return pictures


def target(sample: Sample) -> Image.Image:
    """The picture that was to be made."""
    assert sample.target is not None  # the schema has seen to it
    return sample.target


def succeeded(judge: GlyphJudge, picture: Image.Image, sample: Sample) -> bool:
    """Whether a picture shows the glyph that the sample's edit asks for."""
    edit = sample.extra["edit"]
    return edit_success(judge(picture), source=Glyph(**edit["from"]), target=Glyph(**edit["to"]))


def through_vae(pipeline: ManzanoPipeline, pictures: Sequence[Image.Image]) -> list[Image.Image]:
    """Each picture encoded and decoded, without the image decoder."""
    transform = pixel_transform(pipeline.model.vision.config.image_size)
    return [
        to_image(decode(pipeline.vae, encode(pipeline.vae, pixel[None]))[0])
        for pixel in (transform(picture).to(pipeline.device) for picture in pictures)
    ]

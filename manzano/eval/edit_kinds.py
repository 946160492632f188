"""Edits of more kinds on held-out pictures: was what was asked for made, and how well?

Each kind has a fixed rule (`manzano.data_mix.sources`: inpainting, style, depth) and is measured
beside the trivial answer: a hole filled with the mean colour around it, a picture left as it is, a
map of one grey.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from manzano.data_mix.masks import keep
from manzano.data_mix.schema import Sample, read_samples
from manzano.data_mix.sources import depth, style
from manzano.eval.generation import in_batches, target, through_vae
from manzano.eval.glyph_judge import Glyph, GlyphJudge
from manzano.eval.record import Edit, Figure
from manzano.pipeline import ManzanoPipeline

Edits = dict[str, list[Edit]]
MAX_EDITS = 96
"""Held-out edits made of each source."""
SHADES = 255.0


def edit_kinds(
    pipeline: ManzanoPipeline, data: Path, judge: GlyphJudge, *, seed: int
) -> tuple[list[Figure], Edits]:
    """The figures of every kind, and the edits by kind; `data` is the corpus `editing`."""
    figures: list[Figure] = []
    edits: Edits = {}
    for name, measure in MEASURES.items():
        samples = list(islice(read_samples(data / name, "test"), MAX_EDITS))
        painted = paint(pipeline, samples, name, seed=seed)
        bound = through_vae(pipeline, [target(sample) for sample in samples])
        kinds: dict[str, list[int]] = {}
        for index, sample in enumerate(samples):
            kinds.setdefault(sample.extra["kind"], []).append(index)
        for kind, chosen in sorted(kinds.items()):
            own, made = [samples[i] for i in chosen], [painted[i] for i in chosen]
            best = [bound[i] for i in chosen]
            found, correct = measure(kind, own, made, best, judge)
            figures += found
            edits[kind] = [
                Edit(
                    source=sample.shown()[0], instruction=sample.turns[0].text, edited=picture,
                    target=target(sample), correct=right,
                )
                for sample, picture, right in zip(own, made, correct, strict=True)
            ]  # fmt: skip
    return figures, edits


def paint(
    pipeline: ManzanoPipeline, samples: Sequence[Sample], what: str, *, seed: int
) -> list[Image.Image]:
    """The model's edits; outside a mask they are the reference, to the pixel."""
    return in_batches(
        samples,
        what,
        lambda batch, first: pipeline.edit_batch(
            [sample.images[0] for sample in batch],
            [sample.turns[0].text for sample in batch],
            masks=[sample.mask for sample in batch],
            seed=seed + first,
        ),
    )


def error(picture: Image.Image, true: Image.Image, where: Image.Image | None = None) -> float:
    """Mean absolute difference in [0, 1], of all pixels or of those where a mask is white."""
    differences = np.abs(np.asarray(picture, float) - np.asarray(true, float)).mean(axis=-1)
    chosen = differences if where is None else differences[np.asarray(where) == 255]
    return float(chosen.mean()) / SHADES


def mean_fill(sample: Sample) -> Image.Image:
    """The reference with its hole in the mean colour of what is left of it."""
    assert sample.mask is not None
    picture = sample.images[0]
    left = np.asarray(picture)[np.asarray(sample.mask) == 0]
    red, green, blue = (round(value) for value in left.mean(axis=0).tolist())
    return keep(Image.new("RGB", picture.size, (red, green, blue)), picture, sample.mask)


def error_figure(name: str, label: str, errors: Sequence[Sequence[float]], floor: str) -> Figure:
    """Of the errors of the model, of the trivial answer and of the true picture through the VAE."""
    value, trivial, best = (float(np.mean(part)) for part in errors)
    return Figure(
        name=name, label=label, value=value, floor=trivial, n=len(errors[0]), unit="of 1",
        lower_is_better=True, note=f"floor: {floor}; the true picture through the VAE: {best:.3f}",
    )  # fmt: skip


def share_figure(
    name: str, label: str, hits: Sequence[bool], trivial: Sequence[bool], floor: str
) -> Figure:
    return Figure(
        name=name, label=label, value=float(np.mean(hits)), floor=float(np.mean(trivial)),
        n=len(hits), note=f"floor: {floor}",
    )  # fmt: skip


Measured = tuple[list[Figure], list[bool]]
Pictures = Sequence[Image.Image]


def fills(
    kind: str, samples: Sequence[Sample], made: Pictures, best: Pictures, judge: GlyphJudge
) -> Measured:
    """Inpainting and outpainting: is the whole glyph there, and how near is what was painted?"""
    plain = [mean_fill(sample) for sample in samples]
    glyphs = [Glyph(**sample.extra["shows"]) for sample in samples]
    hits, trivial = (
        [judge(picture) == glyph for picture, glyph in zip(pictures, glyphs, strict=True)]
        for pictures in (made, plain)
    )
    errors = [
        [error(picture, target(s), s.mask) for picture, s in zip(pictures, samples, strict=True)]
        for pictures in (made, plain, best)
    ]
    mean = "the mean colour of what is kept"
    return [
        share_figure(f"{kind}_glyph", f"{kind}: glyphs made whole", hits, trivial, mean),
        error_figure(f"{kind}_error", f"{kind}: mean error where it was painted", errors, mean),
    ], hits


def styles(
    kind: str, samples: Sequence[Sample], made: Pictures, best: Pictures, judge: GlyphJudge
) -> Measured:
    """Style: is the picture nearer to the rule that was asked for than to the others, and to the
    reference?"""
    copies = [sample.images[0] for sample in samples]
    hits = [nearest_style(p, s) == s.extra["style"] for p, s in zip(made, samples, strict=True)]
    trivial = [
        nearest_style(p, s) == s.extra["style"] for p, s in zip(copies, samples, strict=True)
    ]
    errors = [
        [error(picture, target(s)) for picture, s in zip(pictures, samples, strict=True)]
        for pictures in (made, copies, best)
    ]
    figures = [
        share_figure("style_rule", "style: the one asked for", hits, trivial, "a copy"),
        error_figure("style_error", "style: mean error", errors, "a copy"),
    ]
    for name in style.RULES:
        chosen = [i for i, sample in enumerate(samples) if sample.extra["style"] == name]
        if not chosen:
            continue
        own = [[part[i] for i in chosen] for part in errors]
        figures.append(error_figure(f"style_{name}_error", f"{name}: mean error", own, "a copy"))
    return figures, hits


def nearest_style(picture: Image.Image, sample: Sample) -> str:
    """The rule that makes of the reference what is nearest to the picture; "" for the reference."""
    reference = sample.images[0]
    made = {"": reference} | {name: rule(reference) for name, rule in style.RULES.items()}
    return min(made, key=lambda name: error(picture, made[name]))


def depths(
    kind: str, samples: Sequence[Sample], made: Pictures, best: Pictures, judge: GlyphJudge
) -> Measured:
    """Depth: is the nearer of two shapes the brighter one, and how near is the map?"""
    orders, trivial = (
        [ordered(p, s) for p, s in zip(pictures, samples, strict=True)]
        for pictures in (made, [sample.images[0] for sample in samples])
    )
    middle = round(float(np.median([np.asarray(target(sample)) for sample in samples])))
    constant = Image.new("RGB", made[0].size, (middle, middle, middle))
    errors = [
        [error(picture, target(s)) for picture, s in zip(pictures, samples, strict=True)]
        for pictures in (made, [constant] * len(samples), best)
    ]
    pairs, copied = ([pair for found in part for pair in found] for part in (orders, trivial))
    label = "depth: pairs of shapes in the right order"
    return [
        share_figure("depth_order", label, pairs, copied, "the brightness of the reference"),
        error_figure("depth_error", "depth: mean error", errors, "one grey, the median"),
    ], [all(found) for found in orders]


def ordered(picture: Image.Image, sample: Sample) -> list[bool]:
    """Of every two shapes, whether the nearer one is brighter, by their median."""
    scene: depth.Scene = sample.extra["scene"]
    where = np.asarray(depth.regions(scene, picture.width))
    grey = np.asarray(picture.convert("L"))
    shades = [float(np.median(grey[where == number])) for number in range(1, len(scene) + 1)]
    return [far < near for i, near in enumerate(shades) for far in shades[:i]]


Measure = Callable[[str, Sequence[Sample], Pictures, Pictures, GlyphJudge], Measured]
MEASURES: Mapping[str, Measure] = {"inpainting": fills, "style": styles, "depth": depths}
"""By source."""

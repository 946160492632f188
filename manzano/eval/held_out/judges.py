"""What held-out pictures are judged by: weights given by path, OCR engines, the VAE.

Measures of one picture stand in a row under their names, and again as `floor_NAME` for what a
trivial answer reaches and as `vae_NAME` for what the VAE's round trip leaves possible.
"""

import re
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from manzano.data_mix.images import load_image
from manzano.data_mix.schema import Sample
from manzano.data_mix.transforms import to_image
from manzano.decoder.vae import decode
from manzano.eval.editing import edit_scores
from manzano.eval.held_out.samples import HeldOut
from manzano.eval.pictures.layouts.layout import Item
from manzano.eval.provenance import fingerprint
from manzano.eval.samples import Record
from manzano.eval.scores import Score, mean_score
from manzano.pipeline import ManzanoPipeline

Row = dict[str, float]
QUOTED = re.compile(
    r'"(?P<double>[^"]+)"|“(?P<curly>[^”]+)”'
    r"|(?<!\w)'(?P<single>.+?)'(?!\w)|‘(?P<curled>.+?)’(?!\w)"
)
"""Quotation marks, which are no apostrophes: not those inside words or after them."""
LOWER_IS_BETTER = ("kept_error", "lpips")


def quoted_text(prompt: str) -> str:
    """All that stands in quotation marks, "" where no word does."""
    texts = [match[match.lastgroup or 0] for match in QUOTED.finditer(prompt)]
    return " ".join(text for text in texts if re.search(r"[^\W_]", text))


@dataclass(frozen=True, kw_only=True)
class Judges:
    """The networks that were asked for; loaded before anything is drawn, so that a missing file is
    known in time."""

    lpips: nn.Module | None
    inception: nn.Module | None
    engines: tuple[str, ...]
    """Which read the drawings."""
    settings: Record
    """Of a score file."""


def load_judges(arguments: Namespace, layout: HeldOut, items: Sequence[Item]) -> Judges:
    """The judges that the arguments ask for.

    Raises:
        ValueError: A file of weights or a package is missing, or the samples cannot be judged so.
    """
    perceptual = inception = None
    engines: tuple[str, ...] = ()
    settings: Record = {}
    if not (layout.edits or arguments.lpips or arguments.inception or arguments.text):
        raise ValueError(
            "drawings are scored by --text, --lpips FILE or --inception FILE: give one of them"
        )
    if arguments.text:
        engines = _engines(layout, items)
        settings["text"] = list(engines)
    distances = import_module("manzano.eval.distances")
    if arguments.lpips:
        name = arguments.lpips_network
        perceptual = distances.lpips_network(arguments.lpips, name).to(arguments.device)
        settings["lpips"] = {"network": name, "sha256": fingerprint(arguments.lpips)}
    if arguments.inception:
        if sum(not item.problem for item in items) < 2:
            raise ValueError("--inception compares sets: FID and KID need two samples or more")
        inception = distances.inception_network(arguments.inception).to(arguments.device)
        settings["inception"] = {"sha256": fingerprint(arguments.inception)}
    return Judges(lpips=perceptual, inception=inception, engines=engines, settings=settings)


def _engines(layout: HeldOut, items: Sequence[Item]) -> tuple[str, ...]:
    if layout.edits:
        raise ValueError("--text is of drawings: what an instruction quotes may be what is to go")
    if not any(quoted_text(item.prompt) for item in items):
        raise ValueError(
            f"--text reads what prompts have in quotation marks, and none of {layout.prompts} has "
            'any, as in: a sign that says "OPEN"'
        )
    ocr = import_module("manzano.eval.ocr")
    for engine in ocr.ENGINES:
        ocr.read_text([], engine)
    return tuple(ocr.ENGINES)


@dataclass(kw_only=True)
class Judging:
    """Scores of all pictures, gathered one by one."""

    layout: HeldOut
    pipeline: ManzanoPipeline
    judges: Judges
    seed: int
    rows: dict[str, Row] = field(default_factory=dict)
    """By sample."""
    refused: dict[str, str] = field(default_factory=dict)
    """Samples to which a measure does not apply, and why."""
    texts: dict[str, str] = field(default_factory=dict)
    """What was asked for."""
    reads: dict[str, list[str]] = field(default_factory=dict)
    """By engine, in the order of the texts."""
    features: dict[str, list[Tensor]] = field(default_factory=dict)
    """(1, F) each: of the "" pictures, the "floor_" and "vae_" ones and the "true" ones."""

    def judge(self, items: Sequence[Item], failed: Mapping[str, str]) -> dict[str, Score]:
        """The scores of all items, whose files are on disk.

        Samples that failed have changed nothing; what else is measured of them is measured on the
        black pictures in their place, if the samples themselves can be read.
        """
        whole = [item for item in items if not item.problem]
        for place, item in enumerate(whole):
            picture = load_image(self.layout.folder / self.layout.files(item)[0])
            self.look(item, picture, whole[(place + 1) % len(whole)])
        for key in failed:
            row = self.rows.setdefault(key, {})
            if self.layout.edits and ("changed" in row or key not in self.refused):
                row["changed"] = 0.0
        self.rate_texts()
        return self.means() | self.distances()

    def look(self, item: Item, picture: Image.Image, following: Item) -> None:
        """Measures one picture; a drawing's floor is the true picture of the following sample."""
        sample, row = self.layout.sample(item), {}
        if self.layout.edits:
            self._try(item.key, lambda: row.update(self.edit(sample, picture)))
        if self.judges.engines:
            self.read(item, picture)
        if self.judges.lpips or self.judges.inception:
            self._try(item.key, lambda: row.update(self.compare(sample, picture, following)))
        self.rows[item.key] = row

    def _try(self, key: str, measure: Callable[[], None]) -> None:
        try:
            measure()
        except ValueError as error:
            self.refused[key] = str(error)

    def edit(self, sample: Sample, picture: Image.Image) -> Row:
        source = sample.images[0]
        vae = round_trip(self.pipeline, source, sample.mask)
        return edit_scores(picture, source, round_trip=vae, target=sample.target, mask=sample.mask)

    def read(self, item: Item, picture: Image.Image) -> None:
        text = quoted_text(item.prompt)
        if not text:
            return
        read_text = import_module("manzano.eval.ocr").read_text
        self.texts[item.key] = text
        for engine in self.judges.engines:
            self.reads.setdefault(engine, []).extend(read_text([picture], engine))

    def compare(self, sample: Sample, picture: Image.Image, following: Item) -> Row:
        """LPIPS, and the features for FID and KID."""
        true = _target(sample)
        answers = {"": picture, "vae_": round_trip(self.pipeline, true)}
        if self.layout.edits:
            answers["floor_"] = sample.images[0]
        self._see({**answers, "true": true})
        if self.judges.lpips is None:
            return {}
        row = {f"{name}lpips": self._lpips(answer, true) for name, answer in answers.items()}
        other = self.layout.sample(following)
        if not self.layout.edits and other.key != sample.key:
            row["floor_lpips"] = self._lpips(picture, _target(other))
        return row

    def _lpips(self, picture: Image.Image, true: Image.Image) -> float:
        lpips = import_module("manzano.eval.distances").lpips
        picture = picture.resize(true.size, Image.Resampling.BICUBIC)
        return lpips([picture], [true], self.judges.lpips)[0]

    def _see(self, pictures: Mapping[str, Image.Image]) -> None:
        if self.judges.inception is None:
            return
        features = import_module("manzano.eval.distances").picture_features
        for name, picture in pictures.items():
            seen = features([picture], self.judges.inception)
            self.features.setdefault(name, []).append(seen)

    def rate_texts(self) -> None:
        """Adds what the engines read to the rows."""
        if not self.texts:
            return
        found = import_module("manzano.eval.ocr").text_scores(self.reads, list(self.texts.values()))
        for key, row in zip(self.texts, found, strict=True):
            self.rows[key] = {"agreed_words": row["agreed_words"], **row, **self.rows[key]}

    def means(self) -> dict[str, Score]:
        """The mean of each measure over the samples that have it."""
        names = dict.fromkeys(name for row in self.rows.values() for name in row)
        return {n: self._mean(n) for n in names if not n.startswith(("floor_", "vae_"))}

    def _mean(self, name: str) -> Score:
        """The VAE alone bounds how near a picture can come; of what was changed it is a floor, as
        it changes nothing that was asked for."""
        lower = name in LOWER_IS_BETTER
        floors, vae = self._bound(f"floor_{name}", self.floor), self._bound(f"vae_{name}", "vae")
        return mean_score(
            self._values(name),
            floors=floors if lower else floors | vae,
            ceilings=vae if lower else {},
            lower_is_better=lower,
        )

    @property
    def floor(self) -> str:
        return "copy_input" if self.layout.edits else "other_prompts"

    def _values(self, name: str) -> dict[str, float]:
        return {key: row[name] for key, row in self.rows.items() if name in row}

    def _bound(self, name: str, called: str) -> dict[str, float]:
        values = list(self._values(name).values())
        return {called: float(np.mean(values))} if values else {}

    def distances(self) -> dict[str, Score]:
        """FID and KID of all pictures against all true ones: no means, so without an interval."""
        if not self.features:
            return {}
        module = import_module("manzano.eval.distances")
        sets = {name: torch.cat(parts) for name, parts in self.features.items()}
        true = sets.pop("true")
        measures = {
            "fid": lambda features: module.fid(features, true),
            "kid": lambda features: module.kid(features, true, seed=self.seed)[0],
        }
        return {
            name: Score(
                value=measure(sets[""]), n=len(true), lower_is_better=True,
                floors={self.floor: measure(sets["floor_"])} if "floor_" in sets else {},
                ceilings={"vae": measure(sets["vae_"])},
            )
            for name, measure in measures.items()
        }  # fmt: skip


def round_trip(
    pipeline: ManzanoPipeline, picture: Image.Image, mask: Image.Image | None = None
) -> Image.Image:
    """A picture through the VAE at the size at which an edit of it is painted, and back to its own;
    where a mask keeps it, the picture itself.

    Raises:
        ValueError: The picture is too long to be painted.
    """
    canvas = pipeline.canvas(picture, mask, None)
    latents = pipeline.painter.latents([canvas.picture], canvas.height, canvas.width)
    return canvas.finish(to_image(decode(pipeline.vae, latents)[0]))


def _target(sample: Sample) -> Image.Image:
    assert sample.target is not None  # the schema has seen to it
    return sample.target

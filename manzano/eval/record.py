"""What a run has to show: the input of the report and of metrics.json.

Plain frozen data. Whoever evaluates a model fills a `Report`; `write_metrics` and
`manzano.eval.report.write_report` turn it into files. Pictures are RGB PIL images of any size.
"""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One measured number and what it has to be compared with."""

    name: str
    """Its key in metrics.json, e.g. "vqa_exact_match"."""
    label: str
    """Its name for readers, e.g. "Questions answered right"."""
    value: float
    n: int
    """Number of samples behind the value."""
    floor: float | None = None
    """What the trivial answer reaches."""
    target: float | None = None
    """What the run set out to reach."""
    unit: str = "share"
    """"share" (a number in [0, 1]), or a unit to print after the value, e.g. "dB"."""
    lower_is_better: bool = False
    note: str = ""
    """How the floor was obtained, or what bounds the value."""

    def __post_init__(self) -> None:
        for name in ("value", "floor", "target"):
            number = getattr(self, name)
            if number is not None and not math.isfinite(number):
                raise ValueError(f"Figure {self.name!r}: {name} is {number}, it must be finite.")
        if self.unit == "share" and not 0 <= self.value <= 1:
            raise ValueError(
                f"Figure {self.name!r}: a share lies in [0, 1], got {self.value}; "
                f"give the unit if it is something else."
            )

    @property
    def reached(self) -> bool | None:
        """Whether the target is met; None without a target."""
        if self.target is None:
            return None
        return self.value <= self.target if self.lower_is_better else self.value >= self.target


@dataclass(frozen=True, kw_only=True)
class StageRecord:
    """One trained stage."""

    name: str
    what: str
    """One phrase: what it learns."""
    parameters: int
    """Number of trained parameters."""
    steps: int
    samples: int
    """Samples seen, repetitions counted."""
    metrics: Path | None = None
    """The metrics.jsonl of the run: one JSON object a line, with "step"."""
    curves: tuple[str, ...] = ("loss",)
    """The keys of metrics.jsonl to draw, one chart each."""


@dataclass(frozen=True, kw_only=True)
class CodeUse:
    """How much of the FSQ codebook the discrete adapter uses."""

    used: int
    """Codes that occur at least once."""
    size: int
    perplexity: float
    """exp of the entropy of the code frequencies: the number of codes in effective use."""
    n: int
    """Pictures counted."""


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """A held-out picture, through the VAE alone, and drawn by the decoder from its true ids."""

    picture: Image.Image
    vae: Image.Image
    decoder: Image.Image


@dataclass(frozen=True, kw_only=True)
class Answer:
    picture: Image.Image
    question: str
    answer: str
    """The model's."""
    right_answer: str
    correct: bool


@dataclass(frozen=True, kw_only=True)
class Drawing:
    prompt: str
    pictures: tuple[Image.Image, ...]
    correct: tuple[bool, ...] = ()
    """The judge's verdict on each picture; empty if nothing judged them."""


@dataclass(frozen=True, kw_only=True)
class Edit:
    source: Image.Image
    instruction: str
    edited: Image.Image
    target: Image.Image
    correct: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything on the page. Empty parts are left out of it."""

    title: str
    summary: str
    """One or two sentences under the title."""
    figures: tuple[Figure, ...]
    stages: tuple[StageRecord, ...]
    wall_seconds: Mapping[str, float]
    """Wall time of every part of the run, in order: the stages by name, and data, evaluation..."""
    seed: int
    versions: Mapping[str, str]
    configs: Mapping[str, object]
    """The resolved config of each part, as plain JSON data."""
    codes: CodeUse | None = None
    reconstructions: tuple[Reconstruction, ...] = ()
    answers: tuple[Answer, ...] = ()
    drawings: tuple[Drawing, ...] = ()
    edits: tuple[Edit, ...] = ()
    remarks: tuple[str, ...] = ()
    """Sentences at the end: what the figures do not show."""

    def __post_init__(self) -> None:
        names = [figure.name for figure in self.figures]
        if len(names) != len(set(names)):
            raise ValueError(f"Two figures share a name: {sorted(names)}.")
        if missing := [s.name for s in self.stages if s.name not in self.wall_seconds]:
            raise ValueError(f"wall_seconds has no entry for the stages {missing}.")


def write_metrics(report: Report, path: Path) -> None:
    """Write metrics.json: each figure's name -> {value, floor, n}, and how they came about.

    Beside the figures stand "seed", "versions", "wall_seconds" and "configs". Written at once:
    a reader finds the whole file or none.
    """
    figures = {f.name: {"value": f.value, "floor": f.floor, "n": f.n} for f in report.figures}
    about = {
        "seed": report.seed,
        "versions": dict(report.versions),
        "wall_seconds": dict(report.wall_seconds),
        "configs": dict(report.configs),
    }
    write_atomically(path, json.dumps(figures | about, indent=2, allow_nan=False) + "\n")


def write_atomically(path: Path, text: str) -> None:
    """Write `text` as UTF-8 to a temporary file beside `path` and move it there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)

"""The demo's report: everything measured on held-out data, beside what was trained and shown.

What is shown is chosen by place in the test, before anything is measured, so right and wrong
answers appear as they come.
"""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from manzano.drawing import DrawingSettings
from manzano.eval.curves import read_series
from manzano.eval.generation import drawing, editing
from manzano.eval.glyph_judge import GlyphJudge
from manzano.eval.reconstruction import code_use, reconstruction
from manzano.eval.record import Report, StageRecord
from manzano.eval.understanding import understanding
from manzano.pipeline import ManzanoPipeline
from manzano.training.config import TrainConfig, to_dict

SEED = 0
"""Of the questions asked, of the ids drawn and of the decoder's noise."""
PACKAGES = (
    "torch", "torchvision", "transformers", "diffusers", "timm",
    "vector-quantize-pytorch", "megatron-energon", "tokenizers", "numpy", "pillow",
)  # fmt: skip
REMARKS = (
    "The answers, drawings, edits and reconstructions above were chosen by their place in the "
    "test, not by how well they came out; a tick or a cross says what the rules made of each.",
    "Drawings and edits are judged by fixed pixel rules that know the palette and the outlines, "
    "not by people: a picture may pass with flaws that you see at once.",
    "The pictures are small and of few kinds. The run shows that all parts train together from "
    "nothing; it says little of what the same code reaches on large data.",
)

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class TrainedStage:
    """A finished stage, for the report."""

    name: str
    what: str
    """One phrase: what it learns."""
    curves: tuple[str, ...]
    """The keys of metrics.jsonl to draw."""
    config: TrainConfig

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.config.loop.output)

    @property
    def metrics(self) -> Path:
        """The figures logged in training."""
        return self.folder / "metrics.jsonl"

    def seconds(self) -> float:
        """Time trained, interruptions left out."""
        return read_series(self.metrics, "seconds_elapsed")[-1][1]

    def record(self) -> StageRecord:
        """What the report says of it."""
        return StageRecord(
            name=self.name,
            what=self.what,
            parameters=trained_parameters(self.folder),
            steps=read_series(self.metrics, "seconds_elapsed")[-1][0],
            samples=samples_seen(self.metrics),
            metrics=self.metrics,
            curves=self.curves,
        )


def trained_parameters(folder: Path) -> int:
    """Number of parameters the optimizer of a finished run moved, from its last checkpoint."""
    last = max((folder / "checkpoints").glob("step-*/manifest.json")).parent
    entries = FileSystemReader(last / "state").read_metadata().state_dict_metadata
    moments = [
        entry.size.numel()
        for name, entry in entries.items()
        if name.endswith(".exp_avg") and isinstance(entry, TensorStorageMetadata)
    ]
    return sum(moments)


def samples_seen(metrics: Path) -> int:
    """Samples in all steps, from the logged rates and times."""
    ends = [seconds for _, seconds in read_series(metrics, "seconds_elapsed")]
    rates = [rate for _, rate in read_series(metrics, "samples_per_second")]
    starts = [0.0, *ends[:-1]]
    windows = (end - start for start, end in zip(starts, ends, strict=True))
    return round(sum(rate * window for rate, window in zip(rates, windows, strict=True)))


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """At most `count` items at equal distances, from the first on."""
    stride = max(1, -(-len(items) // count))
    return list(items[::stride])


def evaluate(
    model: Path, data: Path, stages: Sequence[TrainedStage], seconds: Mapping[str, float]
) -> Report:
    """Measures the Manzano folder `model` on the test splits in `data`.

    Args:
        stages: In the order in which they were trained.
        seconds: Wall time of the data and the stages so far.
    """
    records = tuple(stage.record() for stage in stages)
    versions = {"python": platform.python_version()} | {p: version(p) for p in PACKAGES}
    pipeline, judge = ManzanoPipeline.from_pretrained(model), GlyphJudge()
    understood, answers = understanding(pipeline, data, seed=SEED)
    drawn, drawings = drawing(pipeline, data, judge, seed=SEED)
    edited, edits = editing(pipeline, data, judge, seed=SEED)
    rebuilt, reconstructions = reconstruction(pipeline, data, seed=SEED)
    return Report(
        title="Manzano: the demo run",
        summary="One small model, trained from nothing on this machine, that answers questions "
        "about pictures, draws and edits. All figures are on held-out data.",
        figures=(*understood, *drawn, *edited, *rebuilt),
        stages=records,
        wall_seconds=seconds,
        seed=SEED,
        versions=versions,
        configs={stage.name: to_dict(stage.config) for stage in stages}
        | {"evaluation": to_dict(DrawingSettings())},
        codes=code_use(pipeline, data),
        reconstructions=tuple(spread(reconstructions, 8)),
        answers=tuple(answer for own in answers.values() for answer in own[:8]),
        drawings=tuple(spread(drawings, 16)),
        edits=tuple(edits[:16]),
        remarks=REMARKS,
    )

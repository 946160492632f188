"""The demo: from nothing to a report, on the machine it is started on.

    data -> vae -> vision -> tokenizer -> llm -> decoder -> Manzano folder -> evaluation

Given again, every step that is finished is passed over, so an interrupted demo goes on where it was
(delete report.html to evaluate the same model again). All lies in one folder, the one around the
llm stage's run folder; stages and data that another demo has made may stay in that one's:

    runs/demo/
      data/                    the corpus
      vae/ ... decoder/        a run folder a stage
      model/                   the Manzano folder
      report.html, metrics.json
      demo.json                time taken by each step, and what the last two were made from
"""

import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from manzano.eval.provenance import fingerprint
from manzano.training.command_line import parse
from manzano.training.stages import load_stage

logger = logging.getLogger(__name__)

STAGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "vae": ("pixels to latents and back", ("l1",)),
    "vision": ("the ViT tells captions apart", ("loss", "retrieval")),
    "tokenizer": ("two adapters speak to a language model", ("text", "code_perplexity")),
    "llm": ("answering, drawing, editing and prose in one model", ("text", "image")),
    "decoder": ("ids to pictures", ("flow",)),
}
"""In the order of training: what each stage learns, and which of its logged figures are drawn."""

READS = {"tokenizer": ("vision",), "llm": ("tokenizer",), "decoder": ("vae", "tokenizer")}
"""The stages whose exports a stage starts from."""


def run_demo(*configs: Path, data_limit: int | None = None) -> Path:
    """Runs every step that is not finished; returns the path of the report.

    Args:
        configs: Folders of the five stages' YAML files; the first that has a stage's file counts.
        data_limit: At most so many samples of a split of a source, for a quick look.

    Raises:
        ValueError: The configurations do not belong together, or a finished stage was made from an
            export that has been made anew since.
    """
    from manzano.assemble import assemble_folder
    from manzano.card import write_card
    from manzano.data_mix.build import build_demo
    from manzano.training import run

    files = {name: stage_file(configs, name) for name in STAGES}
    stages = {name: _read(file, name) for name, file in files.items()}
    folder, data, image_size = _shared(stages)
    diary = Diary(folder / "demo.json", steps=len(STAGES) + 3)

    with diary.step("data", "pictures, questions and prose from packages"):
        build_demo(data, image_size=image_size, limit=data_limit)
    for name, (what, _) in STAGES.items():
        with diary.step(name, what):
            _refuse_stale(name, stages)
            run(name, ["--config", str(files[name])])

    model = folder / "model"
    parts: dict[str, Any] = {name: _export(stages[name]) for name in ("llm", "decoder", "vae")}
    with diary.step("model", "one folder of all parts"):
        made_from = fingerprint(*parts.values())
        if diary.record.get("model") != made_from or not model.is_dir():
            assemble_folder(model, **parts)
            diary.note("model", made_from)

    report = folder / "report.html"
    with diary.step("evaluation", "held-out questions, drawings and edits"):
        measured = fingerprint(model, data / "BUILD.json")
        if diary.record.get("evaluation") == measured and report.is_file():
            return report
        _evaluate(model, data, stages, diary, report)
        write_card(model, library="transformers", metrics=report.with_name("metrics.json"))
        diary.note("evaluation", fingerprint(model, data / "BUILD.json"))
    return report


def _evaluate(
    model: Path, data: Path, stages: Mapping[str, Any], diary: "Diary", report: Path
) -> None:
    from manzano.eval.demo_report import TrainedStage, evaluate
    from manzano.eval.record import write_metrics
    from manzano.eval.report import write_report

    trained = [
        TrainedStage(name=name, what=what, curves=curves, config=stages[name])
        for name, (what, curves) in STAGES.items()
    ]
    seconds = {"data": diary.seconds["data"]} | {stage.name: stage.seconds() for stage in trained}
    started = time.perf_counter()
    result = evaluate(model, data, trained, seconds)
    seconds["evaluation"] = time.perf_counter() - started
    result = replace(result, wall_seconds=seconds)
    write_metrics(result, report.with_name("metrics.json"))
    write_report(result, report)
    for figure in result.figures:
        floor = "" if figure.floor is None else f"  (floor {figure.floor:.3f})"
        logger.info("%-24s %.3f%s", figure.name, figure.value, floor)


class Diary:
    """Announces steps, and remembers in a JSON file how long they took and what they were made of.

    A step that is passed over takes no time; the longest time counts.
    """

    def __init__(self, path: Path, *, steps: int):
        self.path = path
        self.steps = steps
        self.record: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        self.seconds: dict[str, float] = self.record.setdefault("seconds", {})
        self.started = time.perf_counter()
        self.number = 0

    @contextmanager
    def step(self, name: str, what: str) -> Iterator[None]:
        """A headline before the step, its time after it."""
        self.number += 1
        started = time.perf_counter()
        minutes, seconds = divmod(int(started - self.started), 60)
        logger.info(
            "%d/%d %s: %s (%d:%02d so far)", self.number, self.steps, name, what, minutes, seconds
        )
        yield
        self.seconds[name] = max(time.perf_counter() - started, self.seconds.get(name, 0.0))
        self._write()

    def note(self, name: str, value: str) -> None:
        """Remembers what a step was made from."""
        self.record[name] = value
        self._write()

    def _write(self) -> None:
        from manzano.eval.record import write_atomically

        write_atomically(self.path, json.dumps(self.record, indent=2) + "\n")


def stage_file(configs: Sequence[Path], stage: str) -> Path:
    """The stage's YAML file in the first folder that has one, else where it is missed first."""
    files = [folder / f"{stage}.yaml" for folder in configs]
    return next(filter(Path.is_file, files), files[0])


def _read(path: Path, stage: str) -> Any:
    """The configuration of a stage; a fault in it ends the program with one sentence."""
    return parse(load_stage(stage)[0], ["--config", str(path)], prog=f"train.py {stage}")


def _shared(stages: Mapping[str, Any]) -> tuple[Path, Path, int]:
    """The folder around the llm stage's run; what all stages share: the data, the image size."""
    sizes = {name: getattr(stage, "image_size", None) for name, stage in stages.items()}
    sizes["tokenizer"] = stages["tokenizer"].tokenizer.image_size
    values: dict[str, dict[str, Any]] = {
        "data.mixture.path": {name: stage.data.mixture.path for name, stage in stages.items()},
        "image_size": {name: size for name, size in sizes.items() if size},
    }
    for key, found in values.items():
        if len(set(found.values())) > 1:
            raise ValueError(f"the demo's stages must share one {key}, got {found}")
    return (
        Path(stages["llm"].loop.output).parent,
        Path(stages["vae"].data.mixture.path),
        stages["vae"].image_size,
    )


def _export(config: Any) -> Path:
    return Path(config.loop.output) / "export"


def _refuse_stale(name: str, stages: Mapping[str, Any]) -> None:
    """A finished stage is worth nothing once what it was made from has been made anew."""
    record = _export(stages[name]) / "training.yaml"
    for source in READS.get(name, ()):
        made_from = _export(stages[source]) / "training.yaml"
        if record.exists() and made_from.stat().st_mtime > record.stat().st_mtime:
            raise ValueError(
                f"{made_from.parent} was made after {record.parent}, which was made from an older "
                f"one: delete {record.parent.parent} to train the stage {name} again"
            )

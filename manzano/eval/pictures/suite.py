"""manzano eval --suite geneval|dpg|wise|...: pictures drawn or edited, laid out for the scorer.

scores.json             the score file
SUITE.jsonl             a line a prompt: seeds, files, why it failed if it did
SUITE/                  the official layout, and nothing else
"""

import hashlib
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from PIL import Image
from rich import get_console

from manzano.cli import drawing_settings
from manzano.configuration import ManzanoConfig
from manzano.data_mix.images import ImageSource, load_image
from manzano.drawing import DrawingSettings
from manzano.eval.pictures.files import is_whole, write
from manzano.eval.pictures.judges import JUDGES, PACKAGES, Scores, check_concepts, concept_prompts
from manzano.eval.pictures.layouts.layout import Item, Layout
from manzano.eval.pictures.layouts.registry import LAYOUTS, read_items
from manzano.eval.pictures.official_results import found_before, read_results
from manzano.eval.provenance import environment, fingerprint, model_name, model_record
from manzano.eval.samples import Record, SampleLog, each, run_logged
from manzano.eval.scores import ScoreFile, TaskScores, write_scores
from manzano.pipeline import ManzanoPipeline


def run(arguments: Namespace) -> Path:
    """Draws what is not drawn yet and writes the score file; with --results, reads scores into it.

    Raises:
        ValueError: if the prompts are another benchmark's or damaged, the model cannot draw, or a
            size cannot be painted or scored: before anything is drawn.
    """
    scores = arguments.output / "scores.json"
    if arguments.results is not None:
        read_results(arguments.suite, arguments.results, scores)
        return scores
    started = datetime.now(timezone.utc).isoformat(timespec="seconds")
    layout = open_layout(arguments)
    items = read_items(layout, arguments.limit)
    if layout.suite == "concepts":
        check_concepts(items)
    check_can_draw(Path(arguments.model))
    model = model_record(arguments.model)
    data = data_record(layout, arguments.limit)
    artist, log = draw_all(arguments, layout, items, model, data)
    records = log.records
    official = found_before(scores, layout.folder)
    judged = judge(items, layout)
    surroundings = environment(arguments.device, packages=PACKAGES.get(layout.suite, ()))
    write_scores(
        ScoreFile(
            suite=layout.suite, model=model, environment=surroundings, seed=arguments.seed,
            tasks=tasks(records, data | truth_record(layout), artist.record(), judged) | official,
            started=started, wall_seconds=log.seconds,
        ),
        scores,
    )  # fmt: skip
    say(layout.scorer(*artist.size), records)
    return scores


def draw_all(
    arguments: Namespace, layout: Layout, items: Sequence[Item], model: Record, data: Record
) -> tuple["Artist", SampleLog]:
    """Draws what is not drawn yet; returns who drew it, and the log with a record of each item.

    Raises:
        ValueError: if a size cannot be painted or scored, or other settings began the log.
    """
    if arguments.batch_size < 1:
        raise ValueError(f"--batch-size must be 1 or more, got {arguments.batch_size}")
    pipeline = ManzanoPipeline.from_pretrained(arguments.model, device=arguments.device)
    artist = Artist(
        pipeline=pipeline, layout=layout, output=arguments.output, seed=arguments.seed,
        size=checked_size(arguments, layout, pipeline), settings=drawing_settings(arguments),
        batch_size=arguments.batch_size,
    )  # fmt: skip
    log = SampleLog(
        arguments.output / f"{layout.suite}.jsonl",
        {"model": model["sha256"], "data": data, "seed": arguments.seed, **artist.record()},
        batch_size=max(1, arguments.batch_size // layout.per_prompt),
    )
    artist.mend(items, log)
    run_logged(items, log, artist.make, layout.suite)
    return artist, log


def open_layout(arguments: Namespace) -> Layout:
    """The layout of a suite, for these arguments.

    Raises:
        ValueError: if an argument is missing, or makes no sense for this suite.
    """
    kind, prompts = LAYOUTS[arguments.suite], arguments.prompts
    if prompts is None and arguments.suite == "concepts":
        prompts = concept_prompts(arguments.output / "prompts.jsonl")
    if prompts is None:
        raise ValueError(f"--suite {arguments.suite} needs --prompts {kind.expected}")
    return kind(
        prompts=prompts, images=arguments.images,
        folder=arguments.output / arguments.suite,
        model=model_name(arguments.model),
    )  # fmt: skip


def check_can_draw(folder: Path) -> None:
    """Raises ValueError for a Manzano folder that holds no image decoder or knows no image ids, and
    FileNotFoundError where there is none."""
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} is no Manzano folder: it has no config.json")
    config = ManzanoConfig.from_pretrained(folder)
    if config.joint_vocabulary.image_size == 0:
        raise ValueError(
            f"{folder} cannot draw: its vocabulary has no image ids. Give a model that was trained "
            "to draw"
        )
    missing = [part for part in ("transformer", "vae", "scheduler") if not (folder / part).is_dir()]
    if missing:
        raise ValueError(
            f"{folder} cannot draw: it lacks {', '.join(missing)}. Join it with an image "
            "decoder by `manzano assemble`"
        )


def checked_size(
    arguments: Namespace, layout: Layout, pipeline: ManzanoPipeline
) -> tuple[int, int]:
    """Height and width of drawings; for edits, of the black picture in place of one whose source
    cannot be read."""
    side = pipeline.painter.side
    height, width = arguments.height or side, arguments.width or side
    if layout.edits and (arguments.height or arguments.width):
        raise ValueError(
            f"--suite {layout.suite} takes no --height or --width: edits have the size of their "
            "sources"
        )
    pipeline.painter.check_size(height, width)
    layout.check_size(height, width)
    return height, width


def seed_of(seed: int, prompt: str, index: int) -> int:
    """The seed of picture `index` of a prompt: the same in any order, batch or part of the prompts.

    63 bits, which torch's generators take.
    """
    digest = hashlib.sha256(f"{seed}\n{index}\n{prompt}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def data_record(layout: Layout, limit: int | None) -> Record:
    """Which prompts were drawn: the hash of their files, and of the pictures that are edited."""
    return {
        "sha256": fingerprint(*layout.data_files()),
        "limit": limit,
    }


def truth_record(layout: Layout) -> Record:
    """What the drawings were judged by, other than their prompts; {} where there is nothing."""
    files = layout.truth_files()
    return {"truth_sha256": fingerprint(*files)} if files else {}


@dataclass(frozen=True, kw_only=True)
class Artist:
    """Draws or edits items, and lays them out."""

    pipeline: ManzanoPipeline
    layout: Layout
    output: Path
    seed: int
    size: tuple[int, int]
    settings: DrawingSettings
    batch_size: int

    def record(self) -> Record:
        """What two evaluations must share to be compared."""
        size = "the source's" if self.layout.edits else list(self.size)
        return {
            "prompt": "{prompt}",
            "chat_template": self.pipeline.processor.chat_template,
            "pictures": self.layout.per_prompt,
            "size": size,
            "drawing": asdict(self.settings),
        }

    def make(self, items: Sequence[Item]) -> list[Record]:
        """Draws the items, writes their files, and tells of each."""
        able = [item for item in items if not item.problem]
        units = [(item, index) for item in able for index in range(self.layout.per_prompt)]
        drawn: dict[tuple[str, int], Image.Image | ValueError] = {}
        for start in range(0, len(units), self.batch_size):
            part = units[start : start + self.batch_size]
            for (item, index), result in zip(part, each(self.draw, part), strict=True):
                drawn[item.key, index] = result
        indices = range(self.layout.per_prompt)
        return [
            self.lay_out(item, [drawn[item.key, i] for i in indices] if not item.problem else [])
            for item in items
        ]

    def draw(self, units: Sequence[tuple[Item, int]]) -> list[Image.Image]:
        """Pictures of one batch.

        Raises:
            ValueError: if one of them cannot be drawn.
        """
        prompts = [item.prompt for item, _ in units]
        seeds = [seed_of(self.seed, item.prompt, index) for item, index in units]
        sources: list[ImageSource] = [item.image() for item, _ in units if item.image]
        if sources:
            masks = [item.mask() if item.mask else None for item, _ in units]
            return self.pipeline.edit_batch(
                sources, prompts, masks=masks, seed=seeds, settings=self.settings
            )
        height, width = self.size
        return self.pipeline.draw_batch(
            prompts, height=height, width=width, seed=seeds, settings=self.settings
        )

    def lay_out(self, item: Item, results: Sequence[Image.Image | ValueError]) -> Record:
        """Writes an item's files, black pictures where it failed: scorers leave out what is not
        there, and would call the model better than it is."""
        errors = [str(result) for result in results if isinstance(result, ValueError)]
        error = item.problem or (errors[0] if errors else None)
        source = self.source(item)
        pictures = [result for result in results if isinstance(result, Image.Image)]
        if error:
            size = source.size if source else (self.size[1], self.size[0])
            pictures = [Image.new("RGB", size)] * self.layout.per_prompt
        names = self.layout.files(item)
        contents = self.layout.contents(item, pictures, source)
        for name, content in zip(names, contents, strict=True):
            write(self.layout.folder / name, content, self.output / ".partial")
        seeds = [seed_of(self.seed, item.prompt, i) for i in range(self.layout.per_prompt)]
        return {
            "key": item.key, "task": item.task, "group": item.group, "prompt": item.prompt,
            "seeds": seeds, "files": list(names), "error": error,
        }  # fmt: skip

    def source(self, item: Item) -> Image.Image | None:
        """The picture that is edited, black if it cannot be read; None for a drawing."""
        if item.image is None:
            return None
        try:
            return load_image(item.image())
        except ValueError:
            return Image.new("RGB", (self.size[1], self.size[0]))

    def mend(self, items: Sequence[Item], log: SampleLog) -> None:
        """Draws again, batch by batch as the first time, what is in the log but not whole on disk,
        be it that it was deleted or torn."""
        size, done = log.batch_size, len(log.records)
        for start in range(0, done if done == len(items) else done // size * size, size):
            batch = items[start : start + size]
            names = [name for item in batch for name in self.layout.files(item)]
            if not all(is_whole(self.layout.folder / name) for name in names):
                self.make(batch)


def judge(items: Sequence[Item], layout: Layout) -> Scores:
    """What can be scored here; nothing, and the reason is said, where a judge is not installed."""
    if layout.suite not in JUDGES:
        return {}
    try:
        return JUDGES[layout.suite](items, layout)
    except ValueError as error:
        tell(f"not scored here: {error}")
        return {}


def tasks(
    records: Sequence[Record], data: Record, settings: Record, judged: Scores
) -> dict[str, TaskScores]:
    """The tasks of a suite, in the order of their items; without scores where none can be had."""
    names = dict.fromkeys(record["task"] for record in records)
    return {name: _task(name, records, data, settings, judged.get(name, {})) for name in names}


def _task(name: str, records: Sequence[Record], data: Record, settings: Record, scores: Any):
    own = [record for record in records if record["task"] == name]
    return TaskScores(
        scores=scores,
        n=len(own),
        data=data,
        settings=settings,
        failed={record["key"]: record["error"] for record in own if record["error"]},
    )


def say(scorer: str, records: Sequence[Record]) -> None:
    """Tells what failed, and how the official scores are had."""
    failed = [record for record in records if record["error"]]
    for record in failed[:10]:
        tell(f"{record['key']}: {record['error']}")
    if failed:
        tell(f"{len(failed)} of {len(records)} prompts failed; black pictures stand for them")
    tell(scorer)


def tell(words: str) -> None:
    get_console().print(words, markup=False, highlight=False, soft_wrap=True)

"""The text-rich benchmarks in a folder: which are there, which files, which samples are asked."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manzano.eval.provenance import fingerprint
from manzano.eval.text_rich.hub_rows import HubRows
from manzano.eval.text_rich.tasks import TASKS, TextRichTask


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A task, its data, and how it is asked."""

    name: str
    task: TextRichTask
    rows: HubRows
    count: int
    """The first so many rows are asked."""
    prompt: str

    def describe(self, max_tiles: int) -> dict[str, Any]:
        """The settings of a score file."""
        settings = self.task.settings()
        return {
            "prompt": self.prompt,
            "question": self.task.spoken.__name__,
            "decoding": "greedy",
            "max_new_tokens": settings.max_new_tokens,
            "stop": list(settings.stop),
            "max_tiles": max_tiles,
        }

    def data(self) -> dict[str, Any]:
        """Which samples of which files."""
        return {
            "sha256": fingerprint(*self.rows.paths),
            "files": [path.name for path in self.rows.paths],
            "split": self.task.split,
            "rows": len(self.rows),
            "asked": self.count,
        }


def open_benchmarks(
    folder: Path, names: Sequence[str] = (), *, limit: int | None = None, prompt: str | None = None
) -> list[Benchmark]:
    """The benchmarks in a folder: one in each sub-folder of its name, or of one task the folder.

    Args:
        names: of `TASKS`; by default all that have a sub-folder.
        limit: of each the first so many samples.
        prompt: in place of the tasks' own, with {question} in it.

    Raises:
        ValueError: if there are none, or one lacks files or columns.
    """
    if unknown := [name for name in names if name not in TASKS]:
        raise ValueError(f"unknown tasks {', '.join(unknown)}: there are {', '.join(TASKS)}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be 1 or more, got {limit}")
    if prompt is not None and "{question}" not in prompt:
        raise ValueError(f"a prompt must have {{question}} in it, got {prompt!r}")
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}")
    names = names or [name for name in TASKS if (folder / name).is_dir()]
    if not names:
        raise ValueError(
            f"{folder} has no sub-folder called {', '.join(TASKS)}: make one for each benchmark, "
            "or name the one that the folder is of with --tasks"
        )
    return [open_benchmark(folder, name, len(names) == 1, limit, prompt) for name in names]


def open_benchmark(
    folder: Path, name: str, alone: bool, limit: int | None, prompt: str | None
) -> Benchmark:
    """One benchmark of `open_benchmarks`; `alone`, the folder may be its own."""
    task = TASKS[name]
    if (folder / name).is_dir():
        folder = folder / name
    elif not alone:
        raise ValueError(f"{folder} has no sub-folder {name}")
    if task.config and (folder / task.config).is_dir():
        folder = folder / task.config
    rows = HubRows(folder, task.split, ("question", task.answers, *task.columns))
    count = len(rows) if limit is None else min(limit, len(rows))
    return Benchmark(name=name, task=task, rows=rows, count=count, prompt=prompt or task.prompt)

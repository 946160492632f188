"""The log of an evaluation: a line a sample, written as it goes, so that a kill loses a batch.

    chartqa.jsonl          one JSON object a sample, in the order of the data
    chartqa.settings.json  what the lines were made with

A log goes on only with the settings it was begun with. Samples go in fixed batches, and a batch of
which lines are missing is done again whole: an interrupted evaluation sees the same batches, and
ends in the same answers, as one that was not.
"""

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rich import get_console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from manzano.eval.record import write_atomically

Item = TypeVar("Item")
Result = TypeVar("Result")
Record = dict[str, Any]


class SampleLog:
    """Records of samples on disk.

    Args:
        path: the .jsonl file; its folder is made.
        settings: all that decides what the lines hold, as JSON data.
        batch_size: samples that are done at a time.

    Raises:
        ValueError: if the log there was begun with other settings, or is damaged.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], *, batch_size: int):
        if batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more, got {batch_size}")
        self.path, self.batch_size = path, batch_size
        self.settings: Record = json.loads(json.dumps({**settings, "batch_size": batch_size}))
        self.records: list[Record] = []
        path.parent.mkdir(parents=True, exist_ok=True)
        begun = path.with_suffix(".settings.json")
        if path.exists() and begun.exists():
            self._refuse_other(json.loads(begun.read_text()))
            self.records = self._read()
        else:
            path.unlink(missing_ok=True)
            write_atomically(begun, json.dumps(self.settings, indent=1) + "\n")

    def _refuse_other(self, begun: Record) -> None:
        names = sorted(begun.keys() | self.settings.keys())
        differ = [name for name in names if begun.get(name) != self.settings.get(name)]
        if differ:
            was = ", ".join(f"{n} {begun.get(n)!r}, now {self.settings.get(n)!r}" for n in differ)
            raise ValueError(
                f"{self.path} was begun with other settings ({was}): give another output folder, "
                "or delete it to begin again"
            )

    def _read(self) -> list[Record]:
        lines = self.path.read_bytes().split(b"\n")[:-1]  # what follows the last newline is torn
        try:
            return [json.loads(line) for line in lines]
        except ValueError as error:
            raise ValueError(
                f"{self.path} is damaged ({error}): delete it to begin again"
            ) from error

    def keep(self, count: int) -> None:
        """Drops all records but the first `count`, and half a line that a kill may have left."""
        self.records = self.records[:count]
        write_atomically(self.path, "".join(map(_line, self.records)))

    def add(self, records: Sequence[Record]) -> None:
        """Appends the records of a batch and waits until they are on disk."""
        with self.path.open("ab") as file:
            file.write("".join(map(_line, records)).encode())
            file.flush()
            os.fsync(file.fileno())
        self.records += records

    @property
    def seconds(self) -> float:
        """Spent on the samples so far, over all runs."""
        return sum(record["seconds"] for record in self.records)


def _line(record: Record) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"


def run_logged(
    items: Sequence[Item],
    log: SampleLog,
    run: Callable[[Sequence[Item]], Sequence[Record]],
    what: str,
) -> list[Record]:
    """The records of all items: those in the log, and of the rest what `run` makes of a batch.

    Args:
        items: in an order that is the same each time; a slice of them is a batch.
        run: one record a sample, JSON data; "seconds", its share of the batch's time, is added.
        what: stands beside the progress bar.
    """
    size = log.batch_size
    done = len(log.records)
    log.keep(done if done == len(items) else done // size * size)
    columns = (TextColumn(f"{what:<12}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True, disable=not get_console().is_terminal) as progress:
        task = progress.add_task(what, total=len(items), completed=len(log.records))
        for start in range(len(log.records), len(items), size):
            batch, started = items[start : start + size], time.perf_counter()
            records = run(batch)
            if len(records) != len(batch):
                raise ValueError(f"{len(records)} records came of a batch of {len(batch)} samples")
            share = (time.perf_counter() - started) / len(batch)
            log.add([{**record, "seconds": round(share, 4)} for record in records])
            progress.update(task, completed=len(log.records))
    return log.records


def each(
    run: Callable[[Sequence[Item]], Sequence[Result]], items: Sequence[Item]
) -> list[Result | ValueError]:
    """What `run` makes of a batch; where it refuses one, halves of it are tried, so that in the end
    the faulty samples alone have an error in place of a result."""
    try:
        return list(run(items))
    except ValueError as error:
        if len(items) == 1:
            return [error]
    middle = len(items) // 2
    return each(run, items[:middle]) + each(run, items[middle:])

"""Evaluation goes through its samples in batches, with a bar on a terminal."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

from rich import get_console
from rich.progress import track

Item = TypeVar("Item")

BATCH = 64
"""Samples in a batch."""


def batches(items: Sequence[Item], what: str) -> Iterator[Sequence[Item]]:
    """The items, BATCH at a time; `what` stands beside the bar."""
    starts = range(0, len(items), BATCH)
    silent = not get_console().is_terminal
    for start in track(starts, description=f"{what:<12}", disable=silent, transient=True):
        yield items[start : start + BATCH]

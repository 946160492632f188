"""Following a drawing: seconds by part, of work that may run on a GPU, and bars of what goes on."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from rich.console import Console
from rich.progress import Progress


class Watch:
    """Times parts of the work, and shows how far they are.

    Args:
        device: a part ends when this device has done its work; to wait for that is all that timing
            costs.
        progress: whether parts of several steps show a bar, on stderr.

    Attributes:
        seconds: by part, in the order in which they first came.
    """

    def __init__(self, device: torch.device, *, progress: bool = False):
        self.device, self.progress = device, progress
        self.seconds: dict[str, float] = {}

    @contextmanager
    def part(self, name: str, steps: int = 0) -> Iterator[Callable[[], None]]:
        """Adds the time of the block to the part `name`; gives what to call after each step."""
        shown = self.progress and steps > 0
        started = self._now()
        with Progress(console=Console(stderr=True), transient=True, disable=not shown) as bars:
            bar = bars.add_task(name, total=steps)
            yield lambda: bars.advance(bar)
        self.seconds[name] = self.seconds.get(name, 0.0) + self._now() - started

    def summary(self) -> str:
        """A line for each part with its share, and the whole."""
        total = sum(self.seconds.values())
        rows = [*self.seconds.items(), ("total", total)]
        width = max(len(name) for name, _ in rows)
        return "\n".join(
            f"{name:<{width}} {seconds:9.3f} s {seconds / total if total else 0:7.1%}"
            for name, seconds in rows
        )

    def _now(self) -> float:
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)
        return time.perf_counter()

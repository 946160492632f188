"""Where the figures of a run go: metrics.jsonl always, TensorBoard if asked, and one line for the
person watching.

Only rank 0 writes. On a terminal the line is a rich progress bar, elsewhere one log line each time.
"""

import json
import logging
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

logger = logging.getLogger("manzano.training")


class RunLog:
    """The log of one run; a context manager."""

    def __init__(
        self,
        output: Path,
        step: int,
        max_steps: int,
        *,
        enabled: bool = True,
        tensorboard: bool = False,
    ):
        """Go on after `step`: what an earlier run logged beyond it is removed from
        metrics.jsonl."""
        self.enabled = enabled
        self.max_steps = max_steps
        self.path = output / "metrics.jsonl"
        self.writer: Any = None
        self.progress: Progress | None = None
        if not enabled:
            return
        output.mkdir(parents=True, exist_ok=True)
        _truncate(self.path, step)
        if tensorboard:
            self.writer = _summary_writer(output / "tensorboard", step)
        if sys.stderr.isatty():
            self.progress = _progress_bar()
            self.task = self.progress.add_task("", total=max_steps, completed=step, figures="")

    def __enter__(self) -> "RunLog":
        if self.progress:
            self.progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.progress:
            self.progress.stop()
        if self.writer:
            self.writer.close()

    def write(self, step: int, figures: dict[str, float]) -> None:
        """Log the figures of the steps up to `step`."""
        if not self.enabled:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **figures}) + "\n")
        if self.writer:
            for name, value in figures.items():
                self.writer.add_scalar(name, value, step)
        if self.progress:
            self.progress.update(self.task, completed=step, figures=_line(figures))
        else:
            logger.info("step %d/%d  %s", step, self.max_steps, _line(figures))


def _line(figures: dict[str, float]) -> str:
    """The figures as a person wants to read them: `loss 2.31  text 2.01  lr 0.0003  left
    0:12:05`."""
    parts = [
        f"{name} {value:.4g}" for name, value in figures.items() if not name.startswith("seconds_")
    ]
    minutes, seconds = divmod(int(figures["seconds_left"]), 60)
    hours, minutes = divmod(minutes, 60)
    return "  ".join([*parts, f"left {hours}:{minutes:02d}:{seconds:02d}"])


def _progress_bar() -> Progress:
    return Progress(
        BarColumn(bar_width=20),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[figures]}"),
    )


def _truncate(path: Path, step: int) -> None:
    """Keep the whole lines up to `step`; a killed run may have left a broken last one."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if not line.endswith("\n") or json.loads(line)["step"] > step:
            break
        kept.append(line)
    path.write_text("".join(kept), encoding="utf-8")


def _summary_writer(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(
            "loop.tensorboard is true and the package tensorboard is not installed: pip install "
            "tensorboard, or leave loop.tensorboard out; metrics.jsonl is always written."
        ) from error
    return SummaryWriter(str(folder), purge_step=step + 1)

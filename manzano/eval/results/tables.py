"""A comparison of two score files as tables on a terminal."""

from collections.abc import Sequence
from itertools import groupby

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from manzano.eval.results.compare import LEVEL, Change, Comparison, Difference, shown
from manzano.eval.scores import ScoreFile

STYLES = {"better": "green", "worse": "red", "within noise": "dim"}


def tables(comparison: Comparison) -> Group:
    """What differs in how the files came about, then their figures, task by task."""
    parts: list[RenderableType] = []
    if comparison.unlike:
        title = "Not alike: these figures answer different questions"
        parts.append(change_table(title, comparison.unlike))
    if comparison.told:
        parts.append(change_table("What differs", comparison.told))
    by_task = groupby(comparison.differences, key=lambda entry: entry.task)
    parts += [difference_table(task, tuple(entries)) for task, entries in by_task]
    return Group(*parts, Text(remarks(comparison.differences)))


def change_table(title: str, changes: Sequence[Change]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("", "A", "B"):
        table.add_column(name, overflow="fold")
    for change in changes:
        table.add_row(Text(change.what), Text(shown(change.a)), Text(shown(change.b)))
    return table


def difference_table(task: str, differences: Sequence[Difference]) -> Table:
    table = Table(title=Text(task), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("measure", overflow="fold")
    for name in ("A", "B", "B - A", "95 % interval", "n", "p"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("B is", overflow="fold")
    for entry in differences:
        table.add_row(
            Text(entry.measure),
            f"{entry.a:.4g}",
            f"{entry.b:.4g}",
            f"{entry.b - entry.a:+.3f}",
            Text("-" if entry.low is None else f"{entry.low:+.3f} to {entry.high:+.3f}"),
            f"{entry.n}{'' if entry.paired else '*'}",
            "-" if entry.p is None else f"{entry.p:.4f}",
            Text(entry.verdict, style=STYLES.get(entry.verdict, "yellow")),
        )
    return table


def remarks(differences: Sequence[Difference]) -> str:
    """How the tables are to be read."""
    tested = sum(entry.p is not None for entry in differences)
    lines = [
        f"{tested} comparisons; p is adjusted for them by Holm's method, and a difference counts "
        f"where it is below {LEVEL}. Intervals are 95 % each, not adjusted. The noise is that of "
        "the samples, not that of another training run."
    ]
    if not all(entry.paired for entry in differences):
        lines.append("* not paired: the files hold no scores of the same samples.")
    return "\n".join(lines)


def score_table(file: ScoreFile) -> Table:
    """All figures of a score file, with their floors."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("task", "measure", "value", "95 % interval", "floors", "n", "failed"):
        table.add_column(name, overflow="fold")
    for name, task in file.tasks.items():
        for measure, score in task.scores.items():
            between = "" if score.low is None else f"{score.low:.3f} to {score.high:.3f}"
            floors = ", ".join(f"{key} {value:.3f}" for key, value in score.floors.items())
            cells = (
                name, measure, f"{score.value:.3f}", between, floors, str(score.n),
                str(len(task.failed)),
            )  # fmt: skip
            table.add_row(*map(Text, cells))
    return table

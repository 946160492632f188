"""docs/results.md from score files: the paper's figures in one column, ours in another."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from manzano.eval.scores import Score, ScoreFile

PAPER = Path(__file__).with_name("paper_figures.yaml")
NOT_SCORED = "Not scored.\n"
_HEAD = """# Results

`manzano eval results` makes this page of the score files in `docs/scores`; do not edit it.
[evaluation_comparing.md](evaluation_comparing.md) says how two of them are compared.

The columns {models} are what the paper
({source}) reports of its own models, of 3 and 30
billion parameters, trained on data that are not public. "Ours" are models trained with this code,
of which the demo's has a few million parameters and has seen drawn pictures only. They stand side
by side so that larger runs can fill our column; today they cannot be compared. A figure of ours
stands beside the paper's only if it is of the whole benchmark; all of them are under
[Score files](#score-files), where values are shares of 1, but for measures that have a scale of
their own. The paper's Table 1, on kinds of tokenizers, is repeated at small scale in
`benchmarks/results/ablation.md`.
"""


def results_page(files: Mapping[str, ScoreFile]) -> str:
    """The page, as Markdown.

    Args:
        files: by the links that lead to them.
    """
    paper = yaml.safe_load(PAPER.read_text(encoding="utf-8"))
    parts = [_HEAD.format(models=" and ".join(paper["models"]), source=paper["source"])]
    parts += [paper_section(table, paper["models"], files) for table in paper["tables"]]
    parts.append("## Score files\n")
    parts += [file_section(link, files[link]) for link in sorted(files)] or ["None yet.\n"]
    return "\n".join(parts)


def paper_section(
    table: Mapping[str, Any], models: Sequence[str], files: Mapping[str, ScoreFile]
) -> str:
    percent = table["unit"] == "percent"
    scale, digits = (100, 1) if percent else (1, 2)
    rows = []
    for row in table["rows"]:
        begin = [row["benchmark"], *(f"{figure:.{digits}f}" for figure in row["figures"])]
        found = [
            [number(score.value * scale, digits), interval(score, scale, digits),
             bounds(score.floors, scale, digits), str(score.n), name]
            for name, score in ours(row, files)
        ]  # fmt: skip
        rows += [[*begin, *cells, row["split"]] for cells in found]
        if not found:
            rows.append([*begin, "not measured", "", "", "", "", row["split"]])
    head = ["benchmark", *models, "ours", "95 % interval", "floors", "n", "model", "our data"]
    unit = ", in percent" if percent else ""
    return f"## {table['title']} (the paper's {table['where']}{unit})\n\n{markdown(head, rows)}"


def ours(row: Mapping[str, Any], files: Mapping[str, ScoreFile]) -> Iterator[tuple[str, Score]]:
    """The model's name and the score of each file that has the whole benchmark."""
    for link in sorted(files):
        for name in row["task"]:
            task = files[link].tasks.get(name)
            if task is None or task.n != row["samples"]:
                continue
            score = task.scores.get(row.get("measure", next(iter(task.scores), "")))
            if score is not None:
                yield hashed_name(files[link]), score


def file_section(link: str, file: ScoreFile) -> str:
    """One score file: where its figures come from, and all of them."""
    commit = str(file.environment.get("commit") or "not known")
    about = (
        f"Model {hashed_name(file)}, way: {file.way}, {file.started[:10]}, "
        f"{file.environment.get('hardware', 'unknown hardware')}, "
        f"{file.wall_seconds / 60:.1f} minutes, seed {file.seed}, commit {commit[:12]}"
    )
    rows = [
        [task, name, number(score.value), interval(score), bounds(score.floors),
         bounds(score.ceilings), str(score.n), str(len(scores.failed))]
        for task, scores in file.tasks.items()
        for name, score in scores.scores.items()
    ]  # fmt: skip
    head = ["task", "measure", "value", "95 % interval", "floors", "ceilings", "n", "failed"]
    title = f"### [{Path(link).stem}]({link}): {file.suite}"
    return f"{title}\n\n{cell(about)}.\n\n{markdown(head, rows) if rows else NOT_SCORED}"


def hashed_name(file: ScoreFile) -> str:
    """Its name with the beginning of its hash."""
    return f"{file.model['name']} ({str(file.model['sha256'])[:8]})"


def interval(score: Score, scale: float = 1, digits: int = 3) -> str:
    if score.low is None or score.high is None:
        return ""
    return f"{number(score.low * scale, digits)} to {number(score.high * scale, digits)}"


def number(value: float, digits: int = 3) -> str:
    return f"{value:.{digits}f}"


def bounds(values: Mapping[str, float], scale: float = 1, digits: int = 3) -> str:
    """Floors or ceilings in one cell."""
    return ", ".join(f"{name} {number(value * scale, digits)}" for name, value in values.items())


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; every row has as many cells as the head."""
    lines = [head, ["---"] * len(head), *([cell(text) for text in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def cell(text: str) -> str:
    """On one line, and without what would end a cell."""
    return " ".join(text.split()).replace("|", "\\|")

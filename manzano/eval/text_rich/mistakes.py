"""mistakes.html: a page to leaf through what a model got wrong, and some of what it got right.

One file that needs nothing beside it. Pictures are scaled down and inline, so of each task at most
MISTAKES and RIGHT samples are on it, at equal distances; the logs have all.
"""

import base64
import io
import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path

from manzano.eval.record import write_atomically
from manzano.eval.samples import Record
from manzano.eval.scores import ScoreFile, TaskScores
from manzano.eval.text_rich.data import Benchmark

MISTAKES, RIGHT = 120, 30
SIDE = 768
"""Pixels of the longer side of a picture, at most."""


def write_mistakes(
    scores: ScoreFile,
    benchmarks: Sequence[Benchmark],
    records: Mapping[str, Sequence[Record]],
    path: Path,
) -> None:
    """Writes the page of an evaluation; `records` by the names of the benchmarks."""
    samples = [
        sample(benchmark, record)
        for benchmark in benchmarks
        for record in shown(records[benchmark.name])
    ]
    write_atomically(path, render(scores, samples))


def shown(records: Sequence[Record]) -> list[Record]:
    """What is shown of a task, in the order of the data."""
    wrong = [record for record in records if record["score"] < 1]
    right = [record for record in records if record["score"] == 1]
    return sorted(
        [*spread(wrong, MISTAKES), *spread(right, RIGHT)], key=lambda record: int(record["key"])
    )


def spread(records: Sequence[Record], most: int) -> Sequence[Record]:
    return records[:: math.ceil(len(records) / most) or 1]


def sample(benchmark: Benchmark, record: Record) -> Record:
    """What the page knows of a sample."""
    question, references = str(record.get("question", "")), record.get("references", [])
    said = {name: record[name] for name in ("part", "answer", "error") if name in record}
    sought = [question, *references, record.get("answer", ""), record.get("error", "")]
    return said | {
        "task": benchmark.name,
        "key": record["key"],
        "image": record["image"],
        "question": question,
        "references": references,
        "score": record["score"],
        "text": " ".join(filter(None, sought)).lower(),
        "picture": picture(benchmark, int(record["key"])),
    }


def picture(benchmark: Benchmark, place: int) -> str | None:
    """A sample's picture as a data URI; None where it cannot be read."""
    try:
        image = benchmark.rows.picture(place)
    except ValueError:
        return None  # the record says why
    image.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=80, subsampling=0, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def render(scores: ScoreFile, samples: Sequence[Record]) -> str:
    """The whole HTML document."""
    house, own = files("manzano.eval"), files("manzano.eval.text_rich")
    style = "".join(
        (folder / name).read_text(encoding="utf-8")
        for folder, name in ((house, "report.css"), (own, "mistakes.css"))
    )
    script = (own / "mistakes.js").read_text(encoding="utf-8")
    data = json.dumps(samples, ensure_ascii=False).replace("</", "<\\/")
    tasks = "".join(f"<option>{escape(name)}</option>" for name in scores.tasks)
    rows = "".join(task_row(name, task) for name, task in scores.tasks.items())
    asked = sum(task.n for task in scores.tasks.values())
    title = f"Mistakes: {', '.join(scores.tasks)}"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title><style>{style}</style></head>
<body class="mistakes"><main>
<header><h1>{escape(title)}</h1>
<p>{len(samples):,} of {asked:,} samples, chosen by their place in the data; the logs beside this
page have all. Model {escape(scores.model["name"])} ({escape(scores.model["sha256"][:12])}),
{escape(scores.started[:10])}.</p>
</header>
<section><table><thead><tr><th></th><th>score</th><th>95 % interval</th><th>floors</th>
<th>failed</th><th>n</th></tr></thead><tbody>{rows}</tbody></table></section>
<nav><button id="back" title="back" aria-label="back">&larr;</button><span id="count"></span>
<button id="on" title="on" aria-label="on">&rarr;</button>
<select id="task" aria-label="task"><option value="">all tasks</option>{tasks}</select>
<select id="verdict" aria-label="verdict"><option value="mistakes">mistakes</option>
<option value="wrong">quite wrong</option><option value="partly">right in part</option>
<option value="failed">failed</option><option value="right">right</option>
<option value="all">all</option></select>
<input id="words" type="search" placeholder="question, answer, reference" aria-label="search"></nav>
<article id="sample" aria-live="polite"></article>
<p class="hint"><kbd>&larr;</kbd> <kbd>&rarr;</kbd> leaf, <kbd>Page &darr;</kbd> ten on,
<kbd>/</kbd> search, <kbd>Enter</kbd> back to leafing</p>
</main><script type="application/json" id="samples">{data}</script><script>{script}</script>
</body></html>
"""


def task_row(name: str, task: TaskScores) -> str:
    """The quoted measure of a task."""
    measure, score = next(iter(task.scores.items()))
    floors = ", ".join(
        f"{floor.replace('_', ' ')} {value:.3f}" for floor, value in score.floors.items()
    )
    return (
        f'<tr><th scope="row">{escape(name)}<small>{escape(measure)}</small></th>'
        f'<td class="value">{score.value:.3f}</td><td>{score.low:.3f} to {score.high:.3f}</td>'
        f'<td class="floors">{escape(floors)}</td>'
        f"<td>{len(task.failed)}</td><td>{task.n:,}</td></tr>"
    )

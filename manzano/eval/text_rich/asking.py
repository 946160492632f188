"""Questions about pictures put to a model, and a record of each answer with its score.

A sample that cannot be asked (no picture, a broken one, no answer to compare with) counts as wrong
and is named; the others are unharmed.
"""

import hashlib
import logging
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from manzano.answering import AnswerSettings, Message
from manzano.eval.samples import Record, each
from manzano.eval.text_rich.data import Benchmark
from manzano.eval.text_rich.hub_rows import strings
from manzano.eval.text_rich.tasks import TextRichTask

logger = logging.getLogger(__name__)

Chat = Callable[[Sequence[Sequence[Message]], AnswerSettings], Sequence[str]]
"""Conversations to the answers in them: `ManzanoPipeline.chat_batch`."""


def ask(
    benchmark: Benchmark,
    chat: Chat,
    places: Sequence[int],
    *,
    pictures: Mapping[int, int] | None = None,
) -> list[Record]:
    """A record for each sample: what was asked and answered, and its score.

    Args:
        places: numbers of the rows.
        pictures: row -> the row whose picture is shown in place of its own.
    """
    records, conversations, open_ = [], [], []
    for place in places:
        record: Record = {"key": str(place), "image": benchmark.rows.name(place)}
        records.append(record)
        try:
            describe(record, benchmark.task, benchmark.rows.row(place))
            words = benchmark.task.asked(record["question"], benchmark.prompt)
            shown = pictures[place] if pictures else place
            record["image"] = benchmark.rows.name(shown)
            picture = benchmark.rows.picture(shown)
            record["picture"] = hashlib.sha256(picture.tobytes()).hexdigest()[:16]
            conversations.append([Message("user", (picture, words))])
            open_.append(record)
        except ValueError as error:
            fail(record, error)
    settings = benchmark.task.settings()
    said = each(lambda part: chat(part, settings), conversations) if conversations else []
    for record, answer in zip(open_, said, strict=True):
        if isinstance(answer, ValueError):
            fail(record, answer)
            continue
        record["answer"] = answer
        try:
            score = benchmark.task.score(answer, record["references"], record["columns"])
            record["score"] = float(score)
        except ValueError as error:
            fail(record, error)
    return records


def fail(record: Record, error: ValueError) -> None:
    """Counts as wrong, and says why."""
    record |= {"score": 0.0, "error": str(error)}


def describe(record: Record, task: TextRichTask, row: Mapping[str, Any]) -> None:
    """Adds question, further columns, part and references of a row to its record.

    Raises:
        ValueError: where one is missing or amiss; those before it are there.
    """
    names = ("question", task.answers, *task.columns)
    if missing := [name for name in names if name not in row]:
        raise ValueError(f"the sample lacks {', '.join(missing)}")
    if not isinstance(row["question"], str):
        kind = type(row["question"]).__name__
        raise ValueError(f"the question must be a text, got a {kind}")
    record["question"] = row["question"]
    record["columns"] = {name: str(row[name]) for name in task.columns}
    if task.part:
        record["part"] = task.part(record["columns"])
    record["references"] = strings(row[task.answers], task.answers)


def wrong_pictures(pictures: Sequence[str], seed: int) -> dict[int, int]:
    """For each row one with another picture, drawn at random, each once: what it is shown with.

    Args:
        pictures: what tells the picture of each row from others; rows may share one.

    Raises:
        ValueError: if more than half of the rows share a picture, or there is one row alone.
    """
    most = max(Counter(pictures).values())
    if 2 * most > len(pictures):
        raise ValueError(
            f"a floor of shuffled images needs other pictures to show: {most} of {len(pictures)} "
            "samples are about the same one. Leave out --floors, or give more samples"
        )
    chance = random.Random(seed)
    rank = {picture: chance.random() for picture in sorted(set(pictures))}
    within = [chance.random() for _ in pictures]
    # Rows of a picture side by side: as many places further there is another one.
    order = sorted(range(len(pictures)), key=lambda row: (rank[pictures[row]], within[row]))
    return dict(zip(order, order[most:] + order[:most], strict=True))


def quick_scores(benchmarks: Sequence[Benchmark], chat: Chat, batch_size: int) -> dict[str, float]:
    """The quoted measure of each benchmark, for validation in training: no log, no floors."""
    found = {}
    for benchmark in benchmarks:
        starts = range(0, benchmark.count, batch_size)
        batches = [range(s, min(s + batch_size, benchmark.count)) for s in starts]
        records = [record for batch in batches for record in ask(benchmark, chat, batch)]
        if failed := [record["error"] for record in records if "error" in record]:
            logger.warning(
                "%s: %d of %d samples could not be asked and count as wrong; the first: %s",
                benchmark.name, len(failed), len(records), failed[0],
            )  # fmt: skip
        found[benchmark.name] = sum(record["score"] for record in records) / len(records)
    return found

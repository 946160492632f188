"""manzano eval --suite text-rich: ChartQA, TextVQA, DocVQA, InfoVQA and OCRBench from local files.

Prompts, lengths and measures are lmms-eval's, which is not needed. A sample that cannot be asked
(no picture, a broken one, no answer to compare with) counts as wrong and is named; the others are
unharmed.
"""

import argparse
import random
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

from manzano.answering import AnswerSettings, Message
from manzano.eval.floors import always_the_same, blind_guess
from manzano.eval.hub_rows import strings
from manzano.eval.mistakes import write_mistakes
from manzano.eval.provenance import environment, model_record
from manzano.eval.samples import Record, SampleLog, each, run_logged
from manzano.eval.scores import Score, ScoreFile, TaskScores, mean_score, write_scores
from manzano.eval.text_rich_data import Benchmark, open_benchmarks
from manzano.eval.text_rich_tasks import TextRichTask
from manzano.pipeline import ManzanoPipeline

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
            record |= read(benchmark, place)
            words = benchmark.task.asked(record["question"], benchmark.prompt)
            shown = pictures[place] if pictures else place
            record["image"] = benchmark.rows.name(shown)
            picture = benchmark.rows.picture(shown)
            conversations.append([Message("user", (picture, words))])
            open_.append(record)
        except ValueError as error:
            fail(record, error)
    said = each(partial(chat_of, benchmark, chat), conversations) if conversations else []
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


def chat_of(benchmark: Benchmark, chat: Chat, conversations: Sequence) -> Sequence[str]:
    return chat(conversations, benchmark.task.settings())


def fail(record: Record, error: ValueError) -> None:
    """Counts as wrong, and says why."""
    record |= {"score": 0.0, "error": str(error)}


def read(benchmark: Benchmark, place: int) -> Record:
    """Question, references and further columns of a row; raises ValueError where one is amiss."""
    task, row = benchmark.task, benchmark.rows.row(place)
    names = ("question", task.answers, *task.columns)
    if missing := [name for name in names if name not in row]:
        raise ValueError(f"the sample lacks {', '.join(missing)}")
    columns = {name: str(row[name]) for name in task.columns}
    part = {"part": task.part(columns)} if task.part else {}
    references = strings(row[task.answers], task.answers)
    return {"question": row["question"], "references": references, "columns": columns, **part}


def wrong_pictures(count: int, seed: int) -> dict[int, int]:
    """For each row another one, drawn at random, each once: the picture that it is shown with."""
    order = list(range(count))
    random.Random(seed).shuffle(order)
    return dict(zip(order, order[1:] + order[:1], strict=True))


def scores(
    task: TextRichTask, records: Sequence[Record], shuffled: Sequence[Record] = ()
) -> dict[str, Score]:
    """The measure of a task over all its samples, then over each part of them, with floors.

    Raises:
        ValueError: if no sample at all could be asked.
    """
    if all("error" in record for record in records):
        raise ValueError(f"no sample could be asked; the first: {records[0]['error']}")
    blind = {record["key"]: record["score"] for record in shuffled}
    parts: dict[str, list[Record]] = {task.measure: list(records)}
    for record in records:
        if "part" in record:
            parts.setdefault(record["part"], []).append(record)
    return {
        name: mean_score(
            {record["key"]: record["score"] for record in own}, floors=floors(task, own, blind)
        )
        for name, own in parts.items()
    }


def floors(
    task: TextRichTask, records: Sequence[Record], blind: Mapping[str, float]
) -> dict[str, float]:
    """What the same records reach without their pictures."""
    known = [r for r in records if r.get("references") and isinstance(r.get("question"), str)]

    def score(guess: str, place: int) -> float:
        return task.score(guess, known[place]["references"], known[place]["columns"])

    references = [record["references"] for record in known]
    found = {}
    if known:
        questions = [record["question"] for record in known]
        found["majority"] = always_the_same(references, score)
        found["question_only"] = blind_guess(questions, references, score)
    if blind:
        found["shuffled_images"] = sum(blind[r["key"]] for r in records) / len(records)
    return found


def run(arguments: argparse.Namespace) -> Path:
    """Asks everything, writes logs, mistakes.html and scores.json; returns the path of the last."""
    if arguments.data is None:
        raise ValueError("--suite text-rich needs --data, the folder of the benchmarks' files")
    if arguments.max_tiles is not None and arguments.max_tiles < 1:
        raise ValueError(f"--max-tiles must be 1 or more, got {arguments.max_tiles}")
    started, output = datetime.now(timezone.utc), arguments.output
    benchmarks = open_benchmarks(
        arguments.data, arguments.tasks, limit=arguments.limit, prompt=arguments.prompt
    )
    model = model_record(arguments.model)
    pipeline = ManzanoPipeline.from_pretrained(arguments.model, device=arguments.device)
    tiles = arguments.max_tiles or pipeline.processor.max_tiles
    chat = partial(pipeline.chat_batch, max_tiles=tiles)
    tasks, records, seconds = {}, {}, 0.0
    for benchmark in benchmarks:
        about = {"data": benchmark.data(), "settings": benchmark.describe(tiles)}
        begun = {"model": model["sha256"], "device": arguments.device, **about}
        path, size = output / f"{benchmark.name}.jsonl", arguments.batch_size
        log = SampleLog(path, begun, batch_size=size)
        own, blind = answered(benchmark, chat, log), []
        seconds += log.seconds
        if arguments.floors:
            path, begun = path.with_suffix(".shuffled.jsonl"), begun | {"seed": arguments.seed}
            log = SampleLog(path, begun, batch_size=size)
            pictures = wrong_pictures(benchmark.count, arguments.seed)
            blind = answered(benchmark, chat, log, pictures)
            seconds += log.seconds
        records[benchmark.name] = own
        tasks[benchmark.name] = TaskScores(
            scores=scores(benchmark.task, own, blind), n=len(own), **about,
            failed={r["key"]: r["error"] for r in own if "error" in r},
        )  # fmt: skip
    surroundings = environment(arguments.device, packages=("pyarrow",))
    score_file = ScoreFile(
        suite="text-rich", model=model, seed=arguments.seed, tasks=tasks,
        environment=surroundings | {"batch_size": arguments.batch_size},
        started=started.isoformat(timespec="seconds"), wall_seconds=round(seconds, 1),
    )  # fmt: skip
    write_mistakes(score_file, benchmarks, records, output / "mistakes.html")
    write_scores(score_file, output / "scores.json")
    return output / "scores.json"


def answered(
    benchmark: Benchmark, chat: Chat, log: SampleLog, pictures: Mapping[int, int] | None = None
) -> list[Record]:
    """The records of all samples, those in the log and those that are asked now."""
    asked = partial(ask, benchmark, chat, pictures=pictures)
    return run_logged(range(benchmark.count), log, asked, log.path.stem)

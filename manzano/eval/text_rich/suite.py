"""manzano eval --suite text-rich: ChartQA, TextVQA, DocVQA, InfoVQA and OCRBench from local files.

Prompts, lengths and measures are lmms-eval's, which is not needed. OUTPUT holds

    scores.json             see `manzano.eval.scores`
    chartqa.jsonl           a line a sample: image, question, references, answer, score
    chartqa.shuffled.jsonl  the same with pictures of other samples, under --floors
    mistakes.html           a page to leaf through them
"""

import argparse
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

from manzano.eval.floors import always_the_same, blind_guess
from manzano.eval.provenance import environment, model_record
from manzano.eval.samples import Record, SampleLog, run_logged
from manzano.eval.scores import Score, ScoreFile, TaskScores, mean_score, write_scores
from manzano.eval.text_rich.asking import Chat, ask, wrong_pictures
from manzano.eval.text_rich.data import Benchmark, open_benchmarks
from manzano.eval.text_rich.mistakes import write_mistakes
from manzano.eval.text_rich.tasks import TextRichTask
from manzano.pipeline import ManzanoPipeline


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
            {record["key"]: record["score"] for record in own},
            clusters={r["key"]: r["picture"] for r in own if "picture" in r},
            floors=floors(task, own, blind),
        )
        for name, own in parts.items()
    }


def floors(
    task: TextRichTask, records: Sequence[Record], blind: Mapping[str, float]
) -> dict[str, float]:
    """What the same records reach without their pictures; what nobody can score counts as wrong,
    as it does for the model."""
    known = [record for record in records if is_scorable(task, record)]
    share = len(known) / len(records)

    def score(guess: str, place: int) -> float:
        return task.score(guess, known[place]["references"], known[place]["columns"])

    references = [record["references"] for record in known]
    found = {}
    if known:
        questions = [record["question"] for record in known]
        found["majority"] = share * always_the_same(references, score)
        found["question_only"] = share * blind_guess(questions, references, score)
    if blind:
        found["shuffled_images"] = sum(blind[r["key"]] for r in records) / len(records)
    return found


def is_scorable(task: TextRichTask, record: Record) -> bool:
    """Whether an answer to it could be right: its references are there, and enough of them."""
    if "references" not in record:
        return False
    try:
        task.score("", record["references"], record["columns"])
    except ValueError:
        return False
    return True


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
            shown = [record.get("picture", f"row {record['key']}") for record in own]
            pictures = wrong_pictures(shown, arguments.seed)
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

"""Scores that the official scorers found, read back into the score file of the drawings.

    geneval         results.jsonl of evaluate_images.py
    dpg             the _results.txt of compute_dpg_bench.py
    wise            the folder of *_scores_results.jsonl, of WISE_Verified or of the first WISE
    t2i-compbench   the layout's own folder, into which its scorers write
    gedit           the folder of *_gpt_score.csv
    imgedit         result.json of basic_bench.py

GenEval, DPG and WISE are shares of 1 here; GEdit's scores go to 10 and ImgEdit's to 5, as theirs.
"""

import csv
import io
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from manzano.eval.pictures.layouts.layout import read_json, read_json_lines, read_text
from manzano.eval.pictures.layouts.t2i_compbench import CATEGORIES
from manzano.eval.samples import Record
from manzano.eval.scores import Score, TaskScores, mean_score, read_scores, write_scores

Scores = dict[str, dict[str, Score]]
"""By task, by name."""
VERIFIED = {"culture": 400, "time": 520, "space": 640, "biology": 760, "physics": 880}
FIRST = {"culture": 400, "time": 567, "space": 700, "biology": 800, "physics": 900}
"""The last prompt_id of each category of WISE; chemistry is what follows. The overall weights of
both are the sizes of their categories, so that the overall score is the mean over all prompts."""


def read_results(suite: str, results: Path, scores: Path) -> None:
    """Adds what a scorer found to the score file that its drawings have.

    Args:
        results: the scorer's file or folder.
        scores: scores.json, beside which the log of the drawings lies.

    Raises:
        ValueError: if there are no drawings, the results are something else, or some prompts of
            the drawings have none.
    """
    if suite not in READERS:
        raise ValueError(
            f"the results of {suite} cannot be read back: there is a way for {', '.join(READERS)}"
        )
    if not scores.is_file():
        raise ValueError(f"there is no {scores}: draw first, with --prompts in place of --results")
    if not results.exists():
        raise ValueError(f"there are no results {results}")
    found = read_scores(scores)
    if found.suite != suite:
        raise ValueError(f"{scores} is of the suite {found.suite}, not of {suite}")
    records = [record for _, record in read_json_lines(scores.with_name(f"{suite}.jsonl"))]
    try:
        read = READERS[suite](results, records)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{results} is no file of the scorer of {suite}: {error!r}") from error
    tasks = {
        name: replace(
            task,
            scores={**task.scores, **read[name]},
            settings={**task.settings, "scorer": "official"},
        )
        for name, task in found.tasks.items()
    }
    write_scores(replace(found, tasks=tasks), scores)


def found_before(scores: Path, pictures: Path) -> dict[str, TaskScores]:
    """The tasks of a score file to which an official scorer's results were added, if no picture has
    been drawn since; {} otherwise."""
    if not scores.is_file():
        return {}
    newest = max((p.stat().st_mtime for p in pictures.rglob("*") if p.is_file()), default=math.inf)
    if newest > scores.stat().st_mtime:
        return {}
    known = read_scores(scores).tasks
    return {name: task for name, task in known.items() if task.settings.get("scorer")}


def _complete(values: Mapping[str, float], records: Sequence[Record], results: Path) -> None:
    """Raises ValueError unless every drawn prompt has a value: a mean over some would mislead."""
    missing = [record["key"] for record in records if record["key"] not in values]
    if missing:
        raise ValueError(
            f"{results} has no score of {len(missing)} of the {len(records)} prompts, such as "
            f"{', '.join(missing[:5])}: run the scorer to its end"
        )


def _with_groups(
    values: Mapping[str, float], groups: Mapping[str, str], overall: str, *, of_groups: bool
) -> dict[str, Score]:
    """The overall score, of the groups' means or of all values, and that of each group."""
    scores = {overall: mean_score(values, groups=groups if of_groups else None)}
    for group in dict.fromkeys(groups[key] for key in values):
        own = {key: value for key, value in values.items() if groups[key] == group}
        scores[group] = mean_score(own)
    return scores


def geneval(results: Path, records: Sequence[Record]) -> Scores:
    """The share of correct pictures by tag; overall the mean of the tags."""
    correct: dict[str, list[float]] = {}
    for _, line in read_json_lines(results):
        match = re.search(r"(\d+)/samples/\d+\.png$", str(line.get("filename")))
        if match is None or "correct" not in line:
            raise ValueError(f"{results} is no results.jsonl of GenEval: it says {line!r:.200}")
        correct.setdefault(match[1], []).append(float(line["correct"]))
    groups = {record["key"]: record["group"] for record in records}
    for record in records:
        drawn = sum(name.endswith(".png") for name in record["files"])
        if len(correct.get(record["key"], ())) not in (0, drawn):
            correct.pop(record["key"])  # the scorer stopped amidst its pictures
    values = {key: float(np.mean(correct[key])) for key in groups if key in correct}
    _complete(values, records, results)
    return {"geneval": _with_groups(values, groups, "overall", of_groups=True)}


def dpg(results: Path, records: Sequence[Record]) -> Scores:
    """The mean over the prompts, of which the scorer writes a line each."""
    lines = re.findall(r"^(.*)\.png, .*?([0-9.e+-]+)$", read_text(results), re.MULTILINE)
    values = {Path(path).name: float(mean) for path, mean in lines}
    _complete(values, records, results)
    own = {record["key"]: values[record["key"]] for record in records}
    return {"dpg": {"dpg": mean_score(own)}}


def wise(results: Path, records: Sequence[Record]) -> Scores:
    """WiScore over all prompts and by category."""
    paths = sorted(results.rglob("*.jsonl")) if results.is_dir() else [results]
    lines = [line for path in paths for _, line in read_json_lines(path)]
    values = {str(line["prompt_id"]): _wiscore(line, results) for line in lines}
    _complete(values, records, results)
    last = VERIFIED if "score" in lines[0] else FIRST
    own = {record["key"]: values[record["key"]] for record in records}
    groups = {
        key: next((name for name, end in last.items() if int(key) <= end), "chemistry")
        for key in own
    }
    return {"wise": _with_groups(own, groups, "wiscore", of_groups=False)}


def _wiscore(line: Record, results: Path) -> float:
    parts = [line.get(name) for name in ("consistency", "realism", "aesthetic_quality")]
    if "score" in line:
        parts = [2 * line["score"]] * 3
    if not all(part in (0, 1, 2) for part in parts):  # 999 where the judge gave no answer
        raise ValueError(
            f"{results}: the judge's answer on prompt {line['prompt_id']} cannot be read; judge "
            "it again"
        )
    return float(np.dot((0.7, 0.2, 0.1), np.asarray(parts, dtype=np.float64)) / 2)


def t2i_compbench(results: Path, records: Sequence[Record]) -> Scores:
    """The mean over the pictures of each category."""
    scores: Scores = {}
    for category in dict.fromkeys(record["group"] for record in records):
        path = results / category / CATEGORIES[category][1]
        own = [record for record in records if record["group"] == category]
        answers: dict[str, list[float]] = {}
        pictures = len(own[0]["files"])
        for line in read_json(path):
            place = int(line["question_id"]) // pictures
            answers.setdefault(f"{category}/{place:04d}", []).append(float(line["answer"]))
        whole = {key: found for key, found in answers.items() if len(found) == pictures}
        values = {key: float(np.mean(found)) for key, found in whole.items()}
        _complete(values, own, path)
        kept = {record["key"]: values[record["key"]] for record in own}
        scores[own[0]["task"]] = {"score": mean_score(kept)}
    return scores


def gedit(results: Path, records: Sequence[Record]) -> Scores:
    """Semantics, quality and the root of their product by language, means of the kinds' means."""
    rows = {}
    for path in sorted(results.rglob("*_gpt_score.csv")):
        for row in csv.DictReader(io.StringIO(read_text(path))):
            edited = Path(row["edited_image"])  # .../fullset/KIND/LANGUAGE/KEY.png
            rows["/".join([*edited.parts[-3:-1], edited.stem])] = row
    _complete(dict.fromkeys(rows, 0.0), records, results)
    scores: Scores = {}
    for task in dict.fromkeys(record["task"] for record in records):
        own = {record["key"]: record["group"] for record in records if record["task"] == task}
        both = [key for key in own if rows[key]["intersection_exist"] == "True"]
        scores[task] = _semantics_and_quality(rows, own, own)
        if both:
            part = _semantics_and_quality(rows, both, own)
            scores[task] |= {f"{name}_intersection": score for name, score in part.items()}
    return scores


def _semantics_and_quality(
    rows: Mapping[str, Mapping[str, str]], keys: Iterable[str], groups: Mapping[str, str]
) -> dict[str, Score]:
    semantics = {key: float(rows[key]["sementics_score"]) for key in keys}  # their spelling
    quality = {key: float(rows[key]["quality_score"]) for key in semantics}
    overall = {key: math.sqrt(semantics[key] * quality[key]) for key in semantics}
    measures = {"overall": overall, "semantics": semantics, "quality": quality}
    return {name: mean_score(values, groups=groups) for name, values in measures.items()}


def imgedit(results: Path, records: Sequence[Record]) -> Scores:
    """The mean of the judge's three marks over all edits and by kind."""
    answers = read_json(results)
    values: dict[str, float] = {}
    for record in records:
        answer = answers.get(record["key"])
        lines = answer.splitlines() if isinstance(answer, str) else []
        marks = [int(m[1]) for line in lines if (m := re.fullmatch(r"[^:]*: (\d+)", line.strip()))]
        if marks:
            values[record["key"]] = round(float(np.mean(marks)), 2)  # as step1_get_avgscore.py
    _complete(values, records, results)
    groups = {record["key"]: record["group"] for record in records}
    return {"imgedit": _with_groups(values, groups, "overall", of_groups=False)}


READERS: dict[str, Callable[[Path, Sequence[Record]], Scores]] = {
    "geneval": geneval,
    "dpg": dpg,
    "wise": wise,
    "t2i-compbench": t2i_compbench,
    "gedit": gedit,
    "imgedit": imgedit,
}

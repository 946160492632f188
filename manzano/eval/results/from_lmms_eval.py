"""What lmms-eval wrote (`--output_path DIR --log_samples`), as a score file.

    DIR/MODEL/20260131_200000_results.json            figures and settings of all tasks
    DIR/MODEL/20260131_200000_samples_chartqa.jsonl   a line a sample

Values are upstream's. Where they are means over samples, as they nearly all are, the samples give
the interval; MMBench's circular score has none. lmms-eval does not say which samples failed.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import torch

from manzano.eval.provenance import environment, model_record
from manzano.eval.scores import Score, ScoreFile, TaskScores, mean_score

NAMES = {"textvqa_val": "textvqa", "docvqa_val": "docvqa", "infovqa_val": "infovqa"}
"""Tasks that `--suite text-rich` has under another name."""
IN_PERCENT = ("mathvista", "mmbench")
"""Tasks, by the beginning of their names, of which upstream gives percent."""
OCRBENCH = 1000
"""By this upstream divides the sum, however few samples were asked."""
SETTINGS = ("generation_kwargs", "num_fewshot", "repeats", "filter_list")
RUN = ("gen_kwargs", "system_instruction_sha", "chat_template_sha")
NOT_SETTINGS = ("pretrained", "device", "batch_size", "output_dir", "model", "base_url")
"""Arguments of the model that say where it is, not how it answers."""


def from_lmms_eval(results: Path, model: Path) -> ScoreFile:
    """A score file of one run of lmms-eval.

    Versions and hardware are those of this machine: do it where the run was made.

    Args:
        results: ..._results.json, or a folder with one such file below it.
        model: the Manzano folder that answered, directly or through `manzano serve`.

    Raises:
        ValueError: if there is no such file, several, one without samples, or one of other make.
    """
    path = results_file(results)
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
        asked, configs = run["config"], run["configs"]
        arguments = model_arguments(asked.get("model_args"))
        command = asked.get("resolved_cli_args") or {}
        way = "server" if "openai" in str(asked["model"]) else "lmms-eval"
        zone = ZoneInfo(command.get("timezone") or "Asia/Singapore")  # lmms-eval's default
        started = datetime.strptime(run["date"], "%Y%m%d_%H%M%S").replace(tzinfo=zone)
        return ScoreFile(
            suite="lmms-eval",
            model=model_record(model),
            environment=environment(
                device_here(arguments.get("device") or asked.get("device") or unasked_device(way)),
                packages=("lmms-eval",),
            ),
            seed=int(asked["torch_seed"]),
            tasks={NAMES.get(t) or t: task_scores(t, run, arguments, path) for t in configs},
            started=started.astimezone(timezone.utc).isoformat(),
            wall_seconds=float(run["total_evaluation_time_seconds"]),
            way=way,
        )
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no results file of lmms-eval 0.7: {error!r}") from error


def results_file(path: Path) -> Path:
    """The results file that is meant."""
    if path.is_file():
        return path
    found = [p for p in path.rglob("*.json") if re.fullmatch(r"\d{8}_\d{6}_results", p.stem)]
    if len(found) != 1:
        names = ", ".join(sorted(str(p) for p in found)) or "none"
        raise ValueError(f"{path} must hold one DATE_results.json of lmms-eval, found: {names}")
    return found[0]


def unasked_device(way: str) -> str:
    """Where a model runs if no device is asked for: the plug-in takes a GPU, a server does not."""
    return "cuda" if way == "lmms-eval" and torch.cuda.is_available() else "cpu"


def device_here(device: Any) -> str:
    """The device of the run, whose name is to be recorded."""
    if str(device).startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(
            f"the run was on {device}, which is not here: import it on the machine that made it"
        )
    return str(device)


def model_arguments(given: str | Mapping[str, Any] | None) -> dict[str, Any]:
    """`--model_args`: "a=1,b=2", or what lmms-eval made of it."""
    if isinstance(given, Mapping):
        return dict(given)
    return dict(part.split("=", 1) for part in (given or "").split(",") if "=" in part)


def task_scores(
    task: str, run: Mapping[str, Any], arguments: Mapping[str, Any], path: Path
) -> TaskScores:
    config, samples = run["configs"][task], read_samples(task, path)
    prompts = config.get("lmms_eval_specific_kwargs") or {}
    return TaskScores(
        scores=measures(task, run["results"][task], samples),
        n=len(samples),
        data={
            "sha256": samples_hash(samples),
            "of": "numbers, prompts and targets of the samples; pictures are not in the log",
            "dataset": [config.get("dataset_path"), config.get("dataset_name")],
            "split": config.get("test_split") or config.get("validation_split"),
            "limit": run["config"].get("limit"),
            "offset": run["config"].get("offset"),
        },
        settings={
            **{name: config.get(name) for name in SETTINGS},
            "prompt": {k: v for k, v in prompts.items() if not isinstance(v, Mapping)},
            **{name: run["config"].get(name, run.get(name)) or None for name in RUN},
            "model_args": {k: v for k, v in arguments.items() if k not in NOT_SETTINGS},
        },
    )


def read_samples(task: str, path: Path) -> list[dict[str, Any]]:
    date = path.stem.removesuffix("_results")
    log = path.with_name(f"{date}_samples_{task}.jsonl")
    if not log.is_file():
        raise ValueError(f"there is no {log}: run lmms_eval with --log_samples")
    lines = log.read_text(encoding="utf-8").split("\n")
    samples = [json.loads(line) for line in lines if line]
    return sorted(samples, key=lambda sample: sample["doc_id"])


def samples_hash(samples: Sequence[Mapping[str, Any]]) -> str:
    """Upstream's own hashes are of nothing: 0.7.3 hashes documents that are no longer there."""
    told = [[sample["doc_id"], sample["input"], sample["target"]] for sample in samples]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def measures(
    task: str, results: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]
) -> dict[str, Score]:
    """Upstream's figures as shares of 1, each with the samples that it is the mean of."""
    keys = [str(sample["doc_id"]) for sample in samples]
    found: dict[str, Score] = {}
    for key, value in results.items():
        name, comma, _ = key.partition(",")  # "exact_match,flexible-extract"
        if not comma or "_stderr" in name:
            continue
        own = {
            place: own_score(sample[name])
            for place, sample in zip(keys, samples, strict=True)
            if name in sample
        }
        shares = {place: score for place, score in own.items() if score is not None}
        share = upstreams_share(task, value, len(samples))
        if value is None and shares and not any(shares.values()):
            share = 0.0  # MathVista gives None where nothing is right
        if share is None:
            continue  # a submission, which is no figure
        score = Score(value=share, n=len(samples))
        once = len(shares) == len(own) and len(set(keys)) == len(keys)
        if shares and once and math.isclose(mean(shares), share, abs_tol=1e-4):  # upstream rounds
            score = mean_score(shares)
        found[name if name not in found else key] = score
    return found


def mean(values: Mapping[str, float]) -> float:
    return sum(values.values()) / len(values)


def upstreams_share(task: str, value: Any, asked: int) -> float | None:
    if not isinstance(value, int | float):
        return None
    if task.startswith("ocrbench"):
        return value * OCRBENCH / asked
    return value / 100 if task.startswith(IN_PERCENT) else float(value)


def own_score(value: Any) -> float | None:
    """A sample's own score, in what a task of lmms-eval keeps of it; None if it does not say."""
    if isinstance(value, bool | int | float):
        return float(value)
    if not isinstance(value, Mapping):
        return None
    for name in ("score", "true_false"):  # OCRBench, MathVista
        if isinstance(value.get(name), bool | int | float):
            return float(value[name])
    if value.keys() >= {"pred", "answer"}:  # SEED-Bench
        return float(value["pred"].lower().strip() == value["answer"].lower().strip())
    if value.keys() >= {"parsed_pred", "question_type", "answer"}:
        return mmmu_score(value)
    return None


def mmmu_score(value: Mapping[str, Any]) -> float:
    """By upstream's own rules, of which those of open questions are long."""
    try:
        from lmms_eval.tasks.mmmu.utils import evaluate_mmmu
    except ImportError as error:
        raise ValueError(
            "MMMU's answers are judged by lmms-eval: pip install 'manzano[eval]'"
        ) from error
    judged: Any = evaluate_mmmu([value])  # upstream's annotation knows of no empty list
    return float(judged[1]["acc"])

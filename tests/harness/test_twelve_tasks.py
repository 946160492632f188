"""lmms-eval's own tasks, end to end, on local data in the columns of their datasets."""

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from statistics import mean
from types import SimpleNamespace
from typing import Any

import pytest

from tests.harness.conftest import Outcome, evaluate, read_outcome
from tests.harness.local_data import Task, twelve_tasks

ROOT = Path(__file__).parents[2]
NAMES = [task.name for task in twelve_tasks()]
every_task = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(scope="module")
def outcome(twelve, lettered, tmp_path_factory) -> Outcome:
    out = tmp_path_factory.mktemp("out")
    tasks = ",".join(NAMES)
    return evaluate(twelve.folder, tasks, f"pretrained={lettered}", out, batch_size=5)


@every_task
def test_answers_are_those_of_the_pipeline(name, twelve, outcome):
    assert outcome.answers(name) == twelve.answers[name]


def test_answers_depend_on_what_is_asked(twelve):
    assert {answer for said in twelve.answers.values() for answer in said} == set("ABCD")


@every_task
def test_three_right_answers_of_four_give_three_quarters(name, twelve, outcome):
    task = twelve.tasks[name]
    score = outcome.score(name, task.metric)
    assert score == pytest.approx(0.75 * task.whole)


def by_hand(task: Task, answers: list[str], folder: Path) -> float:
    """lmms-eval's metric functions, applied without lmms-eval's evaluator."""
    pairs = [(dict(asked.row), said) for asked, said in zip(task.asked, answers, strict=True)]
    if task.metric == "anls":
        anls = import_module("lmms_eval.api.metrics").anls
        return mean(anls(row["answers"], [said])["anls"] for row, said in pairs)
    if task.name == "ai2d":
        target = import_module("lmms_eval.tasks.ai2d.utils").ai2d_doc_to_target
        return mean(target(row, "mcq") == said for row, said in pairs)
    module, process, aggregate = {
        "chartqa": ("chartqa.utils", "chartqa_process_results", None),
        "textvqa_val": ("textvqa.utils", "textvqa_process_results", None),
        "ocrbench": ("ocrbench.utils", "ocrbench_process_results", "ocrbench_aggregate_accuracy"),
        "scienceqa_img": ("scienceqa.utils", "sqa_process_results", None),
        "seedbench": ("seedbench.utils", "seed_process_result", "seed_aggregation_result"),
        "realworldqa": ("realworldqa.utils", "realworldqa_process_results", None),
        "mmbench_en_dev_static": (
            "mmbench.en_utils", "mmbench_process_results", "mmbench_aggregate_dev_results_static",
        ),
        "mmmu_val": ("mmmu.utils", "mmmu_process_results", "mmmu_aggregate_results"),
        "mathvista_testmini_format": (
            "mathvista.utils", "mathvista_process_results", "mathvista_aggregate_results",
        ),
    }[task.name]  # fmt: skip
    functions = import_module(f"lmms_eval.tasks.{module}")
    scored = [getattr(functions, process)(row, [said])[task.metric] for row, said in pairs]
    if aggregate is None:
        return mean(scored)
    takes_folder = aggregate.startswith(("ocrbench", "mmbench", "mathvista"))
    more: list[Any] = [SimpleNamespace(output_path=str(folder))] if takes_folder else []
    return getattr(functions, aggregate)(scored, *more)


@every_task
def test_scores_are_those_of_the_metric_functions_by_hand(name, twelve, outcome, tmp_path):
    task = twelve.tasks[name]
    score = outcome.score(name, task.metric)
    assert score == pytest.approx(by_hand(task, outcome.answers(name), tmp_path))


def test_one_by_one_gives_the_same_and_so_does_a_second_run_in_one_process(
    twelve, lettered, outcome, tmp_path
):
    tasks = ["ocrbench", "seedbench", "mmmu_val"]
    again = evaluate(
        twelve.folder, ",".join(tasks), f"pretrained={lettered}", tmp_path, batch_size=1
    )
    for name in tasks:
        assert again.answers(name) == outcome.answers(name)
        assert again.results[name] == outcome.results[name]


@pytest.mark.timeout(900)
def test_two_processes_give_the_same_as_one(twelve, lettered, tmp_path):
    tasks = ["chartqa", "seedbench"]
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "-m", "lmms_eval", "--model", "manzano", "--model_args", f"pretrained={lettered}",
        "--tasks", ",".join(tasks), "--device", "cpu", "--batch_size", "2",
        "--limit", "3",  # questions, for two processes: one is padded
        "--output_path", str(tmp_path), "--log_samples", "--verbosity", "DEBUG",
    ]  # fmt: skip
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    subprocess.run(
        command, cwd=twelve.folder, env=os.environ | {"PYTHONPATH": path}, check=True, timeout=850
    )
    two = read_outcome(tmp_path)
    for name in tasks:
        assert two.answers(name) == twelve.answers[name][:3]
        assert two.score(name, twelve.tasks[name].metric) == 1


def test_settings_from_the_command_line_come_before_a_tasks_own(twelve, lettered, tmp_path):
    model = f"pretrained={lettered}"
    sampled = "do_sample=True,temperature=50.0"
    first, second = (
        evaluate(
            twelve.folder, "chartqa", model, tmp_path, gen_kwargs=sampled, torch_random_seed=seed
        ).answers("chartqa")
        for seed in (1, 2)
    )
    assert first != second
    assert {*first, *second} - set("ABCD")

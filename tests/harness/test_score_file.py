"""Upstream's runs of the twelve tasks become score files: its values, with intervals."""

import pytest

from manzano.eval.results.from_lmms_eval import NAMES, from_lmms_eval
from tests.harness.conftest import evaluate
from tests.harness.local_data import twelve_tasks

NO_INTERVAL = {"mmbench_en_dev_static"}  # circular: no mean over samples


def test_a_run_of_the_twelve_tasks_is_imported(twelve, lettered, tmp_path):
    names = [task.name for task in twelve_tasks()]
    evaluate(twelve.folder, ",".join(names), f"pretrained={lettered}", tmp_path / "out")
    file = from_lmms_eval(tmp_path / "out", lettered)
    for task in twelve_tasks():
        score = file.tasks[NAMES.get(task.name, task.name)].scores[task.metric]
        assert score.value == pytest.approx(0.75)  # three of four, as a share whatever the task
        if task.name not in NO_INTERVAL:
            assert score.low < 0.75 < score.high
            assert sum(score.per_sample.values()) == pytest.approx(3)

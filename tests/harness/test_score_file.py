"""Upstream's runs of the twelve tasks become score files: its values, with intervals."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from manzano.eval.results.from_lmms_eval import NAMES, from_lmms_eval
from tests.harness.local_data import twelve_tasks

ROOT = Path(__file__).parents[2]
NO_INTERVAL = {"mmbench_en_dev_static"}  # circular: no mean over samples


def test_a_run_of_the_twelve_tasks_is_imported(twelve, lettered, tmp_path):
    names = ",".join(task.name for task in twelve_tasks())
    command = [
        sys.executable, "-m", "lmms_eval", "--model", "manzano", "--tasks", names,
        "--model_args", f"pretrained={lettered}", "--device", "cpu", "--batch_size", "4",
        "--output_path", str(tmp_path), "--log_samples",
    ]  # fmt: skip
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    subprocess.run(
        command, cwd=twelve.folder, env=os.environ | {"PYTHONPATH": path}, check=True, timeout=280
    )
    file = from_lmms_eval(tmp_path, lettered)
    for task in twelve_tasks():
        score = file.tasks[NAMES.get(task.name, task.name)].scores[task.metric]
        assert score.value == pytest.approx(0.75)  # three of four, as a share whatever the task
        if task.name not in NO_INTERVAL:
            assert score.low < 0.75 < score.high
            assert sum(score.per_sample.values()) == pytest.approx(3)

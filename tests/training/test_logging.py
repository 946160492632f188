"""metrics.jsonl and TensorBoard."""

import json
import sys

import pytest

from manzano.training.logging import RunLog

FIGURES = {"loss": 1.0, "seconds_left": 3.0, "seconds_elapsed": 1.0}


def test_going_on_removes_lines_after_the_checkpoint_and_a_broken_last_one(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    with RunLog(tmp_path, 2, 10) as log:
        log.write(3, FIGURES)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3]
    assert json.loads(path.read_text().splitlines()[-1])["loss"] == 1.0


def test_other_ranks_write_nothing(tmp_path):
    with RunLog(tmp_path / "run", 0, 10, enabled=False) as log:
        log.write(1, FIGURES)
    assert not (tmp_path / "run").exists()


def test_tensorboard_is_written_when_asked_for(tmp_path):
    with RunLog(tmp_path, 0, 10, tensorboard=True) as log:
        log.write(1, FIGURES)
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_a_missing_tensorboard_is_an_error_that_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match="pip install tensorboard"):
        RunLog(tmp_path, 0, 10, tensorboard=True)

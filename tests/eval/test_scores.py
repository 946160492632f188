"""Score files: means with intervals, written and read back the same."""

import json
from dataclasses import replace

import numpy as np
import pytest

from manzano.eval.scores import ScoreFile, TaskScores, mean_score, read_scores, write_scores

RIGHT = {str(index): float(index % 4 == 0) for index in range(400)}


def score_file() -> ScoreFile:
    score = mean_score(RIGHT, floors={"majority": 0.1}, ceilings={"true ids": 0.9})
    task = TaskScores(
        scores={"accuracy": score, "error": mean_score({"0": 0.5}, lower_is_better=True)},
        n=400,
        data={"sha256": "ab"},
        settings={"prompt": "{question}", "decoding": {"temperature": 0.0}},
        failed={"3": "its picture is broken"},
    )
    return ScoreFile(
        suite="text-rich", model={"name": "m", "sha256": "cd", "config": {}},
        environment={"python": "3"}, seed=0, tasks={"chartqa": task},
        started="2026-01-01T00:00:00+00:00", wall_seconds=1.5,
    )  # fmt: skip


def test_an_interval_is_that_of_the_normal_approximation_where_there_are_many_samples():
    score = mean_score(RIGHT)
    error = 1.96 * np.sqrt(0.25 * 0.75 / 400)
    assert score.value == 0.25 and score.n == 400
    assert score.low == pytest.approx(0.25 - error, abs=0.01)
    assert score.high == pytest.approx(0.25 + error, abs=0.01)


def test_equal_samples_leave_no_doubt():
    score = mean_score({"a": 0.5, "b": 0.5})
    assert (score.low, score.value, score.high) == (0.5, 0.5, 0.5)


def test_groups_count_alike_whatever_their_size():
    values = {"a": 1.0, "b": 0.0, "c": 0.0, "d": 0.0}
    score = mean_score(values, groups={"a": "x", "b": "y", "c": "y", "d": "y"})
    assert score.value == 0.5 and mean_score(values).value == 0.25


def test_clusters_widen_an_interval_as_if_each_were_one_sample():
    values = {f"{page}-{copy}": float(page % 4 == 0) for page in range(100) for copy in "abc"}
    together = mean_score(values, clusters={key: key.split("-")[0] for key in values})
    once = mean_score({key: value for key, value in values.items() if key.endswith("a")})
    alone = mean_score(values)
    assert (together.value, together.n) == (0.25, 300)
    assert (together.low, together.high) == pytest.approx((once.low, once.high), abs=0.02)
    assert together.high - together.low > 1.5 * (alone.high - alone.low)


def test_an_interval_does_not_depend_on_the_order_of_samples():
    values = {str(index): index / 7 for index in range(50)}
    assert mean_score(values) == mean_score(dict(reversed(values.items())))


@pytest.mark.parametrize(
    ("values", "groups", "message"),
    [
        ({}, None, "nothing to average"),
        ({"a": float("nan")}, None, "not finite"),
        ({"a": 1.0, "b": 0.0}, {"a": "x"}, "no group"),
    ],
)
def test_what_has_no_mean_is_refused(values, groups, message):
    with pytest.raises(ValueError, match=message):
        mean_score(values, groups=groups)


def test_written_is_read(tmp_path):
    path = tmp_path / "deep" / "scores.json"
    write_scores(score_file(), path)
    assert read_scores(path) == score_file()
    assert json.loads(path.read_text())["tasks"]["chartqa"]["failed"]["3"].startswith("its picture")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no score file"),
        ("not json", "is no score file"),
        ('{"vqa": 1}', "of format 1"),
        ('{"format": 1, "suite": "x"}', "damaged"),
    ],
)
def test_what_is_no_score_file_is_refused(tmp_path, text, message):
    path = tmp_path / "scores.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_scores(path)


def test_a_score_that_is_not_finite_is_not_written(tmp_path):
    broken = replace(score_file(), wall_seconds=float("nan"))
    with pytest.raises(ValueError):
        write_scores(broken, tmp_path / "scores.json")
    assert not (tmp_path / "scores.json").exists()

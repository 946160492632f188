"""The data behind the report, and metrics.json."""

import json

import pytest

from manzano.eval.record import Figure, Report, StageRecord, write_atomically, write_metrics

FIGURE = Figure(name="vqa_exact_match", label="Questions", value=0.8, floor=0.6, n=50, target=0.7)


def report(**changes) -> Report:
    values = {
        "title": "A run",
        "summary": "What was done.",
        "figures": (FIGURE,),
        "stages": (StageRecord(name="vae", what="latents", parameters=10, steps=2, samples=4),),
        "wall_seconds": {"vae": 12.5, "evaluation": 3.0},
        "seed": 7,
        "versions": {"torch": "2.14.1"},
        "configs": {"vae": {"optim": {"lr": 0.001}}},
    }
    return Report(**(values | changes))


def test_metrics_json_holds_every_figure_and_how_it_came_about(tmp_path):
    write_metrics(report(), tmp_path / "run" / "metrics.json")
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()) == {
        "vqa_exact_match": {"value": 0.8, "floor": 0.6, "n": 50},
        "seed": 7,
        "versions": {"torch": "2.14.1"},
        "wall_seconds": {"vae": 12.5, "evaluation": 3.0},
        "configs": {"vae": {"optim": {"lr": 0.001}}},
    }


def test_writing_replaces_the_file_and_leaves_nothing_beside_it(tmp_path):
    for text in ("first", "second"):
        write_atomically(tmp_path / "page", text)
    assert [path.name for path in tmp_path.iterdir()] == ["page"]
    assert (tmp_path / "page").read_text() == "second"


@pytest.mark.parametrize(
    ("value", "target", "lower_is_better", "reached"),
    [
        (0.8, 0.8, False, True),
        (0.7, 0.8, False, False),
        (0.7, 0.8, True, True),
        (0.5, None, False, None),
    ],
)
def test_a_target_is_reached_from_its_own_side(value, target, lower_is_better, reached):
    figure = Figure(
        name="f", label="f", value=value, n=1, target=target, lower_is_better=lower_is_better
    )
    assert figure.reached is reached


def test_a_share_above_one_is_refused():
    with pytest.raises(ValueError, match="give the unit"):
        Figure(name="psnr", label="PSNR", value=28.0, n=1)


def test_an_infinite_figure_is_refused():
    with pytest.raises(ValueError, match="finite"):
        Figure(name="psnr", label="PSNR", value=float("inf"), n=1, unit="dB")


def test_two_figures_of_one_name_are_refused():
    with pytest.raises(ValueError, match="share a name"):
        report(figures=(FIGURE, FIGURE))


def test_a_stage_without_its_time_is_refused():
    with pytest.raises(ValueError, match="vae"):
        report(wall_seconds={})

"""Curves: what is read from metrics.jsonl, and what is drawn of it."""

import xml.etree.ElementTree as ElementTree

import pytest

from manzano.eval.curves import HEIGHT, WIDTH, chart, read_series, running_mean


def test_series_are_read_from_the_lines_that_have_the_key(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2.5}\n{"step": 2, "rate": 1}\n\n{"step": 3, "loss": 2}\n')
    assert read_series(path, "loss") == [(1, 2.5), (3, 2.0)]


def test_an_unknown_key_is_refused_with_the_known_ones(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2.5, "rate": 1}\n')
    with pytest.raises(ValueError, match="loss, rate"):
        read_series(path, "los")


def test_running_mean_ends_at_each_place():
    assert running_mean([1, 2, 3, 4], window=2) == [1, 1.5, 2.5, 3.5]


def points(svg: str) -> list[list[tuple[float, float]]]:
    lines = ElementTree.fromstring(svg).iter("polyline")
    return [
        [tuple(map(float, p.split(","))) for p in line.attrib["points"].split()] for line in lines
    ]


@pytest.mark.parametrize("length", [1, 2, 7, 300, 5000])
def test_a_chart_of_any_length_stays_inside_its_frame(length):
    svg = chart([(10 * i, 1 / (1 + i)) for i in range(length)], title="a < b")
    raw, mean = points(svg)
    assert len(raw) == len(mean) <= 300
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in raw + mean)


def test_a_falling_loss_is_drawn_falling_and_a_spike_does_not_flatten_it():
    values = [(i, 100.0 - i) for i in range(1000)]
    raw, _ = points(chart([*values, (1000, 1e9)], title="loss"))
    assert raw[0][1] < raw[100][1] < raw[200][1]
    assert raw[-2][1] - raw[0][1] > HEIGHT / 2


def test_values_that_are_not_finite_are_left_out():
    raw, _ = points(chart([(1, 2.0), (2, float("nan")), (3, 1.0)], title="loss"))
    assert len(raw) == 2
    with pytest.raises(ValueError, match="no finite value"):
        chart([(1, float("nan"))], title="loss")

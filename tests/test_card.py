"""The model card says what was measured, and that nothing was where nothing was."""

import json

import pytest
from huggingface_hub import ModelCard

from manzano.card import write_card
from manzano.eval.scores import write_scores
from tests.eval.test_scores import score_file


def written(folder, **options) -> ModelCard:
    write_card(folder, **{"library": "transformers"} | options)
    return ModelCard.load(folder / "README.md")


def test_metadata_are_what_the_hub_reads(tmp_path):
    card = written(tmp_path, library="diffusers", licence="mit")
    assert card.data.to_dict() == {
        "library_name": "diffusers", "license": "mit", "pipeline_tag": "any-to-any",
        "tags": ["manzano"],
    }  # fmt: skip
    card = written(tmp_path)
    assert card.data.license is None
    assert "None was given" in card.text


@pytest.mark.parametrize(
    ("name", "text"), [("none", None), ("metrics.jsonl", ""), ("metrics.json", "{}")]
)
def test_what_was_not_measured_is_said(tmp_path, name, text):
    if text is not None:
        (tmp_path / name).write_text(text)
    assert "Not measured." in written(tmp_path, metrics=tmp_path / name).text


def test_of_a_log_the_last_line_up_to_the_step_counts(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [
        {"step": step, "loss": 10.0 / step, "lr": 0.5, "text_per_second": 7.0}
        for step in (10, 20, 30)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "at step 30" in written(tmp_path, metrics=path).text
    text = written(tmp_path, metrics=path, step=25).text
    assert "at step 20" in text
    assert "| loss | 0.5 |" in text
    assert "| lr |" not in text and "per_second" not in text
    assert "Not measured." in written(tmp_path, metrics=path, step=5).text


def test_of_an_evaluation_every_figure_stands_beside_its_floor(tmp_path):
    path = tmp_path / "metrics.json"
    figures = {
        "vqa": {"value": 0.5, "floor": 0.25, "n": 8},
        "psnr": {"value": 20.0, "floor": None, "n": 4},
        "seed": 0, "versions": {"torch": "2"},
    }  # fmt: skip
    path.write_text(json.dumps(figures))
    text = written(tmp_path, metrics=path).text
    assert "| vqa | 0.5 | 0.25 | 8 |\n| psnr | 20 |  | 4 |\n" in text
    assert "torch" not in text


def test_of_a_score_file_the_first_measure_of_each_task_is_quoted(tmp_path):
    path = tmp_path / "scores.json"
    write_scores(score_file(), path)
    text = written(tmp_path, metrics=path).text
    assert "Of `manzano eval`, suite text-rich, way light, 2026-01-01." in text
    assert "| chartqa, accuracy | 0.25 | 0.2" in text
    assert "| majority 0.100 | 400 |" in text
    assert "chartqa, error" not in text

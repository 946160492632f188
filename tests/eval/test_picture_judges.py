"""Judges of picture suites on files that hold true pictures, wrong ones, and written text."""

import csv
import sys

import pytest
from PIL import Image, ImageDraw, ImageFont

from manzano.cli import main
from manzano.eval import concepts
from manzano.eval.pictures.files import write
from manzano.eval.pictures.judges import JUDGES, concept_prompts
from manzano.eval.pictures.layouts.registry import LAYOUTS, read_items
from manzano.eval.pictures.suite import data_record, truth_record
from manzano.eval.provenance import fingerprint
from manzano.eval.scores import read_scores


def lay_out(layout, items, draw):
    """Writes the files of items, `draw(item, index)` being their pictures."""
    for item in items:
        pictures = [draw(item, index) for index in range(layout.per_prompt)]
        for name, content in zip(
            layout.files(item), layout.contents(item, pictures, None), strict=True
        ):
            write(layout.folder / name, content, layout.folder.parent / ".partial")


def test_true_pictures_of_concepts_are_right_and_their_floor_is_low(tmp_path):
    prompts = concept_prompts(tmp_path / "prompts.jsonl")
    layout = LAYOUTS["concepts"](prompts=prompts, folder=tmp_path / "concepts", model="m")
    items = read_items(layout)[::4]
    lay_out(layout, items, lambda i, k: concepts.true_picture(i.facts["metadata"], seed=k))
    scores = JUDGES["concepts"](items, layout)["concepts"]
    assert scores["overall"].value >= 0.98 > 0.5 > scores["overall"].floors["other_prompts"]
    assert scores["overall"].n == len(items)
    tags = [score.value for name, score in scores.items() if name != "overall"]
    assert len(tags) == 6 and sum(tags) / 6 == pytest.approx(scores["overall"].value)


def test_a_tag_without_another_prompt_has_no_floor(tmp_path):
    """Held against itself its pictures would show their own score as the floor."""
    prompts = concept_prompts(tmp_path / "prompts.jsonl")
    layout = LAYOUTS["concepts"](prompts=prompts, folder=tmp_path / "concepts", model="m")
    items = read_items(layout, limit=13)
    assert [item.group for item in items[-2:]] == ["single_object", "two_object"]
    items = items[-3:]
    lay_out(layout, items, lambda i, k: concepts.true_picture(i.facts["metadata"], seed=k))
    scores = JUDGES["concepts"](items, layout)["concepts"]
    assert scores["two_object"].value == 1 and scores["two_object"].floors == {}
    assert scores["single_object"].floors == {"other_prompts": 0.0}
    assert scores["overall"].floors == {}


def test_a_blank_picture_shows_no_concept(tmp_path):
    prompts = concept_prompts(tmp_path / "prompts.jsonl")
    layout = LAYOUTS["concepts"](prompts=prompts, folder=tmp_path / "concepts", model="m")
    items = read_items(layout, limit=3)
    lay_out(layout, items, lambda item, index: Image.new("RGB", (72, 72), "white"))
    assert JUDGES["concepts"](items, layout)["concepts"]["overall"].value == 0


def test_concepts_are_drawn_and_scored_without_a_prompt_file(pipeline_folder, tmp_path):
    command = ["eval", str(pipeline_folder), "--suite", "concepts", "--output", str(tmp_path)]
    assert main([*command, "--steps", "1", "--limit", "2"]) == 0
    found = read_scores(tmp_path / "scores.json")
    assert found.environment["versions"]["resvg-py"] and found.environment["versions"]["scipy"]
    score = found.tasks["concepts"].scores["overall"]
    assert score.n == 2 and 0 <= score.value <= 1


def test_concepts_without_their_packages_are_refused_in_words(pipeline_folder, tmp_path, capsys):
    command = ["eval", str(pipeline_folder), "--suite", "concepts", "--output", str(tmp_path)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "resvg_py", None)
        assert main(command) == 2
    assert "pip install manzano[judges]" in capsys.readouterr().err


def written(words: str) -> Image.Image:
    picture = Image.new("RGB", (256, 96), "white")
    ImageDraw.Draw(picture).text((12, 30), words, "black", ImageFont.load_default(32))
    return picture


def test_the_text_of_oneig_is_read_off_each_quarter(tmp_path):
    texts = {"000": "MARKET", "001": "Coffee"}
    (tmp_path / "OneIG-Bench.csv").write_text(
        "category,id,prompt_en\n"
        "Text_Rendering,000,a sign\nText_Rendering,001,a cup\nPortrait,000,a woman\n"
    )
    path = tmp_path / "scripts" / "text" / "text_content.csv"
    path.parent.mkdir(parents=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["id", "text_content"], *texts.items()])
    prompts = tmp_path / "OneIG-Bench.csv"
    layout = LAYOUTS["oneig"](prompts=prompts, folder=tmp_path / "oneig", model="m")
    items = read_items(layout)
    # Of "Coffee" two of four quarters are empty.
    lay_out(
        layout, items,
        lambda i, k: written(texts[i.facts["id"]] if i.facts["id"] == "000" or k < 2 else ""),
    )  # fmt: skip
    scores = JUDGES["oneig"](items, layout)["oneig"]
    assert scores["agreed_words"].per_sample == {"text/000": 1.0, "text/001": 0.5}
    assert scores["agreed_words"].floors == {"other_prompts": 0.0}
    assert {"rapidocr_oneig_text", "easyocr_oneig_text"} <= scores.keys()
    assert JUDGES["oneig"](items[2:], layout) == {}
    record = truth_record(layout)
    path.write_text(path.read_text().replace("Coffee", "Tea"))
    assert record.keys() == {"truth_sha256"} and record != truth_record(layout)
    assert data_record(layout, None)["sha256"] == fingerprint(prompts)  # what is drawn stays

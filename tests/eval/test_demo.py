"""The parts of the demo that need no trained model."""

import json

import pytest
import yaml
from PIL import Image

from manzano.data_mix.schema import Sample, write_shards
from manzano.data_mix.sources.glyphs import question_turns
from manzano.eval.demo import READS, STAGES, Diary, stage_file
from manzano.eval.demo_report import samples_seen, spread
from manzano.eval.understanding import held_out_questions, training_pairs


@pytest.fixture
def source(tmp_path):
    """A source of ten pictures with two questions each, in both splits."""
    samples = [
        Sample(
            key=f"s-{index}",
            task="understanding",
            turns=question_turns([("Which?", str(index)), ("Red?", "yes")]),
            images=(Image.new("RGB", (8, 8), (index, 0, 0)),),
            source="test",
            licence="CC0-1.0",
            concept=f"c/{index}",
        )
        for index in range(10)
    ]
    for split in ("train", "test"):
        write_shards(samples, tmp_path / "source", split)
    return tmp_path / "source"


def test_questions_are_drawn_by_their_seed_and_keep_their_picture(source):
    drawn = held_out_questions(source, limit=12, seed=3)
    assert len(drawn) == 12
    assert drawn == held_out_questions(source, limit=12, seed=3)[:12]
    for item in drawn:
        if item.question == "Which?":
            assert item.picture.getpixel((0, 0)) == (int(item.answer), 0, 0)


def test_training_pairs_are_all_questions_in_order(source):
    expected = [pair for index in range(10) for pair in (("Which?", str(index)), ("Red?", "yes"))]
    assert list(training_pairs(source)) == expected


def test_what_is_shown_is_spread_over_the_whole(tmp_path):
    assert spread(range(10), 4) == [0, 3, 6, 9]
    assert spread(range(3), 8) == [0, 1, 2]


def test_samples_are_added_up_from_rates_and_times(tmp_path):
    lines = [
        {"step": 2, "samples_per_second": 8.0, "seconds_elapsed": 1.0},
        {"step": 4, "samples_per_second": 4.0, "seconds_elapsed": 3.0},
    ]
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert samples_seen(path) == 8 + 8


def test_the_diary_keeps_the_longest_time_and_its_notes(tmp_path):
    diary = Diary(tmp_path / "demo.json", steps=1)
    diary.seconds["data"] = 100.0
    with diary.step("data", "what"):
        pass
    diary.note("model", "abc")
    again = Diary(tmp_path / "demo.json", steps=1)
    assert again.seconds == {"data": 100.0}
    assert again.record["model"] == "abc"


@pytest.mark.parametrize(
    "folders", [["demo"], ["toy"], ["demo_pararnn", "demo"], ["demo_hybrid", "demo"]]
)
def test_a_stage_comes_after_those_it_reads(request, folders):
    order, configs = list(STAGES), [request.config.rootpath / "configs" / f for f in folders]
    trees = {s: yaml.safe_load(stage_file(configs, s).read_text(encoding="utf-8")) for s in STAGES}
    for stage, sources in READS.items():
        exports = {value for value in _strings(trees[stage]) if value.endswith("/export")}
        assert exports == {f"{trees[source]['loop']['output']}/export" for source in sources}
        assert all(order.index(source) < order.index(stage) for source in sources)


def test_a_stage_is_read_from_the_first_folder_that_has_it(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for file in (first / "llm.yaml", second / "llm.yaml", second / "vae.yaml"):
        file.parent.mkdir(exist_ok=True)
        file.touch()
    assert stage_file([first, second], "llm") == first / "llm.yaml"
    assert stage_file([first, second], "vae") == second / "vae.yaml"
    assert stage_file([first, second], "vision") == first / "vision.yaml"


def _strings(tree) -> list[str]:
    if isinstance(tree, dict):
        return [text for value in tree.values() for text in _strings(value)]
    return [tree] if isinstance(tree, str) else []

"""The page of mistakes: everything is on it, nothing is fetched, and no sample can break it."""

import base64
import io
import json
import re

import pytest
from PIL import Image

from manzano.eval.scores import ScoreFile, TaskScores
from manzano.eval.text_rich.asking import ask
from manzano.eval.text_rich.data import open_benchmarks
from manzano.eval.text_rich.mistakes import MISTAKES, RIGHT, SIDE, sample, shown, write_mistakes
from manzano.eval.text_rich.suite import scores
from tests.eval.hub_data import encoded, rows, write_shard
from tests.tiny import drawing


@pytest.fixture
def benchmark(tmp_path):
    content = rows("chartqa", 8)
    content[0]["question"] = "</script><b>how & many?"
    content[1]["image"] = None
    content[2]["image"] = encoded(drawing(2).resize((2000, 1000)))
    write_shard(tmp_path / "chartqa", "chartqa", content)
    return open_benchmarks(tmp_path)[0]


def page(benchmark, path):
    records = ask(benchmark, lambda conversations, _: ["1"] * len(conversations), range(8))
    task = TaskScores(
        scores=scores(benchmark.task, records), n=8, data={}, settings={},
        failed={r["key"]: r["error"] for r in records if "error" in r},
    )  # fmt: skip
    file = ScoreFile(
        suite="text-rich", model={"name": "<m>", "sha256": "0" * 64}, environment={}, seed=0,
        tasks={"chartqa": task}, started="2026-01-31T12:00:00+00:00", wall_seconds=1.0,
    )  # fmt: skip
    write_mistakes(file, [benchmark], {"chartqa": records}, path)
    return path.read_text(encoding="utf-8"), records


def embedded(text: str) -> list[dict]:
    (data,) = re.findall(r'<script type="application/json" id="samples">(.*?)</script>', text)
    return json.loads(data)


def test_all_samples_are_on_the_page_with_what_is_known_of_them(benchmark, tmp_path):
    text, records = page(benchmark, tmp_path / "mistakes.html")
    found = embedded(text)
    assert [s["key"] for s in found] == [str(place) for place in range(8)]
    for own, record in zip(found, records, strict=True):
        assert own["question"] == record["question"]
        assert own["references"] == record["references"]
        assert own["score"] == record["score"]
        assert own.get("error") == record.get("error")
    assert found[0]["question"] == "</script><b>how & many?"
    assert found[1]["picture"] is None and "no picture" in found[1]["error"]
    assert {record["score"] for record in records} == {0.0, 1.0}


def test_pictures_are_inline_and_no_larger_than_needed(benchmark, tmp_path):
    found = embedded(page(benchmark, tmp_path / "mistakes.html")[0])
    sizes = []
    for place in (0, 2):
        head, data = found[place]["picture"].split(",")
        assert head == "data:image/jpeg;base64"
        sizes.append(Image.open(io.BytesIO(base64.b64decode(data))).size)
    assert sizes == [(48, 48), (SIDE, SIDE // 2)]


def test_the_page_needs_nothing_beside_it(benchmark, tmp_path):
    text, _ = page(benchmark, tmp_path / "mistakes.html")
    assert not re.search(r"""(src|href)=|url\(|@import|https?://""", text)
    assert text.count("</script>") == 2
    assert "&lt;m&gt;" in text and "<m>" not in text
    assert "prefers-color-scheme: dark" in text


def test_of_many_samples_some_are_shown_in_order():
    records = [{"key": str(place), "score": float(place % 4 == 0)} for place in range(4000)]
    found = shown(records)
    keys = [int(record["key"]) for record in found]
    assert keys == sorted(keys) and len(set(keys)) == len(keys)
    wrong = sum(record["score"] < 1 for record in found)
    assert MISTAKES * 0.9 < wrong <= MISTAKES
    assert RIGHT * 0.9 < len(found) - wrong <= RIGHT
    assert shown([]) == []


def test_search_finds_questions_answers_and_references(benchmark):
    (record,) = ask(benchmark, lambda conversations, _: ["Blue"], [3])
    assert sample(benchmark, record)["text"] == "what is number 3? 0 blue"

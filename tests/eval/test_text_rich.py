"""The text-rich suite end to end on a tiny model: questions, scores, floors, kills, bad samples."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch

from manzano.answering import AnswerSettings, Message
from manzano.cli import main
from manzano.eval.scores import read_scores
from manzano.eval.text_rich.asking import ask, wrong_pictures
from manzano.eval.text_rich.data import open_benchmarks
from manzano.eval.text_rich.suite import scores
from manzano.eval.text_rich.tasks import TASKS
from manzano.pipeline import ManzanoPipeline
from tests.eval.hub_data import rows, write_parquet, write_shard
from tests.tiny import drawing, tiny_pipeline

ROOT = Path(__file__).parents[2]
PHRASE = "\nAnswer the question using a single word or phrase."


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A Manzano folder with room for the prompts of the benchmarks."""
    folder = tmp_path_factory.mktemp("model")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pipeline = tiny_pipeline()
    pipeline.processor.max_length = 400
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pipeline(model) -> ManzanoPipeline:
    return ManzanoPipeline.from_pretrained(model)


def evaluate(model: Path, data: Path, output: Path, *flags: str) -> int:
    words = ["eval", str(model), "--suite", "text-rich", "--data", str(data)]
    return main([*words, "--output", str(output), *flags])


def timeless(output: Path) -> dict:
    content = json.loads((output / "scores.json").read_text())
    return {k: v for k, v in content.items() if k not in ("started", "wall_seconds")}


def records(output: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (output / f"{name}.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("name", "words", "tokens"),
    [
        ("chartqa", "what is number 1?\nAnswer the question with a single word.", 16),
        ("textvqa", f"What is number 1?{PHRASE}", 1024),
        ("docvqa", f"what is number 1?{PHRASE}", 32),
        ("infovqa", f"what is number 1?{PHRASE}", 32),
        ("ocrbench", "what is number 1?", 128),
    ],
)
def test_a_question_is_put_as_the_harness_puts_it(tmp_path, name, words, tokens):
    write_parquet(tmp_path / name, name, rows(name, 5))
    (benchmark,) = open_benchmarks(tmp_path)
    asked = []

    def chat(conversations, settings):
        asked.append((conversations, settings))
        return ["1"] * len(conversations)

    (record,) = ask(benchmark, chat, [1])
    ((message,),) = asked[0][0]
    picture, said = message.content
    assert (said, message.role) == (words, "user")
    assert picture.tobytes() == drawing(1).tobytes()
    stop = ("ASSISTANT:",) if name == "textvqa" else ("\n\n",)
    assert asked[0][1] == AnswerSettings(max_new_tokens=tokens, stop=stop)
    assert record["score"] == 1


def test_what_the_model_says_itself_is_right_about_its_own_pictures_alone(
    tmp_path, model, pipeline
):
    content = rows("chartqa", 10)
    for place, row in enumerate(content):
        words = f"{row['question']}\nAnswer the question with a single word."
        turn = Message("user", (drawing(place), words))
        settings = AnswerSettings(max_new_tokens=16, stop=("\n\n",))
        row["answer"] = pipeline.chat_batch([[turn]], settings)[0]
    write_parquet(tmp_path / "data" / "chartqa", "chartqa", content)
    assert evaluate(model, tmp_path / "data", tmp_path / "out", "--floors") == 0
    task = read_scores(tmp_path / "out" / "scores.json").tasks["chartqa"]
    assert {name: s.value for name, s in task.scores.items()} == {
        "relaxed_overall": 1, "relaxed_augmented_split": 1, "relaxed_human_split": 1,
    }  # fmt: skip
    floor = task.scores["relaxed_overall"].floors
    assert floor.keys() == {"majority", "question_only", "shuffled_images"}
    assert floor["shuffled_images"] < 0.8
    shown = [record["image"] for record in records(tmp_path / "out", "chartqa.shuffled")]
    own = [record["image"] for record in records(tmp_path / "out", "chartqa")]
    assert sorted(shown) == sorted(own) and all(a != b for a, b in zip(shown, own, strict=True))


def test_all_tasks_of_a_folder_are_scored_and_told_of(tmp_path, model, capsys):
    for place, name in enumerate(TASKS):
        writer = write_shard if place % 2 else write_parquet
        writer(tmp_path / "data" / name, name, rows(name, 9))
    flags = ("--limit", "7", "--batch-size", "3", "--max-tiles", "2", "--prompt", "{question}")
    assert evaluate(model, tmp_path / "data", tmp_path / "out", *flags) == 0
    found = read_scores(tmp_path / "out" / "scores.json")
    assert list(found.tasks) == list(TASKS)
    assert found.environment["batch_size"] == 3
    for name, task in found.tasks.items():
        assert next(iter(task.scores)) == TASKS[name].measure
        assert (task.n, task.data["rows"], task.data["asked"]) == (7, 9, 7)
        assert (task.settings["prompt"], task.settings["max_tiles"]) == ("{question}", 2)
        assert task.failed == {}
        for record in records(tmp_path / "out", name):
            assert record.keys() >= {"image", "question", "answer", "references", "score"}
    assert capsys.readouterr().out.split()[-1] == str(tmp_path / "out" / "scores.json")


@pytest.mark.parametrize("writer", [write_parquet, write_shard])
def test_a_folder_may_be_that_of_one_task(tmp_path, writer):
    writer(tmp_path, "ocrbench", rows("ocrbench", 4))
    (benchmark,) = open_benchmarks(tmp_path, ["ocrbench"])
    assert benchmark.count == 4


def test_one_faulty_sample_of_each_kind_fails_alone(tmp_path, model):
    content = rows("ocrbench", 10)
    good = write_shard(tmp_path / "good" / "ocrbench", "ocrbench", content)
    content[1]["image"] = None
    content[2]["image"] = content[2]["image"][:90]
    content[3]["answer"] = None
    content[4]["answer"] = []
    content[5]["question"] = 7
    content[6]["question"] = "what is <image>?"
    content[7]["question_type"] = "Riddles"
    content[8]["answer"] = 2
    write_shard(tmp_path / "bad" / "ocrbench", "ocrbench", content)
    assert good.is_file()
    for name in ("good", "bad"):
        assert evaluate(model, tmp_path / name, tmp_path / f"{name}-out", "--floors") == 0
    task = read_scores(tmp_path / "bad-out" / "scores.json").tasks["ocrbench"]
    parts = ("picture", "truncated", "NoneType", "empty", "int", "special tokens", "Riddles")
    assert list(task.failed) == [str(place) for place in range(1, 8)]
    for part, fault in zip(parts, task.failed.values(), strict=True):
        assert part in fault
    assert task.n == task.scores["ocrbench_accuracy"].n == 10
    assert all(task.scores["ocrbench_accuracy"].per_sample[key] == 0 for key in task.failed)
    whole, harmed = (records(tmp_path / f"{name}-out", "ocrbench") for name in ("good", "bad"))
    for place in (0, 8, 9):
        assert harmed[place]["question"] == whole[place]["question"]
        assert isinstance(harmed[place]["answer"], str)


def test_what_nobody_can_score_counts_as_wrong_for_the_floors_too(tmp_path):
    content = rows("textvqa", 4)
    for place, row in enumerate(content):
        row["answers"] = [["1"] * 10, ["1"] * 10, ["1"], None][place]
    write_shard(tmp_path / "textvqa", "textvqa", content)
    (benchmark,) = open_benchmarks(tmp_path)
    records = ask(benchmark, lambda said, settings: ["1"] * len(said), range(4))
    assert ["error" in record for record in records] == [False, False, True, True]
    found = scores(benchmark.task, records)["exact_match"]
    assert (found.value, found.floors["majority"], found.floors["question_only"]) == (0.5, 0.5, 0.5)


def test_a_benchmark_of_which_nothing_can_be_asked_is_an_error(tmp_path, model, capsys):
    content = [row | {"image": None} for row in rows("chartqa", 4)]
    write_shard(tmp_path / "chartqa", "chartqa", content)
    assert evaluate(model, tmp_path, tmp_path / "out") == 2
    assert "no sample could be asked; the first: there is no picture" in capsys.readouterr().err


def test_a_killed_evaluation_goes_on_and_ends_in_the_same_file(tmp_path, model):
    data, whole, killed = (tmp_path / name for name in ("data", "whole", "killed"))
    write_parquet(data / "chartqa", "chartqa", rows("chartqa", 24))
    flags = ("--batch-size", "2")
    words = ["eval", str(model), "--suite", "text-rich", "--data", str(data), *flags]
    process = subprocess.Popen(
        [sys.executable, "-m", "manzano.cli", *words, "--output", str(killed)],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    log = killed / "chartqa.jsonl"
    while not (log.exists() and log.read_bytes().count(b"\n") >= 4):
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = log.read_text().splitlines()[:4]
    assert not (killed / "scores.json").exists()
    assert evaluate(model, data, killed, *flags) == 0
    assert evaluate(model, data, whole, *flags) == 0
    assert timeless(killed) == timeless(whole)
    assert log.read_text().splitlines()[:4] == before


def test_other_settings_need_another_folder(tmp_path, model, capsys):
    write_parquet(tmp_path / "chartqa", "chartqa", rows("chartqa", 3))
    assert evaluate(model, tmp_path, tmp_path / "out", "--limit", "2") == 0
    assert evaluate(model, tmp_path, tmp_path / "out", "--limit", "3") == 2
    assert "begun with other settings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (["chart"], {}, "unknown tasks chart: there are chartqa"),
        (["chartqa", "docvqa"], {}, "no sub-folder docvqa"),
        ([], {"limit": 0}, "limit must be 1 or more"),
        ([], {"prompt": "Answer:"}, r"must have \{question\}"),
    ],
)
def test_what_cannot_be_opened_is_said(tmp_path, names, options, message):
    write_parquet(tmp_path / "chartqa", "chartqa", rows("chartqa", 2))
    with pytest.raises(ValueError, match=message):
        open_benchmarks(tmp_path, names, **options)


def test_an_empty_folder_says_what_it_should_hold(tmp_path):
    with pytest.raises(ValueError, match="no sub-folder called chartqa, textvqa"):
        open_benchmarks(tmp_path)
    with pytest.raises(ValueError, match="there is no folder"):
        open_benchmarks(tmp_path / "none")


def test_data_must_be_given(tmp_path, model, capsys):
    words = ["eval", str(model), "--suite", "text-rich", "--output", str(tmp_path)]
    assert main(words) == 2
    assert "needs --data" in capsys.readouterr().err


def test_wrong_pictures_are_each_shown_once_and_never_to_their_own_question():
    pages = ["a", "b", "c", "d", "e"]
    for pictures in (["a", "b"], ["a", "b", "c"], pages * 10, ["a", "a", "b", "a", "c", "b"]):
        found = wrong_pictures(pictures, seed=3)
        assert Counter(found.values()) == Counter(range(len(pictures)))
        assert all(pictures[place] != pictures[shown] for place, shown in found.items())
    assert wrong_pictures(pages * 10, seed=3) != wrong_pictures(pages * 10, seed=4)
    for pictures in (["a"], ["a", "a", "b"]):
        with pytest.raises(ValueError, match="about the same one"):
            wrong_pictures(pictures, seed=0)


def test_questions_about_one_picture_are_one_draw():
    def record(place, picture):
        return {
            "key": str(place), "score": float(picture == "a"), "question": "what?",
            "references": ["x"], "columns": {"type": "human_test"}, "picture": picture,
        }  # fmt: skip

    same = [record(place, "ab"[place % 2]) for place in range(40)]
    apart = [record | {"picture": str(place)} for place, record in enumerate(same)]
    together = scores(TASKS["chartqa"], same)["relaxed_overall"]
    alone = scores(TASKS["chartqa"], apart)["relaxed_overall"]
    assert together.value == alone.value == 0.5
    assert (together.low, together.high) == (0.0, 1.0)  # two pictures, one right and one wrong
    assert alone.low > 0.3 and not alone.clusters


def test_floors_and_parts_are_counted_over_the_same_samples():
    def record(place, kind, question, reference, score):
        columns = {"type": kind}
        part = TASKS["chartqa"].part(columns)
        return {
            "key": str(place), "question": question, "columns": columns, "part": part,
            "references": [reference], "score": score,
        }  # fmt: skip

    asked = [
        record(0, "human_test", "how many?", "4", 1.0),
        record(1, "human_test", "How many?", "4", 0.0),
        record(2, "augmented_test", "which?", "red", 1.0),
        record(3, "augmented_test", "why?", "4", 1.0),
    ]
    blind = [{"key": str(place), "score": float(place == 3)} for place in range(4)]
    found = scores(TASKS["chartqa"], asked, blind)
    assert {name: (s.value, s.n) for name, s in found.items()} == {
        "relaxed_overall": (0.75, 4),
        "relaxed_human_split": (0.5, 2),
        "relaxed_augmented_split": (1.0, 2),
    }
    assert found["relaxed_overall"].floors == {
        "majority": 0.75, "question_only": 0.75, "shuffled_images": 0.25,
    }  # fmt: skip
    assert found["relaxed_augmented_split"].floors["shuffled_images"] == 0.5


def test_the_help_names_what_the_suite_takes(capsys):
    with pytest.raises(SystemExit):
        main(["eval", "--help"])
    told = capsys.readouterr().out
    assert all(flag in told for flag in ("--data", "--tasks", "--floors", "--prompt"))

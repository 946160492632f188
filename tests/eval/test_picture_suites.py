"""Suites of pictures: killed and gone on, a part of the prompts, bad prompts, bad models."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from manzano.cli import main
from manzano.data_mix.images import load_image
from manzano.drawing import DrawingSettings
from manzano.eval.pictures.judges import JUDGES
from manzano.eval.pictures.suite import seed_of
from manzano.eval.scores import mean_score, read_scores, write_scores
from manzano.pipeline import ManzanoPipeline
from tests import benchmarks


def command(model: Path, suite: str, prompts: Path, output: Path, *more: str) -> list[str]:
    own = ["eval", str(model), "--suite", suite, "--prompts", str(prompts)]
    return [*own, "--output", str(output), "--steps", "1", "--batch-size", "4", *more]


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def timeless(path: Path) -> dict:
    """A score file but for its times."""
    scores = json.loads(path.read_text())
    return scores | {"started": None, "wall_seconds": None}


def records(output: Path, suite: str) -> dict[str, dict]:
    lines = (output / f"{suite}.jsonl").read_text().splitlines()
    return {line["key"]: line for line in map(json.loads, lines)}


def many_prompts(folder: Path) -> Path:
    path = folder / "evaluation_metadata.jsonl"
    rows = [{"tag": "colors", "include": [], "prompt": f"a red heart {i}"} for i in range(10)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_killed_and_gone_on_equals_uninterrupted_byte_for_byte(pipeline_folder, tmp_path):
    prompts, log = many_prompts(tmp_path), tmp_path / "killed" / "geneval.jsonl"
    killed = command(pipeline_folder, "geneval", prompts, tmp_path / "killed")
    process = subprocess.Popen([sys.executable, "-m", "manzano.cli", *killed])
    while not (log.exists() and log.read_bytes().count(b"\n") >= 2):
        assert process.poll() is None
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert 2 <= len(records(log.parent, "geneval")) < 10
    assert not (log.parent / "scores.json").exists()
    assert main(killed) == 0
    assert main(command(pipeline_folder, "geneval", prompts, tmp_path / "whole")) == 0
    for name in ("killed/geneval", "whole/geneval"):
        assert len(files(tmp_path / name)) == 10 * 5
    assert files(tmp_path / "killed" / "geneval") == files(tmp_path / "whole" / "geneval")
    assert timeless(log.parent / "scores.json") == timeless(tmp_path / "whole" / "scores.json")


@pytest.fixture(scope="module")
def drawn(pipeline_folder, tmp_path_factory):
    """`drawn(suite)`: prompts and output of a finished evaluation."""
    done = {}

    def evaluate(suite: str):
        if suite not in done:
            base = tmp_path_factory.mktemp(suite)
            prompts = benchmarks.PROMPTS[suite](base)
            assert main(command(pipeline_folder, suite, prompts, base / "out")) == 0
            done[suite] = prompts, base / "out"
        return done[suite]

    return evaluate


@pytest.mark.parametrize("suite", ["geneval", "oneig", "gedit"])
def test_deleted_and_torn_files_are_drawn_again_the_same(suite, drawn, pipeline_folder, tmp_path):
    prompts, finished = drawn(suite)
    output = tmp_path / "out"
    shutil.copytree(finished, output)
    paths = sorted(p for p in (output / suite).rglob("*") if p.suffix in (".png", ".webp"))
    paths[0].unlink()
    paths[-1].write_bytes(paths[-1].read_bytes()[:-40])
    (output / "scores.json").unlink()
    assert main(command(pipeline_folder, suite, prompts, output)) == 0
    assert files(output / suite) == files(finished / suite)
    assert timeless(output / "scores.json") == timeless(finished / "scores.json")


@pytest.mark.parametrize("suite", ["geneval", "gedit"])
def test_a_part_of_the_prompts_has_the_seeds_and_files_of_the_whole(
    suite, drawn, pipeline_folder, tmp_path
):
    prompts, finished = drawn(suite)
    assert main(command(pipeline_folder, suite, prompts, tmp_path, "--limit", "1")) == 0
    whole, part = records(finished, suite), records(tmp_path, suite)
    assert part and part.keys() < whole.keys()
    for key, record in part.items():
        assert record["seeds"] == whole[key]["seeds"] and record["files"] == whole[key]["files"]
        for name in record["files"]:
            pair = [tmp_path / suite / name, finished / suite / name]
            if pair[0].suffix == ".png":
                assert_alike(*pair)


def assert_alike(first: Path, second: Path) -> None:
    """The same picture, up to the rounding that a batch of another size brings."""
    pixels = [np.asarray(load_image(path)).astype(int) for path in (first, second)]
    assert np.abs(pixels[0] - pixels[1]).max() <= 2


def test_another_batch_size_changes_no_seed_and_no_picture(drawn, pipeline_folder, tmp_path):
    prompts, finished = drawn("geneval")
    assert main([*command(pipeline_folder, "geneval", prompts, tmp_path), "--batch-size", "3"]) == 0
    whole, other = records(finished, "geneval"), records(tmp_path, "geneval")
    assert [r["seeds"] for r in other.values()] == [r["seeds"] for r in whole.values()]
    for name in [name for record in whole.values() for name in record["files"]]:
        if name.endswith(".png"):
            assert_alike(tmp_path / "geneval" / name, finished / "geneval" / name)


def test_a_picture_is_that_of_its_prompt_and_seed_alone(drawn, pipeline_folder):
    _, output = drawn("geneval")
    pipeline = ManzanoPipeline.from_pretrained(pipeline_folder)
    settings = DrawingSettings(num_steps=1)
    record = records(output, "geneval")["00001"]
    for index, seed in enumerate(record["seeds"]):
        assert seed == seed_of(0, "a blue star", index)
        alone = pipeline.draw("a blue star", seed=seed, settings=settings)
        together = load_image(output / "geneval" / record["files"][index])
        difference = np.abs(np.asarray(alone).astype(int) - np.asarray(together)).max()
        assert difference <= 2


def test_seeds_differ_by_seed_prompt_and_picture_and_fit_torch():
    seeds = {seed_of(s, p, i) for s in (0, 1) for p in ("a", "b", "1\na") for i in range(4)}
    assert len(seeds) == 24 and all(0 <= seed < 2**63 for seed in seeds)
    assert seed_of(0, "a red heart", 0) == 3325341704506367051  # for good: runs are made again


def test_the_score_file_holds_what_is_needed_to_draw_again(drawn):
    _, output = drawn("gedit")
    scores = read_scores(output / "scores.json")
    assert scores.suite == "gedit" and list(scores.tasks) == ["gedit-en", "gedit-cn"]
    english = scores.tasks["gedit-en"]
    assert (english.n, dict(english.scores), dict(english.failed)) == (2, {}, {})
    assert english.settings["drawing"]["num_steps"] == 1
    assert len(english.data["sha256"]) == 64 and english.data["limit"] is None
    assert len(scores.model["sha256"]) == 64


@pytest.mark.parametrize("bad", ["", "an <image> of a heart", "a heart " * 40, None])
def test_a_bad_prompt_is_told_and_leaves_the_others_unharmed(
    bad, drawn, pipeline_folder, tmp_path, capsys
):
    prompts, finished = drawn("geneval")
    rows = [json.loads(line) for line in prompts.read_text().splitlines()]
    rows[1]["prompt"] = bad
    path = tmp_path / "bad.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(command(pipeline_folder, "geneval", path, tmp_path / "out")) == 0
    assert "1 of 3 prompts failed" in capsys.readouterr().out
    assert list(read_scores(tmp_path / "out" / "scores.json").tasks["geneval"].failed) == ["00001"]
    for record in records(tmp_path / "out", "geneval").values():
        for name in record["files"][:4]:
            path = tmp_path / "out" / "geneval" / name
            if record["error"]:
                assert load_image(path).getextrema() == ((0, 0),) * 3
            else:
                assert_alike(path, finished / "geneval" / name)


def test_a_source_that_is_missing_or_torn_fails_alone(pipeline_folder, tmp_path):
    prompts = benchmarks.imgedit(tmp_path)
    torn = tmp_path / "for_add" / "1.jpg"
    torn.write_bytes(torn.read_bytes()[:200])
    output = tmp_path / "out"
    assert main(command(pipeline_folder, "imgedit", prompts, output)) == 0
    failed = read_scores(output / "scores.json").tasks["imgedit"].failed
    assert list(failed) == ["97"] and "truncated" in failed["97"]
    assert load_image(output / "imgedit" / "97.png").getextrema() == ((0, 0),) * 3
    assert load_image(output / "imgedit" / "1082.png").getextrema() != ((0, 0),) * 3


def test_a_broken_source_of_gedit_still_has_both_its_files(pipeline_folder, tmp_path):
    prompts = benchmarks.gedit_json(tmp_path)
    (tmp_path / "1-40-48.png").unlink()
    output = tmp_path / "out"
    assert main(command(pipeline_folder, "gedit", prompts, output)) == 0
    own = next((output / "gedit").glob("*/fullset/subject-add/en"))
    assert sorted(path.name for path in own.iterdir()) == ["k1.png", "k1_SRCIMG.png"]


@pytest.mark.parametrize("words", ["a/b and c_d", "h" * 300])
def test_a_prompt_that_cannot_stand_in_a_name_fails_alone(words, pipeline_folder, tmp_path):
    path = tmp_path / "color_val.txt"
    path.write_text(f"a red heart\n{words}\na blue star\n")
    output = tmp_path / "out"
    assert main(command(pipeline_folder, "t2i-compbench", path, output)) == 0
    task = read_scores(output / "scores.json").tasks["t2i-compbench-color"]
    assert (
        list(task.failed) == ["color/0001"] and "off the file's name" in task.failed["color/0001"]
    )
    names = os.listdir(output / "t2i-compbench" / "color" / "samples")
    assert sorted(int(name.split("_")[1].split(".")[0]) for name in names) == list(range(30))


def test_a_suite_is_not_gone_on_with_by_other_settings(drawn, pipeline_folder, capsys):
    prompts, output = drawn("geneval")
    for more in (["--seed", "1"], ["--steps", "2"], ["--height", "32"], ["--limit", "2"]):
        assert main([*command(pipeline_folder, "geneval", prompts, output), *more]) == 2
        assert "begun with other settings" in capsys.readouterr().err


def test_a_size_is_obeyed(pipeline_folder, tmp_path):
    prompts = benchmarks.oneig(tmp_path)
    size = ["--height", "32", "--width", "64"]
    assert main([*command(pipeline_folder, "oneig", prompts, tmp_path / "out"), *size]) == 0
    name = records(tmp_path / "out", "oneig")["text/000"]["files"][0]
    assert load_image(tmp_path / "out" / "oneig" / name).size == (128, 64)


@pytest.mark.parametrize(
    ("suite", "more", "message"),
    [
        ("geneval", ["--height", "33"], "multiples of"),
        ("dpg", ["--height", "32"], "as squares"),
        ("gedit", ["--height", "32"], "size of their sources"),
        ("geneval", ["--limit", "0"], "must be 1 or more"),
        ("geneval", ["--batch-size", "0"], "must be 1 or more"),
        ("geneval", ["--steps", "0"], "at least one step"),
        ("geneval", ["--prompts", "nothing.jsonl"], "there is no nothing.jsonl"),
    ],
)
def test_arguments_that_make_no_sense_end_in_a_sentence(
    suite, more, message, pipeline_folder, tmp_path, capsys
):
    prompts = benchmarks.PROMPTS[suite](tmp_path)
    assert main([*command(pipeline_folder, suite, prompts, tmp_path / "out"), *more]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_prompts_must_be_given(pipeline_folder, capsys):
    assert main(["eval", str(pipeline_folder), "--suite", "wise"]) == 2
    assert "needs --prompts the folder data_verified" in capsys.readouterr().err


def test_what_would_do_nothing_is_refused(pipeline_folder, tmp_path, capsys):
    prompts = benchmarks.geneval(tmp_path)
    for option, suites in (("--floors", "text-rich"), ("--images x", "imgedit")):
        words = command(pipeline_folder, "geneval", prompts, tmp_path / "out", *option.split())
        assert main(words) == 2
        message = f"takes no {option.split()[0]}: that is of {suites}"
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wanted", "message"),
    [({"class": "zebra", "count": 1}, "the rules know"), ({"class": "star"}, "without .'count'")],
)
def test_prompts_that_the_rules_cannot_judge_are_refused_before_they_are_drawn(
    pipeline_folder, tmp_path, capsys, wanted, message
):
    prompts = tmp_path / "evaluation_metadata.jsonl"
    prompts.write_text(json.dumps({"tag": "colors", "include": [wanted], "prompt": "a zebra"}))
    assert main(command(pipeline_folder, "concepts", prompts, tmp_path / "out")) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_official_scores_stay_until_a_picture_is_drawn_anew(
    drawn, pipeline_folder, tmp_path, capsys
):
    prompts, finished = drawn("geneval")
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    again = command(pipeline_folder, "geneval", prompts, out)
    scores = read_scores(out / "scores.json")
    task = scores.tasks["geneval"]
    official = {"overall": mean_score({"00000": 1.0})}
    task = replace(task, scores=official, settings={**task.settings, "scorer": "official"})
    write_scores(replace(scores, tasks={"geneval": task}), out / "scores.json")
    assert main(again) == 0
    assert read_scores(out / "scores.json").tasks["geneval"].scores == official
    (out / "geneval" / "00000" / "samples" / "0001.png").unlink()
    assert main(again) == 0
    assert not read_scores(out / "scores.json").tasks["geneval"].scores


def test_a_model_without_a_decoder_cannot_draw(pipeline_folder, tmp_path, capsys):
    folder = tmp_path / "model"
    shutil.copytree(pipeline_folder, folder, ignore=shutil.ignore_patterns("transformer", "vae"))
    prompts = benchmarks.geneval(tmp_path)
    assert main(command(folder, "geneval", prompts, tmp_path / "out")) == 2
    assert "cannot draw: it lacks transformer, vae" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_model_without_image_ids_cannot_draw(pipeline_folder, tmp_path, capsys):
    folder = tmp_path / "model"
    shutil.copytree(pipeline_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    config["vocabulary"] |= {"image_size": 0, "sizes": []}
    (folder / "config.json").write_text(json.dumps(config))
    prompts = benchmarks.imgedit(tmp_path)
    assert main(command(folder, "imgedit", prompts, tmp_path / "out")) == 2
    assert "its vocabulary has no image ids" in capsys.readouterr().err


def test_a_judge_scores_the_files_and_one_that_is_missing_is_told(
    drawn, pipeline_folder, tmp_path, monkeypatch, capsys
):
    def brightness(items, layout):
        values = {
            item.key: float(np.mean(load_image(layout.folder / layout.files(item)[0])) / 255)
            for item in items
        }
        return {"geneval": {"brightness": mean_score(values)}}

    def missing(items, layout):
        raise ValueError("OCR needs rapidocr: pip install manzano[judges]")

    monkeypatch.setitem(JUDGES, "geneval", missing)
    prompts, finished = drawn("geneval")
    shutil.copytree(finished, tmp_path / "out")
    assert main(command(pipeline_folder, "geneval", prompts, tmp_path / "out")) == 0
    assert "not scored here: OCR needs rapidocr" in capsys.readouterr().out
    assert not read_scores(tmp_path / "out" / "scores.json").tasks["geneval"].scores
    monkeypatch.setitem(JUDGES, "geneval", brightness)
    assert main(command(pipeline_folder, "geneval", prompts, tmp_path / "out")) == 0
    score = read_scores(tmp_path / "out" / "scores.json").tasks["geneval"].scores["brightness"]
    first = [finished / "geneval" / f"0000{i}/samples/0000.png" for i in range(3)]
    means = [np.mean(load_image(path)) / 255 for path in first]
    assert score.value == pytest.approx(np.mean(means)) and score.n == 3

"""Held-out samples drawn, edited and scored: the whole command, on folders of ours."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import models

from manzano.cli import main
from manzano.data_mix.images import load_image
from manzano.data_mix.schema import Turn, encode_sample, write_shards
from manzano.drawing import DrawingSettings
from manzano.eval.distances import fid, kid, lpips, lpips_network, picture_features
from manzano.eval.editing import edit_scores
from manzano.eval.held_out.judges import quoted_text, round_trip
from manzano.eval.pictures.suite import seed_of
from manzano.eval.scores import ScoreFile, read_scores
from manzano.pipeline import ManzanoPipeline
from tests.data_mix.samples import hole, make_folder, make_sample
from tests.tiny import drawing

SIZE = (48, 48)


def edit(index: int, **changes):
    """An edit: a box of the picture becomes white."""
    source, target = drawing(index), drawing(index)
    target.paste((255, 255, 255), (10, 20, 20, 40))
    return make_sample("editing", index, **({"images": (source,), "target": target} | changes))


def masked(index: int):
    mask = Image.new("L", SIZE)
    mask.paste(255, (8, 16, 24, 40))
    return edit(index, mask=mask)


def sign(index: int, prompt: str, target: Image.Image | None = None):
    turns = (Turn(role="user", text=prompt),)
    return make_sample("generation", index, turns=turns, target=target or drawing(index))


def shards(folder: Path, *samples) -> Path:
    write_shards(samples, folder, "test")
    return folder


def command(model: Path, data: Path, output: Path, *more: str) -> list[str]:
    own = ["eval", str(model), "--suite", "held-out", "--data", str(data)]
    return [*own, "--output", str(output), "--steps", "1", "--batch-size", "2", *more]


def evaluate(model: Path, data: Path, output: Path, *more: str) -> ScoreFile:
    assert main(command(model, data, output, *more)) == 0
    return read_scores(output / "scores.json")


@pytest.fixture(scope="module")
def alexnet(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "alex.pth"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(models.alexnet(weights=None).state_dict(), path)
    return path


class Grid(torch.nn.Module):
    """In place of Inception, whose weights cannot be had here: the pixels of a coarse grid."""

    def forward(self, pictures):
        return torch.nn.functional.adaptive_avg_pool2d(pictures.float() / 255, 2).flatten(1)


@pytest.fixture(scope="module")
def edits(tmp_path_factory) -> Path:
    return shards(tmp_path_factory.mktemp("edits"), edit(0), edit(1), masked(2), edit(3))


@pytest.fixture(scope="module")
def edited(pipeline_folder, edits, alexnet, tmp_path_factory) -> tuple[Path, ScoreFile]:
    """Output and scores of a finished evaluation."""
    output = tmp_path_factory.mktemp("edited") / "out"
    return output, evaluate(pipeline_folder, edits, output, "--lpips", str(alexnet))


def test_edits_have_the_scores_of_their_files(pipeline_folder, edited, alexnet):
    output, scores = edited
    task = scores.tasks["editing"]
    assert (task.n, dict(task.failed), task.data["not_scored"]) == (4, {}, {})
    pipeline = ManzanoPipeline.from_pretrained(pipeline_folder)
    samples = [edit(0), edit(1), masked(2), edit(3)]
    rows = {}
    for sample in samples:
        vae = round_trip(pipeline, sample.images[0], sample.mask)
        picture = load_image(output / "held-out" / f"{sample.key}.png")
        rows[sample.key] = edit_scores(
            picture, sample.images[0], round_trip=vae, target=sample.target, mask=sample.mask
        )
    for name in ("changed", "kept_error", "changed_error"):
        score = task.scores[name]
        assert score.per_sample == pytest.approx({key: row[name] for key, row in rows.items()})
        bounds = {**score.floors, **score.ceilings}
        assert bounds["vae"] == pytest.approx(np.mean([r[f"vae_{name}"] for r in rows.values()]))
        assert ("vae" in score.ceilings) == score.lower_is_better
        assert score.floors["copy_input"] == 0
    assert task.scores["kept_error"].lower_is_better and not task.scores["changed"].lower_is_better
    key, network = samples[0].key, lpips_network(alexnet)
    picture = load_image(output / "held-out" / f"{key}.png")
    distance = task.scores["lpips"]
    assert distance.per_sample[key] == pytest.approx(
        lpips([picture], [samples[0].target], network)[0]
    )
    copies = [lpips([s.images[0]], [s.target], network)[0] for s in samples]
    assert distance.floors["copy_input"] == pytest.approx(np.mean(copies))
    assert task.settings["lpips"]["network"] == "alex"


def test_a_mask_is_honoured_in_the_edit(pipeline_folder, edited):
    output, scores = edited
    sample = masked(2)
    picture = load_image(output / "held-out" / f"{sample.key}.png")
    kept = np.asarray(sample.mask) == 0
    assert np.array_equal(np.asarray(picture)[kept], np.asarray(sample.images[0])[kept])
    kept_error = scores.tasks["editing"].scores["kept_error"].per_sample
    assert kept_error[sample.key] == 0 and kept_error[edit(0).key] > 0
    alone = ManzanoPipeline.from_pretrained(pipeline_folder).edit(
        sample.images[0], "question 2?", mask=sample.mask, seed=seed_of(0, "question 2?", 0),
        settings=DrawingSettings(num_steps=1),
    )  # fmt: skip
    assert np.abs(np.asarray(alone).astype(int) - np.asarray(picture)).max() <= 2


def test_gone_on_after_a_kill_equals_uninterrupted(
    pipeline_folder, edits, edited, alexnet, tmp_path
):
    finished, scores = edited
    output = tmp_path / "out"
    shutil.copytree(finished, output)
    log = output / "held-out.jsonl"
    log.write_bytes(b"\n".join(log.read_bytes().split(b"\n")[:3])[:-9])  # torn in the third line
    (output / "scores.json").unlink()
    for path in sorted((output / "held-out").iterdir())[-2:]:
        path.unlink()
    again = evaluate(pipeline_folder, edits, output, "--lpips", str(alexnet))
    assert again.tasks == scores.tasks
    for path in (finished / "held-out").iterdir():
        assert path.read_bytes() == (output / "held-out" / path.name).read_bytes()


def test_measures_are_added_later_without_drawing_again(
    pipeline_folder, edits, edited, tmp_path, monkeypatch
):
    monkeypatch.setattr("manzano.eval.distances.inception_network", lambda _: Grid())
    monkeypatch.setattr(ManzanoPipeline, "edit_batch", None)
    output, weights = tmp_path / "out", tmp_path / "inception.pth"
    shutil.copytree(edited[0], output)
    weights.write_bytes(b"weights")
    task = evaluate(pipeline_folder, edits, output, "--inception", str(weights)).tasks["editing"]
    samples = [edit(0), edit(1), masked(2), edit(3)]
    drawn = [load_image(output / "held-out" / f"{sample.key}.png") for sample in samples]
    true = [sample.target for sample in samples if sample.target]
    ours, truth = picture_features(drawn, Grid()), picture_features(true, Grid())
    copies = picture_features([sample.images[0] for sample in samples], Grid())
    for name, distance in (("fid", fid), ("kid", lambda a, b: kid(a, b)[0])):
        score = task.scores[name]
        assert score.value == pytest.approx(distance(ours, truth), abs=1e-9)
        assert score.floors["copy_input"] == pytest.approx(distance(copies, truth), abs=1e-9)
        assert (score.n, score.low, score.high, score.lower_is_better) == (4, None, None, True)


def test_faulty_samples_fail_alone_and_count_as_unchanged(pipeline_folder, edits, edited, tmp_path):
    torn = encode_sample(edit(1))
    torn["image0.png"] = torn["image0.png"][:60]
    long = edit(2, turns=(Turn(role="user", text="a heart " * 40),))
    data = shards(tmp_path / "data", edit(0), torn, long, edit(3, target=drawing(3)))
    task = evaluate(pipeline_folder, data, tmp_path / "out").tasks["editing"]
    assert list(task.failed) == [edit(1).key, long.key]
    assert list(task.data["not_scored"]) == [edit(3).key]
    assert "Nothing of the picture" in task.data["not_scored"][edit(3).key]
    changed = task.scores["changed"].per_sample
    assert changed.keys() == {edit(0).key, edit(1).key, long.key}
    assert changed[edit(1).key] == changed[long.key] == 0
    sound = edited[1].tasks["editing"].scores["changed_error"].per_sample[edit(0).key]
    own = task.scores["changed_error"].per_sample
    assert own[edit(0).key] == pytest.approx(sound, abs=0.01)
    black = load_image(tmp_path / "out" / "held-out" / f"{long.key}.png")
    assert black.getextrema() == ((0, 0),) * 3


def test_drawings_are_read_and_compared(pipeline_folder, alexnet, tmp_path):
    prompts = ('a sign that says "OPEN"', "a heart", "a shirt with “no entry” on it")
    data = shards(tmp_path / "data", *(sign(i, prompt) for i, prompt in enumerate(prompts)))
    output = tmp_path / "out"
    task = evaluate(pipeline_folder, data, output, "--text", "--lpips", str(alexnet)).tasks[
        "generation"
    ]
    assert list(task.scores)[0] == "agreed_words" and task.settings["text"]
    agreed = task.scores["agreed_words"]
    assert set(agreed.per_sample) == {sign(0, "").key, sign(2, "").key}
    assert agreed.value == agreed.floors["other_prompts"] == 0  # noise has no words
    distance, network = task.scores["lpips"], lpips_network(alexnet)
    pictures = [load_image(output / "held-out" / f"{sign(i, '').key}.png") for i in range(3)]
    turned = [drawing(1), drawing(2), drawing(0)]
    assert distance.n == 3
    assert distance.floors["other_prompts"] == pytest.approx(
        np.mean(lpips(pictures, turned, network))
    )


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ('a sign that says "Stop now"', "Stop now"),
        ("a sign that says 'Don't stop'", "Don't stop"),
        ("“Hello” over ‘it’s me’", "Hello it’s me"),
        ("the dogs' bowl and the cat's", ""),
        ('a wall with "..." on it', ""),
        ("a red heart", ""),
    ],
)
def test_quoted_text_is_what_stands_in_quotation_marks(prompt, text):
    assert quoted_text(prompt) == text


@pytest.mark.parametrize(
    ("task", "more", "message"),
    [
        ("understanding", [], "are of understanding: --suite held-out takes generation or editing"),
        ("generation", [], "give one of them"),
        ("generation", ["--text"], "none of"),
        ("editing", ["--text"], "is of drawings"),
        ("editing", ["--lpips", "none.pth"], "alexnet-owt-7be5be79.pth"),
        ("editing", ["--lpips", "none.pth", "--lpips-network", "vgg"], "vgg16-397923af.pth"),
        ("editing", ["--inception", "none.pth"], "there is no file 'none.pth'"),
        ("editing", ["--inception", "none.pth", "--limit", "1"], "two samples or more"),
        ("editing", ["--height", "32"], "size of their sources"),
        ("editing", ["--limit", "0"], "must be 1 or more"),
    ],
)
def test_what_cannot_be_scored_is_refused_before_anything_is_drawn(
    task, more, message, pipeline_folder, tmp_path, capsys
):
    data = make_folder(tmp_path / "data", task, num_train=2)
    assert main([*command(pipeline_folder, data, tmp_path / "out"), *more]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_without_a_test_split_or_with_nothing_legible_is_refused(
    pipeline_folder, tmp_path, capsys
):
    assert main(command(pipeline_folder, tmp_path, tmp_path / "out")) == 2
    assert "holds no test-*.tar" in capsys.readouterr().err
    torn = encode_sample(make_sample("editing", mask=hole()))
    torn["json"] = json.dumps({}).encode()
    data = shards(tmp_path / "data", torn)
    assert main(command(pipeline_folder, data, tmp_path / "out")) == 2
    assert "can be read; the first: editing-0000: field json lacks" in capsys.readouterr().err

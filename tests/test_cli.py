"""What goes wrong at the command line ends in one sentence, and leaves no half-written file."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from manzano.cli import build_parser, drawing_settings, main
from manzano.data_mix.images import load_image
from manzano.drawing import DrawingSettings
from manzano.pipeline import ManzanoPipeline
from tests.tiny import drawing


@pytest.fixture
def picture(tmp_path) -> Path:
    drawing().save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def refused(capsys, arguments: list) -> str:
    """The sentence on stderr of a command that must fail."""
    assert main([str(argument) for argument in arguments]) != 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1, captured.err
    assert captured.err.startswith(f"manzano {arguments[0]}: error: ")
    return captured.err


def test_the_command_line_draws_with_the_defaults_of_the_pipeline():
    arguments = build_parser().parse_args(["draw", "a heart", "--model", "m", "-o", "out.png"])
    assert drawing_settings(arguments) == DrawingSettings()


def test_a_model_folder_that_is_not_there(capsys, picture, tmp_path):
    arguments = ["ask", "what?", "--image", picture, "--model", tmp_path / "none"]
    assert "there is no folder" in refused(capsys, arguments)


@pytest.mark.parametrize(
    "name",
    ["config.json", "model.safetensors", "vae/diffusion_pytorch_model.safetensors",
     "scheduler/scheduler_config.json", "tokenizer_config.json"],
)  # fmt: skip
def test_a_model_folder_that_lacks_a_file(capsys, pipeline_folder, picture, tmp_path, name):
    folder = shutil.copytree(pipeline_folder, tmp_path / "model")
    (folder / name).unlink()
    arguments = ["ask", "what?", "--image", picture, "--model", folder]
    assert f"lacks {name}" in refused(capsys, arguments)


def test_damaged_weights(capsys, pipeline_folder, picture, tmp_path):
    folder = shutil.copytree(pipeline_folder, tmp_path / "model")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    arguments = ["ask", "what?", "--image", picture, "--model", folder]
    assert "are damaged" in refused(capsys, arguments)


def test_a_picture_that_cannot_be_read(capsys, pipeline_folder, picture, tmp_path):
    picture.write_bytes(picture.read_bytes()[:60])
    model = ["--model", pipeline_folder]
    assert "corrupt" in refused(capsys, ["ask", "what?", "--image", picture, *model])
    picture.write_bytes(b"no picture at all")
    output = tmp_path / "out.png"
    arguments = ["edit", "make it red", "--image", picture, *model, "-o", output]
    assert "is not an image" in refused(capsys, arguments)
    missing = tmp_path / "none.png"
    assert "cannot read" in refused(capsys, ["ask", "what?", "--image", missing, *model])
    assert not output.exists()


@pytest.mark.filterwarnings("ignore:.*")
@pytest.mark.parametrize("kind", ["cmyk.jpg", "one_pixel.png", "wide.png", "animated.gif"])
def test_unusual_pictures_are_answered_about(capsys, pipeline_folder, tmp_path, kind):
    path = tmp_path / kind
    if kind == "animated.gif":
        drawing(0).save(path, save_all=True, append_images=[drawing(1)])
    elif kind == "wide.png":
        Image.new("RGB", (20_000, 3), "red").save(path)
    elif kind == "one_pixel.png":
        Image.new("RGB", (1, 1), "red").save(path)
    else:
        drawing().convert("CMYK").save(path)
    assert main(["ask", "what?", "--image", str(path), "--model", str(pipeline_folder)]) == 0
    assert capsys.readouterr().out.endswith("\n")


def test_empty_and_overlong_words(capsys, pipeline_folder, picture, tmp_path):
    model, output = ["--model", pipeline_folder], tmp_path / "out.png"
    error = refused(capsys, ["ask", " ", "--image", picture, *model])
    assert "the question is empty" in error
    error = refused(capsys, ["draw", "", *model, "-o", output])
    assert "the prompt is empty" in error
    error = refused(capsys, ["edit", "x" * 200, "--image", picture, *model, "-o", output])
    assert "more than the 96 that this model" in error
    error = refused(capsys, ["draw", "<image>", *model, "-o", output])
    assert "special tokens" in error
    assert not output.exists()


def test_a_page_is_asked_about_in_tiles(capsys, pipeline_folder, tmp_path):
    page = tmp_path / "page.png"
    drawing(0, (96, 40)).save(page)
    ask = ["ask", "what?", "--image", str(page), "--model", str(pipeline_folder), "--max-tiles"]
    answer = ManzanoPipeline.from_pretrained(pipeline_folder).ask(page, "what?", max_tiles=2)
    assert main([*ask, "2"]) == 0
    assert capsys.readouterr().out == answer + "\n"
    assert "max_tiles must be 1" in refused(capsys, [*ask, "0"])
    drawing(0, (10_001, 10_000)).save(page, compress_level=1)
    assert "more than the limit of 100,000,000" in refused(capsys, [*ask, "2"])


def test_an_output_that_cannot_be_written(capsys, pipeline_folder, tmp_path):
    draw = ["draw", "a heart", "--model", pipeline_folder, "-o"]
    assert "there is no folder" in refused(capsys, [*draw, tmp_path / "none" / "out.png"])
    for name in ("out.txt", "out", "out.psd"):
        assert "ends in .png, .jpg or .webp" in refused(capsys, [*draw, tmp_path / name])
    (tmp_path / "folder.png").mkdir()
    assert "cannot be written" in refused(capsys, [*draw, tmp_path / "folder.png"])
    assert [path.name for path in tmp_path.iterdir()] == ["folder.png"]


def test_an_output_folder_without_permission(capsys, pipeline_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write everywhere
    arguments = ["draw", "a heart", "--model", pipeline_folder, "-o", tmp_path / "out.png"]
    assert "cannot be written" in refused(capsys, arguments)


def test_a_disk_that_fills_leaves_no_half_written_file(
    capsys, pipeline_folder, tmp_path, monkeypatch
):
    def full(image, path):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    draw = ["draw", "a heart", "--model", pipeline_folder, "--steps", "1"]
    error = refused(capsys, [*draw, "-o", tmp_path / "out.png"])
    assert "No space left on device" in error
    assert list(tmp_path.iterdir()) == []


def test_drawing_and_editing_write_what_was_asked_for(capsys, pipeline_folder, picture, tmp_path):
    model = ["--model", str(pipeline_folder), "--steps", "1", "-o"]
    drawn, edited = tmp_path / "drawn.png", tmp_path / "edited.jpg"
    assert main(["draw", "a heart", *model, str(drawn), "--height", "64", "--width", "32"]) == 0
    assert main(["edit", "make it red", "--image", str(picture), *model, str(edited)]) == 0
    assert load_image(drawn).size == (32, 64)
    assert load_image(edited).size == load_image(picture).size
    assert capsys.readouterr().out == f"{drawn}\n{edited}\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "drawn.png", "edited.jpg", "picture.png"
    ]  # fmt: skip


def test_several_drawings_are_those_of_the_seeds_in_order(capsys, pipeline_folder, tmp_path):
    draw = ["draw", "a heart", "--model", str(pipeline_folder), "--steps", "1", "-o"]
    several, fourth = tmp_path / "out.png", tmp_path / "fourth.png"
    assert main([*draw, str(several), "--number", "3", "--seed", "2"]) == 0
    assert main([*draw, str(fourth), "--seed", "4"]) == 0
    names = [f"out-{number}.png" for number in (1, 2, 3)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fourth.png", *names]
    last, alone = (np.asarray(load_image(p)).astype(int) for p in (tmp_path / names[2], fourth))
    assert abs(last - alone).max() <= 1
    capsys.readouterr()
    assert "draw one picture or more" in refused(capsys, [*draw, several, "--number", "0"])


def test_a_masked_edit_keeps_the_rest_and_tells_its_time(
    capsys, pipeline_folder, picture, tmp_path
):
    mask, edited = tmp_path / "mask.png", tmp_path / "edited.png"
    hole = Image.new("L", load_image(picture).size)
    hole.paste(255, (10, 10, 30, 30))
    hole.save(mask)
    edit = ["edit", "a hat", "--image", str(picture), "--model", str(pipeline_folder), "--mask"]
    assert main([*edit, str(mask), "--steps", "1", "--timing", "-o", str(edited)]) == 0
    changed = (np.asarray(load_image(edited)) != np.asarray(load_image(picture))).any(axis=2)
    assert changed.any() and not changed[np.asarray(hole) == 0].any()
    printed = capsys.readouterr().out
    assert all(part in printed for part in ("VAE encoder", "image ids", "decoder", "total"))
    hole.resize((5, 5)).save(mask)
    assert "the mask has 5 x 5 pixels" in refused(capsys, [*edit, mask, "-o", edited])


def test_impossible_numbers(capsys, pipeline_folder, tmp_path):
    draw = ["draw", "a heart", "--model", pipeline_folder, "-o", tmp_path / "out.png"]
    assert "multiples of 8" in refused(capsys, [*draw, "--height", "50"])
    assert "at least one step" in refused(capsys, [*draw, "--steps", "0"])
    assert "no device 'abacus'" in refused(capsys, [*draw, "--device", "abacus"])

"""The demo at toy size: from nothing to a report, then the commands on the folder it made."""

import json
import os
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from transformers import AutoModel, AutoProcessor

from manzano.assemble import assemble_folder
from manzano.cli import main
from manzano.data_mix.build import build_demo
from manzano.eval.demo import STAGES, run_demo
from manzano.model import ManzanoForConditionalGeneration
from manzano.processing import ManzanoProcessor

TOY = Path(__file__).parents[1] / "configs" / "toy"
LIMIT = 24
FIGURES = {
    "vqa_exact_match", "reading_exact_match", "chart_relaxed_accuracy", "draw_colour", "draw_shape",
    "edit_success", "edit_kept_error", "vae_psnr", "decoder_psnr",
}  # fmt: skip


def toy_configs(folder: Path, run: Path) -> Path:
    """The toy configurations, with all outputs in `run`."""
    folder.mkdir()
    for path in TOY.glob("*.yaml"):
        (folder / path.name).write_text(path.read_text().replace("runs/toy", str(run)))
    return folder


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> tuple[Path, Path]:
    """(configurations, run folder) of a finished toy demo."""
    root = tmp_path_factory.mktemp("demo")
    configs = toy_configs(root / "configs", root / "run")
    build_demo(root / "run" / "data", image_size=48, limit=LIMIT, workers=1)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    run_demo(configs, data_limit=LIMIT)
    torch.set_num_threads(threads)
    return configs, root / "run"


def contents(folder: Path) -> dict[str, bytes]:
    """Every file that a step makes, but the one that holds times."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "demo.json" and "checkpoints" not in path.parts
    }


def test_the_demo_measures_every_figure_against_its_floor(demo):
    _, run = demo
    metrics = json.loads((run / "metrics.json").read_text())
    figures = {name: entry for name, entry in metrics.items() if name in FIGURES}
    assert figures.keys() == FIGURES
    for entry in figures.values():
        assert entry.keys() == {"value", "floor", "n"}
        assert entry["floor"] is not None and entry["n"] > 0
    assert list(metrics["wall_seconds"]) == ["data", *STAGES, "evaluation"]
    assert set(metrics["configs"]) == {*STAGES, "evaluation"}


def test_the_report_shows_all_that_was_made(demo):
    _, run = demo
    page = (run / "report.html").read_text()
    for words in ("Questions and answers", "Drawn from a prompt", "Edited by instruction",
                  "codes occur", "Training", "What the figures do not show"):  # fmt: skip
        assert words in page
    for stage in STAGES:
        assert f"Config of {stage}" in page


def test_the_card_of_the_folder_has_the_figures_that_were_measured(demo, tmp_path):
    _, run = demo
    card = ModelCard.load(run / "model" / "README.md")
    assert (card.data.pipeline_tag, card.data.library_name) == ("any-to-any", "transformers")
    metrics = json.loads((run / "metrics.json").read_text())
    for name in FIGURES:
        value, floor, n = (metrics[name][key] for key in ("value", "floor", "n"))
        assert f"| {name} | {value:.4g} | {floor:.4g} | {n} |" in card.text
    parts = [f"--{name}={run / name / 'export'}" for name in ("llm", "decoder", "vae")]
    assert main(["assemble", *parts, "--licence=mit", "-o", str(tmp_path / "out")]) == 0
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.license == "mit"
    assert "Not measured." in card.text
    assert not list((tmp_path / "out").glob("*/README.md"))


def test_a_finished_demo_given_again_changes_nothing(demo):
    configs, run = demo
    before = contents(run)
    assert run_demo(configs, data_limit=LIMIT) == run / "report.html"
    assert contents(run) == before


def test_a_stage_older_than_what_it_was_made_from_is_refused(demo):
    configs, run = demo
    record = run / "tokenizer" / "export" / "training.yaml"
    times = record.stat()
    record.touch()
    with pytest.raises(ValueError, match=f"delete {run / 'llm'} to train"):
        run_demo(configs, data_limit=LIMIT)
    os.utime(record, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_the_commands_answer_draw_and_edit_with_the_folder(demo, tmp_path):
    _, run = demo
    model, picture = str(run / "model"), str(tmp_path / "in.png")
    Image.new("RGB", (48, 48), "red").save(picture)
    assert main(["ask", "What colour is it?", "--image", picture, "--model", model]) == 0
    options = ["--model", model, "--steps", "2", "-o"]
    assert main(["draw", "a red heart", *options, str(tmp_path / "drawn.png")]) == 0
    edit = ["edit", "Make it blue.", "--image", picture, *options]
    assert main([*edit, str(tmp_path / "one.png")]) == 0
    assert main([*edit, str(tmp_path / "two.png")]) == 0
    with Image.open(tmp_path / "drawn.png") as drawn:
        assert drawn.size == (48, 48)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_auto_classes_load_the_folder_as_it_is(demo):
    _, run = demo
    model = AutoModel.from_pretrained(run / "model")
    own = ManzanoForConditionalGeneration.from_pretrained(run / "model")
    assert isinstance(AutoProcessor.from_pretrained(run / "model"), ManzanoProcessor)
    assert type(model) is ManzanoForConditionalGeneration
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.state_dict().values(), own.state_dict().values(), strict=True)
    )


def test_assembling_names_the_file_that_is_missing(demo, tmp_path):
    _, run = demo
    parts = {name: run / name / "export" for name in ("llm", "decoder", "vae")}
    with pytest.raises(ValueError, match="There is no VAE in"):
        assemble_folder(tmp_path / "out", **(parts | {"vae": tmp_path}))
    assert not (tmp_path / "out").exists()


def test_assembling_refuses_parts_that_do_not_belong_together(demo, tmp_path):
    _, run = demo
    parts = {name: run / name / "export" for name in ("llm", "decoder", "vae")}
    config = json.loads((parts["decoder"] / "config.json").read_text())
    other = tmp_path / "decoder"
    other.mkdir()
    (other / "diffusion_pytorch_model.safetensors").touch()
    (other / "config.json").write_text(json.dumps(config | {"in_channels": 16}))
    with pytest.raises(ValueError, match="latents of 16 channels, the VAE's have 4"):
        assemble_folder(tmp_path / "out", **(parts | {"decoder": other}))


def test_assembling_overwrites_nothing_but_a_manzano_folder(demo, tmp_path):
    _, run = demo
    parts = {name: run / name / "export" for name in ("llm", "decoder", "vae")}
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds something else"):
        assemble_folder(tmp_path, **parts)
    assert (tmp_path / "notes.txt").read_text() == "mine"

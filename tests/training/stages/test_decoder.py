"""The decoder stage: references, what is kept, shapes and sizes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from manzano.data_mix.encoders import PictureBatch
from manzano.data_mix.images import load_image
from manzano.data_mix.prepare import prepare
from manzano.data_mix.schema import write_shards
from manzano.decoder.dit_air import DiTAir
from manzano.decoder.flow import flow_matching_loss
from manzano.decoder.vae import encode
from manzano.training.stages import decoder, load_stage
from tests.data_mix.samples import make_sample
from tests.tiny import drawing
from tests.training.stages.real import configured, trained


def test_references_encoded_alone_equal_all_of_them_encoded(ingredients, tmp_path):
    stage = load_stage("decoder")[1](configured("decoder", ingredients, tmp_path))
    pixels, reference = torch.rand(2, 4, 3, 48, 48) * 2 - 1
    edits = torch.tensor([True, False, False, True])
    batch = PictureBatch(pixels=pixels, reference=reference, has_reference=edits)
    latents, every = encode(stage.vae, pixels), encode(stage.vae, reference)
    found = stage._references(batch, latents)
    torch.testing.assert_close(found[edits], every[edits])
    assert not found[~edits].any()
    batch.reference = None
    assert stage._references(batch, latents) is None


def edits_and_drawings() -> PictureBatch:
    pixels, reference = torch.rand(2, 4, 3, 48, 48) * 2 - 1
    edits = torch.tensor([True, False, False, True])
    return PictureBatch(pixels=pixels, reference=reference, has_reference=edits)


@torch.no_grad()
def loss_of(stage, batch: PictureBatch) -> torch.Tensor:
    torch.manual_seed(1)
    return stage.loss(batch, {"samples": torch.tensor(4.0)})[0]


def stage_of(config, **changes):
    """Always of the same weights; the last layer, which begins at zero, would hide the rest."""
    torch.manual_seed(0)
    stage = load_stage("decoder")[1](replace(config, **changes))
    nn.init.normal_(stage.model.final_linear.weight)
    return stage


def test_a_loss_of_kept_latents_equals_one_of_latents_just_computed(ingredients, tmp_path):
    config, batch = configured("decoder", ingredients, tmp_path), edits_and_drawings()
    keeps, computes = stage_of(config, keep_encoded=100), stage_of(config, keep_encoded=0)
    first, again = loss_of(keeps, batch), loss_of(keeps, batch)
    assert (len(keeps.ids.values), len(keeps.latents.values)) == (4, 6)  # 4 targets, 2 references
    assert torch.equal(first, again)
    torch.testing.assert_close(first, loss_of(computes, batch))
    assert not computes.ids.values


def test_a_resumed_run_that_keeps_latents_equals_an_uninterrupted_one_bitwise(
    ingredients, tmp_path
):
    exports = {}
    for output, lengths in {"whole": [4], "parts": [2, 4]}.items():
        for max_steps in lengths:
            config = configured("decoder", ingredients, tmp_path / output, max_steps=max_steps)
            trained("decoder", replace(config, keep_encoded=100))
        weights = tmp_path / output / "export" / "diffusion_pytorch_model.safetensors"
        exports[output] = load_file(weights)
    for name, value in exports["whole"].items():
        assert torch.equal(exports["parts"][name], value)


def test_time_shift_multiplies_the_shift_of_the_image_size(ingredients, tmp_path, monkeypatch):
    config, batch = configured("decoder", ingredients, tmp_path), edits_and_drawings()
    shifted, plain = stage_of(config, time_shift=3.0), stage_of(config)
    monkeypatch.setattr(decoder, "resolution_shift", lambda height, width: 3.0)
    tripled = loss_of(plain, batch)
    monkeypatch.undo()
    assert torch.equal(loss_of(shifted, batch), tripled)
    assert not torch.equal(loss_of(plain, batch), tripled)
    with pytest.raises(ValueError, match="must be above 0, got -1"):
        loss_of(stage_of(config, time_shift=-1.0), batch)


def test_times_are_shifted_by_each_batchs_own_size(ingredients, tmp_path):
    """The loss of a wide picture is that of its shift, though the stage trains at another area."""
    stage = stage_of(configured("decoder", ingredients, tmp_path), drop_condition=0, corrupt=0)
    pixels = torch.rand(1, 3, 192, 1536) * 2 - 1
    batch = PictureBatch(
        pixels=pixels,
        reference=None,
        has_reference=torch.tensor([False]),
        tokenizer_pixels=torch.rand(1, 3, 48, 48),
    )
    found = loss_of(stage, batch) * 4
    torch.manual_seed(1)
    condition = stage.tokenizer.embed_ids(stage.tokenizer.discrete(batch.seen))
    for shape in ((1, 4), (1, 4), (1, 4)):  # what corruption at rate 0 draws
        torch.rand(shape)
    torch.rand(1)  # the reference
    torch.rand(1)  # the condition
    with torch.no_grad():
        expected = flow_matching_loss(
            stage.model, encode(stage.vae, pixels), condition,
            condition_grid=(2, 2), shift=(192 * 1536) ** 0.5 / 256,
        )  # fmt: skip
    torch.testing.assert_close(found, expected[0])


SHAPES = ((64, 64), (120, 60), (60, 120), (90, 30))
"""Width and height."""


@pytest.fixture(scope="module")
def shapes(ingredients, tmp_path_factory):
    """The ingredients with a corpus of pictures of several shapes, half of them edits."""
    root = tmp_path_factory.mktemp("shapes")
    for name in ("vision", "vae"):
        (root / name).symlink_to(ingredients / name)
    folder = root / "corpus" / "shapes"
    samples = []
    for index in range(24):
        size = SHAPES[index % 4]
        kind = ("generation", "editing")[index // 4 % 2]
        images = {"images": (drawing(index + 7, size),)} if kind == "editing" else {}
        samples.append(make_sample(kind, index, target=drawing(index, size), **images))
    write_shards(samples, folder, "train")
    write_shards([make_sample("generation", 99)], folder, "test")
    prepare(folder)
    return root


def bucketed(root: Path, output: Path, *, image_size: int = 64, **changes):
    loop = {name: changes.pop(name) for name in ("max_steps", "preview_every") if name in changes}
    config = configured("decoder", root, output, **loop)
    mixture = replace(config.data.mixture, sources={"shapes": 1.0})
    data = replace(config.data, mixture=mixture)
    return replace(config, data=data, image_size=image_size, buckets=True, **changes)


@pytest.mark.parametrize("keep_encoded", [0, 100])
def test_a_resumed_run_with_buckets_equals_an_uninterrupted_one_bitwise(
    shapes, tmp_path, keep_encoded
):
    exports = {}
    for output, lengths in {"whole": [7], "parts": [3, 7]}.items():
        for max_steps in lengths:
            config = bucketed(shapes, tmp_path / output, max_steps=max_steps)
            trained("decoder", replace(config, keep_encoded=keep_encoded))
        exports[output] = load_file(weights_of(tmp_path / output / "export"))
    for name, value in exports["whole"].items():
        assert torch.equal(exports["parts"][name], value)


def weights_of(export: Path) -> Path:
    return export / "diffusion_pytorch_model.safetensors"


def test_a_rung_goes_on_where_the_one_below_ended_and_remembers_its_size(shapes, tmp_path):
    below = trained("decoder", bucketed(shapes, tmp_path / "below", image_size=32))
    start = str(tmp_path / "below" / "export")
    config = bucketed(shapes, tmp_path / "above", image_size=64, start=start)
    stage = load_stage("decoder")[1](config)
    batch = edits_and_drawings()
    below.model.eval(), stage.model.eval()
    assert torch.equal(loss_of(stage, batch), loss_of(below, batch))

    trained("decoder", config)
    first, second = (DiTAir.from_pretrained(tmp_path / r / "export") for r in ("below", "above"))
    assert (first.config["sample_size"], second.config["sample_size"]) == (32, 64)
    assert first.config["rope_size"] == second.config["rope_size"] == 32 // 4
    second.save_pretrained(tmp_path / "again")
    assert DiTAir.from_pretrained(tmp_path / "again").config["sample_size"] == 64
    changed = load_file(weights_of(tmp_path / "above" / "export"))
    assert any(not torch.equal(changed[k], v) for k, v in first.state_dict().items())


def test_a_start_that_was_trained_with_other_parts_is_refused(shapes, tmp_path):
    sizes = {"num_layers": 1, "width": 32, "head_dim": 16, "in_channels": 4, "condition_width": 20}
    for name, change, words in (
        ("vae", {"in_channels": 16}, "in_channels 16, but the latents of vae have 4 channels"),
        ("ids", {"condition_width": 8}, "condition_width 8, but the ids of tokenizer are embedded"),
    ):
        DiTAir(**{**sizes, **change}).save_pretrained(tmp_path / name)
        config = bucketed(shapes, tmp_path / "run", start=str(tmp_path / name))
        with pytest.raises(ValueError, match=words):
            load_stage("decoder")[1](config)


def test_previews_show_two_shapes_and_edits_below_their_references(shapes, tmp_path):
    trained("decoder", bucketed(shapes, tmp_path, max_steps=1, preview_every=1))
    folder = tmp_path / "previews" / "step-000001"
    found = {file.stem: load_image(file).size for file in folder.glob("*.png")}
    buckets = {tuple(map(int, name.rpartition("-")[2].split("x"))) for name in found}
    assert len(buckets) == 2
    for name, (_, total) in found.items():
        height = int(name.rpartition("-")[2].partition("x")[0])
        rows = 3 if name.startswith("edited") else 2
        assert total == rows * (height + 2) + 2  # save_image frames each with 2 pixels


def test_sizes_that_cannot_be_are_refused(shapes, tmp_path):
    with pytest.raises(ValueError, match="multiple of 8 pixels, got 60: take 56 or 64"):
        load_stage("decoder")[1](bucketed(shapes, tmp_path, image_size=60))
    with pytest.raises(ValueError, match="min_short_side is -1"):
        bucketed(shapes, tmp_path, min_short_side=-1)


def test_a_short_side_above_that_of_all_pictures_ends_the_run(shapes, tmp_path, monkeypatch):
    monkeypatch.setattr("manzano.data_mix.loader.PASSED_OVER", 100)
    with pytest.raises(ValueError, match="all of no use.* lower min_short_side"):
        trained("decoder", bucketed(shapes, tmp_path, min_short_side=65))

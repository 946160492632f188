"""The decoder stage encodes references where there are any."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from manzano.data_mix.encoders import PictureBatch
from manzano.decoder.vae import encode
from manzano.training.stages import load_stage
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


def test_time_shift_multiplies_the_shift_of_the_image_size(ingredients, tmp_path):
    config, batch = configured("decoder", ingredients, tmp_path), edits_and_drawings()
    shifted, plain = stage_of(config, time_shift=3.0), stage_of(config)
    before = loss_of(plain, batch)
    plain.shift *= 3
    assert torch.equal(loss_of(shifted, batch), loss_of(plain, batch))
    assert not torch.equal(loss_of(shifted, batch), before)
    with pytest.raises(ValueError, match="must be above 0, got -1"):
        loss_of(stage_of(config, time_shift=-1.0), batch)

"""The decoder stage encodes references where there are any."""

from dataclasses import replace

import torch
from torch import nn

from manzano.data_mix.encoders import PictureBatch
from manzano.decoder.vae import encode
from manzano.training.stages import load_stage
from tests.training.stages.real import configured


def test_references_encoded_alone_equal_all_of_them_encoded(ingredients, tmp_path):
    stage = load_stage("decoder")[1](configured("decoder", ingredients, tmp_path))
    pixels, reference = torch.rand(2, 4, 3, 48, 48) * 2 - 1
    edits = torch.tensor([True, False, False, True])
    batch = PictureBatch(pixels=pixels, reference=reference, has_reference=edits)
    latents, every = encode(stage.vae, pixels), encode(stage.vae, reference)
    found = stage._references(batch, latents)
    torch.testing.assert_close(found[edits], every[edits])
    assert not found[~edits].any()
    batch.has_reference = torch.zeros(4, dtype=torch.bool)
    assert stage._references(batch, latents) is None


@torch.no_grad()
def test_a_loss_of_kept_latents_equals_one_of_latents_just_computed(ingredients, tmp_path):
    config = configured("decoder", ingredients, tmp_path)
    pixels, reference = torch.rand(2, 4, 3, 48, 48) * 2 - 1
    edits = torch.tensor([True, False, False, True])
    batch = PictureBatch(pixels=pixels, reference=reference, has_reference=edits)
    totals = {"samples": torch.tensor(4.0)}

    def losses(keep: int) -> list[torch.Tensor]:
        torch.manual_seed(0)
        stage = load_stage("decoder")[1](replace(config, keep_encoded=keep))
        nn.init.normal_(stage.model.final_linear.weight)  # zero, and no condition would count
        found = []
        for _ in range(2):
            torch.manual_seed(1)
            found.append(stage.loss(batch, totals)[0])
        return found

    first, again = losses(keep=100)
    assert torch.equal(first, again)
    torch.testing.assert_close(first, losses(keep=0)[0])

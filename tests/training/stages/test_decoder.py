"""The decoder stage encodes references where there are any."""

import torch

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

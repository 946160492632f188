"""The contrastive loss against SigLIP's formula."""

import pytest
import torch

from manzano.data_mix.encoders import CaptionBatch
from manzano.training import random_state
from manzano.training.stages import vision
from tests.training.stages.real import configured


def test_captions_are_the_same_where_all_their_tokens_are():
    ids = torch.tensor([[1, 2, 0], [1, 2, 0], [1, 0, 2]])
    same = [[True, True, False], [True, True, False], [False, False, True]]
    assert vision.same_caption(ids).tolist() == same


def test_the_loss_is_siglips(ingredients, tmp_path):
    random_state.seed(0)
    stage = vision.Stage(configured("vision", ingredients, tmp_path))
    captions = torch.randint(8, 200, (4, 12))
    captions[3] = captions[1]
    batch = CaptionBatch(pixels=torch.rand(4, 3, 48, 48) * 2 - 1, input_ids=captions)
    with torch.no_grad():
        logits = stage.model(batch.pixels, batch.input_ids).double()
        loss, metrics = stage.loss(batch, {"samples": torch.tensor(4)})
    # Zhai et al. 2023, Eq. 1: -1/B sum_ij log sigmoid(z_ij (t x_i . y_j + b)).
    expected = 0.0
    for i in range(4):
        for j in range(4):
            z = 1 if i == j or {i, j} == {1, 3} else -1
            expected -= float((1 / (1 + (-z * logits[i, j]).exp())).log()) / 4
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    best = logits.argmax(1).tolist()
    hits = sum(j == i or {i, j} == {1, 3} for i, j in enumerate(best))
    assert float(metrics["retrieval"]) == pytest.approx(hits / 4)

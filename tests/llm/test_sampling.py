"""Where chance enters the drawing of ids, and what it depends on."""

import pytest
import torch
from transformers import DynamicCache, StaticCache

from manzano.llm.sampling import chances, draw, preallocated_cache, warpers
from tests.tiny import tiny_manzano


def test_ids_are_drawn_as_often_as_their_probability_says():
    logits = torch.tensor([[0.0, 2.0, -1.0, 1.0]])
    chance = chances(1, 20_000, torch.Generator().manual_seed(0))[0]
    ids = draw(logits.expand(len(chance), -1), warpers(1.0, None, None), chance)
    seen = torch.bincount(ids, minlength=4) / len(ids)
    torch.testing.assert_close(seen, logits.softmax(-1)[0], atol=0.01, rtol=0)


@pytest.mark.parametrize("place", [0.0, 0.5, 1 - 2**-24])
def test_an_id_that_is_ruled_out_is_never_drawn(place):
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 1.0, -torch.inf]])
    chance = torch.tensor([place])
    assert int(draw(logits, warpers(1.0, None, None), chance)) in (1, 3)
    assert int(draw(logits, warpers(1.0, 1, None), chance)) == 3


def test_each_picture_has_its_own_chances():
    def seeds(*numbers):
        return [torch.Generator().manual_seed(n) for n in numbers]

    batch = chances(2, 5, seeds(3, 4))
    assert torch.equal(batch[:1], chances(1, 5, seeds(3)))
    assert torch.equal(batch[1:], chances(1, 5, seeds(4)))
    with pytest.raises(ValueError, match="1 generators were given for 2 pictures"):
        chances(2, 5, seeds(3))


def test_a_transformer_has_its_keys_in_place_and_a_recurrent_model_its_state():
    cache = preallocated_cache(tiny_manzano().language_model, 20)
    assert isinstance(cache, StaticCache) and not isinstance(cache, DynamicCache)
    pararnn = {"model_type": "pararnn", "hidden_size": 32, "num_hidden_layers": 1}
    assert preallocated_cache(tiny_manzano(pararnn).language_model, 20) is None

"""What ids say: as much as is in them, and nothing by luck."""

import pytest
import torch

from manzano.data_mix.sizes import nearest_ratio
from manzano.data_mix.sources import glyphs
from manzano.drawing import DrawingSettings, seeded
from manzano.eval.ablation import read_out
from manzano.eval.ablation.read_out import CHANCE, PLACES, UNSEEN, numbers, train_read_out, true_ids
from manzano.eval.ablation.speaker import Speaker
from tests.tiny import drawing, tiny_pipeline, tiny_vision


@pytest.fixture
def vision(monkeypatch):
    monkeypatch.setattr(read_out, "PLACES", [(0, 0), (2, 2)])
    monkeypatch.setattr(read_out, "UNSEEN", [(2, 2)])
    torch.manual_seed(0)
    return tiny_vision(image_size=72, levels=(5, 5, 5))


def test_places_that_are_not_learned_are_one_in_every_row_and_column():
    assert len(PLACES) == 25
    assert [sorted(place[axis] for place in UNSEEN) for axis in (0, 1)] == [[-2, -1, 0, 1, 2]] * 2


def test_true_ids_are_those_of_every_glyph_of_a_split(vision):
    ids, wanted = true_ids(vision, "test", [(0, 0), (1, 0)])
    shown = glyphs.shown("test")
    assert ids.shape == (2 * len(shown), 9)
    assert torch.equal(wanted[::2], numbers([(colour, shape) for colour, shape, _ in shown]))
    assert torch.equal(wanted[::2], wanted[1::2])
    again, _ = true_ids(vision, "test", [(0, 0)])
    assert torch.equal(again, ids[::2])


def test_a_read_out_knows_true_ids_and_is_no_better_than_chance_at_others(vision):
    state = torch.get_rng_state()
    reader, ceiling = train_read_out(vision, seed=0)
    assert torch.equal(torch.get_rng_state(), state)
    ids, wanted = true_ids(vision, "train", [(0, 0)])
    right = reader.right(ids, wanted)
    assert right.shape > 0.8  # of random weights; colours are hardly in their ids
    assert min(ceiling.shape, right.colour) > CHANCE["colour"]
    assert right.both <= min(right.colour, right.shape)
    assert reader.right(ids.flip(0), wanted).both < 0.1
    assert reader.right(ids, wanted) == right


def test_a_model_speaks_without_its_decoder_as_the_pipeline_does_with_it():
    pipeline = tiny_pipeline()
    speaker = Speaker(pipeline.model, pipeline.processor)
    images, questions = [[drawing(0)], [drawing(1)]], ["What is it?", "Which colour has it?"]
    asked = pipeline.ask_batch(images, questions, max_new_tokens=6)
    assert speaker.ask_batch(images, questions, max_new_tokens=6) == asked
    prompts, settings = ["a heart", "a red star"], DrawingSettings(max_words=1)
    ids = speaker.image_ids(prompts, seed=3)
    alone = [speaker.image_ids([p], seed=3 + i) for i, p in enumerate(prompts)]
    assert torch.equal(ids, torch.cat(alone))
    squares = [nearest_ratio(1, 1)] * 2
    assert torch.equal(ids, pipeline.image_ids([], prompts, squares, settings, seeded(3, 2)))

"""What the stages are fed."""

import pytest
import torch

from manzano.data_mix.encoders import CaptionEncoder, PictureEncoder, SequenceEncoder
from manzano.data_mix.schema import Turn
from manzano.llm.loss import IGNORE
from tests.data_mix.samples import hole, make_sample, picture
from tests.tiny import text_tokenizer

TOKENIZER = text_tokenizer()


def sequence_encoder(**changes) -> SequenceEncoder:
    options = {"image_size": 48, "num_tokens": 4, "row_length": 128, "drop_prompt": 0.0}
    return SequenceEncoder(TOKENIZER, **(options | changes))


def test_a_picture_batch_marks_the_edits():
    encoder = PictureEncoder(48, references=True)
    edit, drawn = make_sample("editing", 1), make_sample("generation", 3)
    batch = encoder.collate([encoder.encode(edit), encoder.encode(drawn)])
    assert batch.has_reference.tolist() == [True, False]
    assert torch.equal(batch.pixels[0], encoder.transform(edit.target))
    assert torch.equal(batch.reference[0], encoder.transform(edit.images[0]))
    assert not batch.reference[1].any()
    shown = encoder.encode(make_sample("understanding", 5))
    assert torch.equal(shown[0], encoder.transform(picture(5)))
    assert encoder.encode(make_sample("text")) is None


def test_references_are_left_out_where_none_is_wanted_or_there():
    edit, drawn = make_sample("editing", 1), make_sample("generation", 3)
    for encoder, sample in (
        (PictureEncoder(48), edit),
        (PictureEncoder(48, references=True), drawn),
    ):
        batch = encoder.collate([encoder.encode(sample)])
        assert batch.reference is None
        assert torch.equal(batch.pixels[0], encoder.transform(sample.target))


def test_language_model_and_decoder_see_grey_under_the_mask():
    sample = make_sample("editing", 1, mask=hole())
    hidden = picture(1)
    hidden.paste((127, 127, 127), (2, 1, 6, 4))
    decoder, model = PictureEncoder(48, references=True), sequence_encoder()
    (target, reference), example = decoder.encode(sample), model.encode(sample)
    assert torch.equal(reference, decoder.transform(hidden))
    assert torch.equal(example.images[0], model.transform(hidden))
    assert torch.equal(target, decoder.transform(sample.target))
    assert torch.equal(example.targets[0], target)


def test_captions_are_cut_and_padded_to_one_length():
    encoder = CaptionEncoder(48, TOKENIZER, max_length=9)
    samples = [make_sample("generation", 1, caption="red"), make_sample("generation", 2)]
    batch = encoder.collate([encoder.encode(sample) for sample in samples])
    pad = TOKENIZER.pad_token_id
    red = TOKENIZER.encode("red")
    assert batch.input_ids.tolist() == [
        red + [pad] * (9 - len(red)), TOKENIZER.encode("picture 2")[:9]
    ]  # fmt: skip
    assert batch.pixels.shape == (2, 3, 48, 48)
    assert encoder.encode(make_sample("generation", caption="")) is None
    assert encoder.encode(make_sample("text")) is None


def test_a_packed_row_restarts_positions_and_predicts_no_first_token():
    encoder = sequence_encoder()
    examples = [encoder.encode(make_sample(task)) for task in ("text", "editing", "understanding")]
    batch = encoder.collate([examples[:2], examples[2:]])
    first, second = (examples[i].sequences[0] for i in (0, 1))
    a, b = len(first), len(second)
    assert batch.input_ids.shape == batch.labels.shape == batch.position_ids.shape == (2, 128)
    assert batch.input_ids[0, : a + b].tolist() == first.input_ids + second.input_ids
    assert batch.labels[0, :a].tolist() == [IGNORE, *first.labels[1:]]
    assert batch.position_ids[0].tolist() == [*range(a), *range(b), *range(128 - a - b)]
    assert set(batch.labels[0, a + b :].tolist()) == {IGNORE}
    assert batch.pixel_values.shape == (2, 3, 48, 48)
    assert batch.image_index.tolist() == [0, 1]
    assert batch.image_sequence.tolist() == [1, 2]
    assert batch.target_pixel_values.shape == (1, 3, 48, 48)


def test_a_batch_without_pictures_has_a_blank_one_that_nobody_shows():
    batch = sequence_encoder().collate([[sequence_encoder().encode(make_sample("text"))]])
    assert not batch.pixel_values.any()
    assert batch.image_index.tolist() == []
    assert batch.target_pixel_values is None


def test_questions_beyond_the_limit_and_the_row_are_left_out():
    turns = [
        Turn(role=role, text=f"{role} {i}") for i in range(6) for role in ("user", "assistant")
    ]
    sample = make_sample("understanding", turns=tuple(turns))
    assert len(sequence_encoder(max_questions=2).encode(sample).sequences) == 2
    encoder = sequence_encoder(max_questions=6, row_length=64)
    assert 0 < encoder.length(encoder.encode(sample)) <= 64


def test_a_sample_that_fits_no_row_is_refused_by_name():
    message = "sample understanding-0000 of drawn takes .* tokens, more than a row of 8: raise row_"
    with pytest.raises(ValueError, match=message):
        sequence_encoder(row_length=8).encode(make_sample("understanding"))


@pytest.mark.parametrize("task", ["generation", "editing"])
def test_pictures_without_prompt_are_drawn_from_nothing(task):
    example = sequence_encoder(drop_prompt=1.0).encode(make_sample(task))
    expected = "<|user|><|assistant|><img_start>" + "<target>" * 4 + "<img_end><|end|>"
    assert example.sequences[0].input_ids == TOKENIZER.encode(expected)
    assert not example.images
    assert len(example.targets) == 1


def test_a_batch_moves_whole():
    batch = sequence_encoder().collate([[sequence_encoder().encode(make_sample("generation"))]])
    moved = batch.to("meta")
    assert moved.input_ids.device.type == moved.target_pixel_values.device.type == "meta"

"""What the stages are fed."""

import pytest
import torch
from PIL import Image

from manzano.data_mix.encoders import (
    BucketEncoder,
    CaptionEncoder,
    PictureEncoder,
    SequenceEncoder,
)
from manzano.data_mix.schema import Sample, Turn
from manzano.data_mix.transforms import pixel_transform
from manzano.llm.loss import IGNORE
from tests.data_mix.samples import hole, make_sample, picture
from tests.tiny import drawing, text_tokenizer

TOKENIZER = text_tokenizer()


def sequence_encoder(**changes) -> SequenceEncoder:
    options = {"image_size": 48, "num_tokens": 4, "row_length": 128, "drop_prompt": 0.0}
    return SequenceEncoder(TOKENIZER, **(options | changes))


def test_a_picture_batch_marks_the_edits():
    encoder = PictureEncoder(48, references=True)
    edit, drawn = make_sample("editing", 1), make_sample("generation", 3)
    batch = encoder.collate([encoder.encode(edit), encoder.encode(drawn)])
    assert batch.has_reference.tolist() == [True, False]
    transform = pixel_transform(48)
    assert torch.equal(batch.pixels[0], transform(edit.target))
    assert torch.equal(batch.reference[0], transform(edit.images[0]))
    assert not batch.reference[1].any()
    shown = encoder.collate([encoder.encode(make_sample("understanding", 5))])
    assert torch.equal(shown.pixels[0], transform(picture(5)))
    assert encoder.encode(make_sample("text")) is None


def test_references_are_left_out_where_none_is_wanted_or_there():
    edit, drawn = make_sample("editing", 1), make_sample("generation", 3)
    for encoder, sample in (
        (PictureEncoder(48), edit),
        (PictureEncoder(48, references=True), drawn),
    ):
        batch = encoder.collate([encoder.encode(sample)])
        assert batch.reference is None
        assert torch.equal(batch.pixels[0], pixel_transform(48)(sample.target))


def drawn(width: int, height: int, **changes) -> Sample:
    return make_sample("generation", target=drawing(1, (width, height)), **changes)


def test_the_tokenizer_sees_the_picture_and_not_the_decoders_smaller_one():
    encoder, sample = PictureEncoder(24, tokenizer_size=48), drawn(200, 100)
    batch = encoder.collate([encoder.encode(sample)] * 2)
    assert batch.pixels.shape == (2, 3, 24, 24)
    assert torch.equal(batch.seen[1], pixel_transform(48)(sample.target))
    same = PictureEncoder(48, tokenizer_size=48)
    batch = same.collate([same.encode(sample)])
    assert batch.tokenizer_pixels is None
    assert torch.equal(batch.seen, batch.pixels)


@pytest.mark.parametrize("encoder", [PictureEncoder(48), BucketEncoder(48, step=8)])
def test_pictures_whose_short_side_is_too_short_are_passed_over(encoder):
    encoder.min_short_side = 60
    assert encoder.encode(drawn(60, 90)) is not None
    assert encoder.encode(drawn(59, 90)) is None
    assert encoder.encode(drawn(90, 59)) is None


@pytest.mark.parametrize(
    ("width", "height", "bucket"),
    [
        (50, 50, (64, 64)),
        (300, 290, (64, 64)),
        (100, 50, (48, 88)),
        (1000, 2000, (88, 48)),
        (160, 90, (48, 88)),
        (800, 100, (32, 128)),
        (801, 100, None),
        (40_000, 200, None),
        (10, 400, None),
    ],
)
def test_a_picture_goes_to_the_bucket_of_its_shape_unless_half_of_it_is_lost(width, height, bucket):
    encoder = BucketEncoder(64, step=8)
    example = encoder.encode(drawn(width, height))
    assert (None if example is None else encoder.group(example)) == bucket


def test_a_bucket_holds_the_middle_of_pictures_and_of_their_references():
    """A frame that is cropped away would be seen in any other part of the picture."""
    target = Image.new("RGB", (140, 64), "red")
    target.paste("blue", (6, 0, 134, 64))  # 128 x 64 is what a 1 : 2 bucket leaves
    reference = Image.new("RGB", (280, 128), "red")
    reference.paste("lime", (12, 0, 268, 128))
    encoder = BucketEncoder(64, step=16, references=True, tokenizer_size=48)
    edit = make_sample("editing", target=target, images=(reference,))
    batch = encoder.collate([encoder.encode(edit)])
    assert batch.pixels.shape == batch.reference.shape == (1, 3, 48, 96)
    assert batch.seen.shape == (1, 3, 48, 48)  # stretched to the square, as everywhere
    for pixels, colour in ((batch.pixels, 2), (batch.reference, 1), (batch.seen, 2)):
        expected = -torch.ones_like(pixels)
        expected[:, colour] = 1
        assert torch.equal(pixels, expected)


def test_a_side_that_no_bucket_can_have_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="multiple of 16 pixels, got 250: take 240 or 256"):
        BucketEncoder(250, step=16)


def test_language_model_and_decoder_see_grey_under_the_mask():
    sample, transform = make_sample("editing", 1, mask=hole()), pixel_transform(48)
    hidden = picture(1)
    hidden.paste((127, 127, 127), (2, 1, 6, 4))
    decoder, model = PictureEncoder(48, references=True), sequence_encoder()
    batch, example = decoder.collate([decoder.encode(sample)]), model.encode(sample)
    assert torch.equal(batch.reference[0], transform(hidden))
    assert torch.equal(example.images[0], transform(hidden))
    assert torch.equal(batch.pixels[0], transform(sample.target))
    assert torch.equal(example.targets[0], transform(sample.target))


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
    expected = "<|user|><|assistant|><img_start><3:4>" + "<target>" * 4 + "<img_end><|end|>"
    assert example.sequences[0].input_ids == TOKENIZER.encode(expected)
    assert not example.images
    assert len(example.targets) == 1


def test_a_batch_moves_whole():
    batch = sequence_encoder().collate([[sequence_encoder().encode(make_sample("generation"))]])
    moved = batch.to("meta")
    assert moved.input_ids.device.type == moved.target_pixel_values.device.type == "meta"

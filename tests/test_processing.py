"""The processor prepares pictures and words as training does."""

import pytest
import torch
from PIL import Image

from manzano.data_mix.transforms import pixel_transform, to_image
from manzano.processing import ManzanoProcessor
from manzano.training.stages.llm import make_processor
from tests.tiny import drawing, text_tokenizer, tiny_vision


@pytest.fixture(scope="module")
def processor() -> ManzanoProcessor:
    return make_processor(tiny_vision(), text_tokenizer(), max_length=64)


@pytest.mark.parametrize("size", [(48, 48), (200, 150), (31, 97), (1, 1)])
def test_pixels_are_those_of_training(processor, size):
    image = drawing(2, size)
    trained = pixel_transform(48)(image)
    pixels = processor.pixels([image])[0]
    assert pixels.dtype == torch.float32
    if size == (48, 48):
        torch.testing.assert_close(pixels, trained, rtol=0, atol=1e-6)
    else:
        # Two implementations of one bicubic filter: at most one step of 255.
        assert float((pixels - trained).abs().max()) <= 2 / 255 + 1e-6


def test_pixels_become_the_picture_again():
    image = drawing(3)
    assert to_image(pixel_transform(48)(image)).tobytes() == image.tobytes()


def test_prompts_of_several_lengths_are_padded_on_the_left(processor):
    texts = [processor.prompt("why?"), processor.prompt("what is it?")]
    inputs = processor(text=texts)
    short, long = (processor.tokenizer.encode(text) for text in texts)
    rest = len(long) - len(short)
    pad = processor.tokenizer.pad_token_id
    assert inputs["input_ids"].tolist() == [[pad] * rest + short, long]
    assert inputs["attention_mask"].tolist() == [[0] * rest + [1] * len(short), [1] * len(long)]
    assert "pixel_values" not in inputs


def test_each_picture_takes_its_tokens(processor):
    inputs = processor(images=[drawing(0), drawing(1)], text=processor.prompt("same?", 2))
    tokens = processor.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0].tolist())
    block = ["<img_start>", *["<image>"] * 4, "<img_end>"]
    assert tokens[:13] == ["<|user|>", *block, *block]
    assert inputs["pixel_values"].shape == (2, 3, 48, 48)
    assert torch.equal(inputs["pixel_values"][1], processor.pixels([drawing(1)])[0])


def test_a_loaded_processor_equals_the_saved_one(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    loaded = ManzanoProcessor.from_pretrained(tmp_path)
    assert (loaded.num_image_tokens, loaded.max_length) == (4, 64)
    image = Image.effect_noise((50, 70), 90).convert("RGB")
    ours, theirs = (p(images=[image], text=p.prompt("what is it?", 1)) for p in (processor, loaded))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_prompt_that_is_too_long_is_refused_with_both_lengths(processor):
    with pytest.raises(ValueError, match="takes 202 tokens, more than the 64 that this model"):
        processor(text=processor.prompt("x" * 200))


@pytest.mark.parametrize("token", ["<image>", "<|end|>", "<target>"])
def test_special_tokens_in_a_users_words_are_refused(processor, token):
    with pytest.raises(ValueError, match="may not contain the special tokens"):
        processor.prompt(f"what is {token}?", 1)


@pytest.mark.parametrize("count", [0, 2])
def test_a_wrong_number_of_pictures_is_refused(processor, count):
    images = [drawing(i) for i in range(count)]
    with pytest.raises(ValueError, match=f"the text has 1 <image> but {count} images were given"):
        processor(images=images, text=processor.prompt("what is it?", 1))


def test_answers_are_read_without_special_tokens(processor):
    ids = processor.tokenizer("a red heart<|end|><|pad|><|pad|>", return_tensors="pt")["input_ids"]
    assert processor.decode_text(ids) == ["a red heart"]

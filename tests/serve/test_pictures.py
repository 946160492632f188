"""Pictures by OpenAI's client: the pixels are those of the pipeline with the same seed."""

import base64
import io

import numpy as np
import openai
import pytest
from PIL import Image

from manzano.serve.engine import Engine
from tests.serve.conftest import FAST, running
from tests.serve.messages import encoded, user
from tests.tiny import drawing


def pictures(response) -> list[np.ndarray]:
    files = [base64.b64decode(item.b64_json) for item in response.data]
    return [np.asarray(Image.open(io.BytesIO(data))) for data in files]


def pixels(images) -> list[np.ndarray]:
    return [np.asarray(image) for image in images]


def close(left: list[np.ndarray], right: list[np.ndarray]) -> bool:
    """Equal but for a rounding: sums of a batch of another size go another way."""
    return len(left) == len(right) and all(
        a.shape == b.shape and np.abs(a.astype(int) - b).max() <= 1
        for a, b in zip(left, right, strict=True)
    )


def test_drawings_are_those_of_the_pipeline(served, client):
    seed = {"seed": 7}
    two = pictures(client.images.generate(model="tiny", prompt="a hat", n=2, extra_body=seed))
    pipeline = served.engine.pipeline
    assert close(two, pixels(pipeline.draw_batch(["a hat"] * 2, seed=7, settings=FAST)))
    assert not close(two[:1], two[1:])
    wide = client.images.generate(prompt="a hat", size="64x32", extra_body=seed)
    drawn = pipeline.draw("a hat", height=32, width=64, seed=7, settings=FAST)
    assert close(pictures(wide), pixels([drawn]))


def test_without_a_seed_every_drawing_is_another(client):
    several = pictures(client.images.generate(prompt="a hat", n=2))
    several += pictures(client.images.generate(prompt="a hat", response_format="b64_json"))
    assert len({picture.tobytes() for picture in several}) == 3


def test_edits_are_those_of_the_pipeline(served, client):
    source = drawing(3, (75, 53))
    edited = client.images.edit(
        model="tiny", image=encoded(source), prompt="a hat", n=2, extra_body={"seed": 2}
    )
    batch = served.engine.pipeline.edit_batch([source] * 2, ["a hat"] * 2, seed=2, settings=FAST)
    assert close(pictures(edited), pixels(batch))
    larger = client.images.edit(
        image=[encoded(source)], prompt="a hat", size="96x64", extra_body={"seed": 2}
    )
    options = {"height": 64, "width": 96, "seed": 2, "settings": FAST}
    assert close(
        pictures(larger), pixels([served.engine.pipeline.edit(source, "a hat", **options)])
    )


def test_what_is_transparent_in_the_mask_is_painted_and_the_rest_kept(served, client):
    source = drawing(3, (75, 53))
    hole = (20, 10, 50, 40)
    mask = Image.new("RGBA", source.size, "white")  # white, but opaque: kept
    mask.paste((0, 0, 0, 0), hole)
    edited = client.images.edit(
        image=encoded(source), mask=encoded(mask), prompt="a hat", extra_body={"seed": 2}
    )
    white = Image.new("L", source.size, 0)
    white.paste(255, hole)
    pipeline = served.engine.pipeline
    direct = pipeline.edit(source, "a hat", mask=white, seed=2, settings=FAST)
    assert close(pictures(edited), pixels([direct]))
    outside = np.asarray(white) == 0
    result, original = pictures(edited)[0], np.asarray(source)
    assert (result[outside] == original[outside]).all()
    assert (result[~outside] != original[~outside]).any()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"prompt": " "}, "the prompt is empty"),
        ({"prompt": "<image>"}, "special tokens"),
        ({"prompt": "x" * 400}, "more than the 256"),
        ({"size": "33x32"}, "multiples of"),
        ({"size": "wide"}, 'size is "auto" or WIDTHxHEIGHT'),
        ({"size": "9000x9000"}, "more than 50,000,000 pixels"),
        ({"n": 11}, "n: .*less than or equal to 10"),
        ({"response_format": "url"}, "response_format is not supported here"),
        ({"background": "transparent"}, "background is not supported here"),
        ({"extra_body": {"style": "vivid"}}, "style is not supported here"),
        ({"stream": True}, "stream is not supported here"),
    ],
)
def test_bad_drawings_are_refused_with_a_reason(client, wrong, message):
    with pytest.raises(openai.BadRequestError, match=message):
        client.images.generate(**({"prompt": "a hat"} | wrong))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"image": encoded(drawing())[:100]}, "image: .* truncated or corrupt"),
        ({"image": b"no picture"}, "image: .* is not an image"),
        ({"image": encoded(Image.new("1", (10_000, 10_000)))}, "more than the limit"),
        ({"image": [encoded(drawing(0)), encoded(drawing(1))]}, "an edit takes one image, got 2"),
        ({"mask": encoded(Image.new("RGBA", (9, 9)))}, "the mask has 9 x 9 pixels and the image"),
        ({"mask": encoded(drawing())}, "nothing in the mask is transparent"),
        ({"prompt": ""}, "the instruction is empty"),
        ({"extra_body": {"quality": "high"}}, "quality is not supported here"),
    ],
)
def test_bad_edits_are_refused_with_a_reason(client, wrong, message):
    with pytest.raises(openai.BadRequestError, match=message):
        client.images.edit(**({"image": encoded(drawing()), "prompt": "a hat"} | wrong))


def test_a_model_without_a_decoder_chats_and_says_that_it_cannot_draw(engine, tmp_path):
    engine.model.save_pretrained(tmp_path)
    engine.processor.save_pretrained(tmp_path)
    with running(Engine.from_pretrained(tmp_path)) as served:
        client = served.client()
        with pytest.raises(openai.BadRequestError, match="this model cannot draw"):
            client.images.generate(prompt="a hat")
        said = client.chat.completions.create(
            model="tiny", messages=user(drawing(0), "what?"), max_tokens=8
        )
    asked = engine.pipeline.ask(drawing(0), "what?", max_new_tokens=8)
    assert said.choices[0].message.content == asked

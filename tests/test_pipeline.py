"""One folder asks, draws and edits."""

import copy
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from manzano.data_mix.sizes import SQUARE
from manzano.data_mix.transforms import to_image
from manzano.decoder.vae import decode
from manzano.drawing import DrawingSettings
from manzano.llm.loss import IGNORE
from manzano.pipeline import ManzanoPipeline
from tests.tiny import drawing

FAST = DrawingSettings(num_steps=2)


@pytest.fixture(scope="module")
def pipeline(pipeline_folder) -> ManzanoPipeline:
    return ManzanoPipeline.from_pretrained(pipeline_folder)


def test_a_saved_pipeline_draws_what_the_loaded_one_drew(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path)
    again = ManzanoPipeline.from_pretrained(tmp_path)
    drawn = [p.draw("a red heart", seed=1, settings=FAST).tobytes() for p in (pipeline, again)]
    assert drawn[0] == drawn[1]


def test_batched_questions_have_the_answers_of_single_ones(pipeline):
    questions = ["what is it?", "why?", "which colour does the disc have?"]
    images = [[drawing(0)], [drawing(1), drawing(2)], [drawing(3)]]
    batched = pipeline.ask_batch(images, questions, max_new_tokens=8)
    single = [
        pipeline.ask(own, question, max_new_tokens=8)
        for own, question in zip(images, questions, strict=True)
    ]
    assert batched == single


def test_a_seed_decides_the_drawing(pipeline):
    one, same, other = (
        pipeline.draw("a red heart", seed=seed, settings=FAST).tobytes() for seed in (1, 1, 2)
    )
    assert one == same
    assert one != other


@pytest.mark.parametrize("size", [(None, None), (64, 32)])
def test_a_drawing_has_the_size_asked_for(pipeline, size):
    height, width = size
    image = pipeline.draw("a red heart", height=height, width=width, seed=0, settings=FAST)
    assert image.size == (width or 48, height or 48)
    assert image.mode == "RGB"


def test_an_edit_has_the_size_of_its_picture_and_depends_on_it(pipeline):
    edits = [
        pipeline.edit(drawing(i, (90, 60)), "make it blue", seed=0, settings=FAST) for i in (0, 3)
    ]
    assert [edit.size for edit in edits] == [(90, 60), (90, 60)]
    assert edits[0].tobytes() != edits[1].tobytes()


def test_drawings_of_a_batch_are_those_of_their_prompts_and_seeds_alone(pipeline):
    prompts = ["a red heart", "a small blue star on white", "a red heart"]
    batch = pipeline.draw_batch(prompts, seed=3, height=32, width=64, settings=FAST)
    alone = [
        pipeline.draw(prompt, seed=3 + place, height=32, width=64, settings=FAST)
        for place, prompt in enumerate(prompts)
    ]
    for together, single in zip(batch, alone, strict=True):
        assert_alike(together, single)
    assert batch[0].tobytes() != batch[2].tobytes()  # another seed
    chosen = pipeline.draw_batch(prompts[::2], seed=[5, 3], height=32, width=64, settings=FAST)
    assert_alike(chosen[0], batch[2])
    assert_alike(chosen[1], batch[0])


def assert_alike(one, other):
    """Equal but for the rounding of sums in a batch of another size."""
    difference = np.asarray(one).astype(int) - np.asarray(other)
    assert one.size == other.size and abs(difference).max() <= 1


def test_edits_of_a_batch_are_those_of_their_pictures_alone_whatever_the_sizes(pipeline):
    pictures = [drawing(0, (90, 60)), drawing(1), drawing(2, (60, 90)), drawing(3, (90, 60))]
    mask = Image.new("L", (48, 48), 0)
    mask.paste(255, (8, 8, 30, 30))
    masks = [None, mask, None, None]
    words = ["make it blue"] * 4
    batch = pipeline.edit_batch(pictures, words, masks=masks, seed=7, settings=FAST)
    for place, together in enumerate(batch):
        options = {"mask": masks[place], "seed": 7 + place, "settings": FAST}
        assert_alike(together, pipeline.edit(pictures[place], words[place], **options))


def test_what_a_mask_keeps_is_kept_to_the_pixel_and_the_rest_is_painted(pipeline):
    picture, mask = drawing(0, (75, 53)), Image.new("L", (75, 53), 0)
    mask.paste(255, (20, 10, 50, 40))
    edited = np.asarray(pipeline.edit(picture, "a hat", mask=mask, seed=0, settings=FAST))
    original, inside = np.asarray(picture), np.asarray(mask) > 0
    assert (edited[~inside] == original[~inside]).all()
    assert (edited[inside] != original[inside]).any()


def test_what_is_under_the_mask_is_hidden_from_the_model(pipeline):
    picture, mask = drawing(0), Image.new("L", (48, 48), 0)
    mask.paste(255, (10, 10, 40, 40))
    other = picture.copy()
    other.paste((9, 99, 199), (10, 10, 40, 40))
    painted = [
        pipeline.edit(p, "a hat", mask=mask, seed=0, settings=FAST).crop((10, 10, 40, 40)).tobytes()
        for p in (picture, other)
    ]
    assert painted[0] == painted[1]


def test_an_edit_of_another_shape_keeps_the_whole_picture_in_the_middle(pipeline):
    picture = drawing(0, (40, 24))
    wide = pipeline.edit(picture, "extend it", height=24, width=96, seed=0, settings=FAST)
    assert wide.size == (96, 24)
    assert wide.crop((28, 0, 68, 24)).tobytes() == picture.tobytes()
    larger = pipeline.edit(picture, "make it red", height=48, width=80, seed=0, settings=FAST)
    assert larger.size == (80, 48)


def test_a_seed_decides_an_edit_and_less_strength_keeps_more(pipeline):
    picture = drawing(0)

    def edited(strength: float) -> np.ndarray:
        settings = DrawingSettings(num_steps=10)
        options = {"strength": strength, "seed": 1, "settings": settings}
        return np.asarray(pipeline.edit(picture, "make it red", **options)).astype(float)

    through = to_image(decode(pipeline.vae, pipeline.painter.latents([picture], 48, 48))[0])
    errors = [np.abs(edited(s) - np.asarray(through)).mean() for s in (0.1, 0.5, 1.0)]
    assert errors[0] < errors[1] < errors[2]
    assert (edited(0.5) == edited(0.5)).all()


def test_the_shape_of_a_drawing_is_a_token_before_its_ids(pipeline, monkeypatch):
    seen = []
    generate = pipeline.model.generate

    def spy(input_ids, **options):
        seen.append(input_ids)
        return generate(input_ids=input_ids, **options)

    monkeypatch.setattr(pipeline.model, "generate", spy)
    for height, width, token in ((48, 48, "<img_start>"), (32, 96, "<1:3>"), (96, 64, "<3:2>")):
        pipeline.draw("a red heart", height=height, width=width, seed=0, settings=FAST)
        last = pipeline.processor.tokenizer.convert_ids_to_tokens(seen[-1][0].tolist())[-2:]
        assert last[-1] == token and "<img_start>" in last


def test_the_watch_knows_the_parts_of_the_last_drawing(pipeline):
    pipeline.draw("a red heart", seed=0, settings=FAST)
    assert list(pipeline.watch.seconds) == ["words before", "image ids", "decoder", "VAE decoder"]
    pipeline.edit(drawing(), "make it red", seed=0, settings=FAST)
    assert "VAE encoder" in pipeline.watch.seconds
    assert pipeline.watch.summary().splitlines()[-1].split()[0] == "total"
    assert pipeline.watch.summary().endswith("100.0%")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask": Image.new("L", (47, 48), 255)}, "the mask has 47 x 48 pixels and its picture"),
        ({"mask": Image.new("L", (48, 48))}, "nothing in the mask is white"),
        ({"strength": 0.0}, "strength must be above 0 and at most 1, got 0.0"),
        ({"strength": 1.5}, "strength must be above 0 and at most 1, got 1.5"),
        ({"height": 48}, "give both height and width"),
        ({"height": 8, "width": 800}, "one side may be at most 8 times the other"),
        ({"height": 0, "width": 8}, "height and width must be 1 or more"),
    ],
)
def test_edits_that_cannot_be_made_are_refused(pipeline, options, message):
    with pytest.raises(ValueError, match=message):
        pipeline.edit(drawing(), "make it red", settings=FAST, **options)


def test_a_picture_has_room_after_its_prompt_and_what_is_said(pipeline):
    most = 96 - 3 - 4  # <|user|>, <|assistant|> and <img_start>, and four ids
    assert pipeline.draw("x" * most, seed=0, settings=FAST).size == (48, 48)
    with pytest.raises(ValueError, match="what follows 4, more than the 96"):
        pipeline.draw("x" * (most + 1), seed=0, settings=FAST)


def test_a_seed_of_numpy_is_a_seed(pipeline):
    one, same = (
        pipeline.draw("a red heart", seed=seed, settings=FAST).tobytes()
        for seed in (3, np.int64(3))
    )
    assert one == same


@pytest.mark.parametrize(
    ("images", "instructions", "masks"), [(1, 2, None), (1, 1, 2), (0, 0, None)]
)
def test_batches_of_unequal_or_no_length_are_refused(pipeline, images, instructions, masks):
    with pytest.raises(ValueError, match=f"got {images} images, {instructions} instructions"):
        pipeline.edit_batch(
            [drawing()] * images, ["make it red"] * instructions,
            masks=None if masks is None else [None] * masks,
        )  # fmt: skip


def test_a_folder_that_lacks_a_weight_is_refused(pipeline_folder, tmp_path):
    folder = shutil.copytree(pipeline_folder, tmp_path / "model")
    for part in ("model.safetensors", "transformer/diffusion_pytorch_model.safetensors"):
        file = folder / part
        weights = load_file(file)
        whole = dict(weights)
        weights.pop(next(name for name in sorted(weights) if "0" in name))
        save_file(weights, file, metadata={"format": "pt"})
        with pytest.raises(ValueError, match="missing|lacks"):
            ManzanoPipeline.from_pretrained(folder)
        save_file(whole, file, metadata={"format": "pt"})


def test_seeds_are_one_for_each_picture(pipeline):
    with pytest.raises(ValueError, match="1 seeds were given for 2 pictures"):
        pipeline.draw_batch(["a", "b"], seed=[1], settings=FAST)


def test_half_precision_asks_draws_and_edits(pipeline_folder):
    half = ManzanoPipeline.from_pretrained(pipeline_folder, dtype=torch.bfloat16)
    assert {half.model.dtype, half.transformer.dtype} == {torch.bfloat16}
    picture = half.draw("a red heart", seed=0, settings=FAST)
    assert half.edit(picture, "make it blue", seed=0, settings=FAST).size == picture.size
    assert isinstance(half.ask(picture, "what is it?", max_new_tokens=2), str)


def says(pipeline, prompt: str, words: str | list[int], picture=None):
    """The pipeline's model, trained in a few steps to say the words before it begins a picture."""
    model = copy.deepcopy(pipeline.model).train()
    inputs = pipeline.processor(images=picture, text=prompt)
    ids, encode = inputs["input_ids"], pipeline.processor.tokenizer.encode
    answer = (encode(words) if isinstance(words, str) else words) + encode("<img_start>")
    row = torch.cat([ids, torch.tensor([answer])], dim=1)
    labels = row.clone()
    labels[:, : ids.shape[1]] = IGNORE
    optimizer = torch.optim.Adam(model.language_model.parameters(), lr=1e-2)
    for _ in range(80):
        optimizer.zero_grad()
        model(input_ids=row, labels=labels, pixel_values=inputs.get("pixel_values")).loss.backward()
        optimizer.step()
    parts = (pipeline.transformer, pipeline.vae, pipeline.scheduler)
    return ManzanoPipeline(model, pipeline.processor, *parts)


@pytest.mark.parametrize("words", ["", "a red heart"])
def test_a_picture_is_drawn_after_what_the_model_says(pipeline, words):
    prompt = pipeline.processor.prompt("make it red")
    trained = says(pipeline, prompt, words)
    assert trained.words_before([], [prompt] * 2, 64) == [words] * 2
    seeds = ([torch.Generator().manual_seed(0)] for _ in range(2))
    settings = DrawingSettings(guidance_scale=1.0)
    drawn = trained.image_ids([], ["make it red"], [SQUARE], settings, next(seeds))
    inputs = trained.processor(text=prompt + words + "<img_start>")
    expected = trained.model.generate(
        **inputs, generation_mode="image", temperature=settings.temperature, generator=next(seeds)
    )
    assert torch.equal(drawn, expected)


def test_a_model_that_does_not_begin_its_picture_draws_at_once(pipeline):
    prompt = pipeline.processor.prompt("make it red")
    trained = says(pipeline, prompt, "no" * 40)
    assert trained.words_before([], [prompt], 64) == [""]


def test_words_are_those_of_each_prompt_and_picture_alone(pipeline):
    prompts = [pipeline.processor.prompt(p, 1) for p in ("make it red", "and now larger")]
    pictures = [drawing(0), drawing(1)]
    trained = says(pipeline, prompts[0], "a red heart", pictures[0])
    batched = trained.words_before(pictures, prompts, 16)
    alone = [
        trained.words_before([picture], [prompt], 16)[0]
        for picture, prompt in zip(pictures, prompts, strict=True)
    ]
    assert batched == alone
    assert batched[0] == "a red heart"
    assert trained.words_before(pictures[:1], prompts[:1], 5) == [""]  # it takes more tokens


@pytest.mark.parametrize("words", ["the <image>", "the end<|end|>"])
def test_words_that_would_be_read_as_special_tokens_are_not_said(pipeline, words):
    prompt = pipeline.processor.prompt("make it red")
    spelt = pipeline.processor.tokenizer.encode(words, split_special_tokens=True)
    trained = says(pipeline, prompt, spelt)
    assert trained.words_before([], [prompt], 64) == [""]


@pytest.mark.parametrize("height", [0, 5, 50, -8])
def test_an_impossible_size_is_refused_with_the_multiple(pipeline, height):
    with pytest.raises(ValueError, match=f"must be multiples of 8 .* got {height} and 48"):
        pipeline.draw("a red heart", height=height, settings=FAST)


def test_empty_words_are_refused(pipeline):
    with pytest.raises(ValueError, match="the question is empty"):
        pipeline.ask(drawing(), "  ")
    with pytest.raises(ValueError, match="the prompt is empty"):
        pipeline.draw("")
    with pytest.raises(ValueError, match="the instruction is empty"):
        pipeline.edit(drawing(), "\n")


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="at least one step, got 0"):
        DrawingSettings(num_steps=0)
    with pytest.raises(ValueError, match="temperature must be 0 or more"):
        DrawingSettings(temperature=-1.0)


def test_a_device_that_is_not_here_is_refused(pipeline_folder):
    with pytest.raises(ValueError, match="no device 'abacus' on this machine; there is cpu"):
        ManzanoPipeline.from_pretrained(pipeline_folder, device="abacus")


def test_drawing_leaves_the_global_random_state_alone(pipeline):
    before = torch.get_rng_state()
    pipeline.draw("a red heart", seed=0, settings=FAST)
    assert torch.equal(torch.get_rng_state(), before)

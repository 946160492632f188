"""One folder asks, draws and edits."""

import copy

import pytest
import torch

from manzano.llm.loss import IGNORE
from manzano.pipeline import DrawingSettings, ManzanoPipeline
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


def test_an_edit_has_the_size_of_the_vision_tokenizer_and_depends_on_the_picture(pipeline):
    edits = [
        pipeline.edit(drawing(i, (90, 60)), "make it blue", seed=0, settings=FAST) for i in (0, 3)
    ]
    assert [edit.size for edit in edits] == [(48, 48), (48, 48)]
    assert edits[0].tobytes() != edits[1].tobytes()


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
    seeds = (torch.Generator().manual_seed(0) for _ in range(2))
    settings = DrawingSettings(guidance_scale=1.0)
    drawn = trained.image_ids([], ["make it red"], settings, next(seeds))
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

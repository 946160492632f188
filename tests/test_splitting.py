"""Large pictures split into tiles: trained on and asked about alike, and edits never."""

import pytest
import torch

from manzano.data_mix.encoders import SequenceEncoder
from manzano.data_mix.schema import Turn
from manzano.data_mix.sequences import picture_blocks, sequences
from manzano.eval.metrics import exact_match
from manzano.eval.understanding import Question, ask
from manzano.model import ManzanoForConditionalGeneration
from manzano.pipeline import DrawingSettings, ManzanoPipeline
from manzano.processing import ManzanoProcessor
from manzano.training.stages.llm import make_processor
from tests.data_mix.samples import make_sample
from tests.tiny import drawing, text_tokenizer, tiny_manzano, tiny_vision

PAGE, STRIP, SMALL = drawing(1, (96, 96)), drawing(2, (140, 40)), drawing(3)
"""2 x 2, 1 x 3 and 1 x 1 tiles of 48 pixels."""
BLOCK = "<img_start>" + "<image>" * 4 + "<img_end>"
ROW = 256


@pytest.fixture(scope="module")
def processor() -> ManzanoProcessor:
    processor = make_processor(tiny_vision(), text_tokenizer(), max_length=ROW)
    processor.max_tiles = 4
    return processor


@pytest.fixture(scope="module")
def pipeline(pipeline_folder) -> ManzanoPipeline:
    pipeline = ManzanoPipeline.from_pretrained(pipeline_folder)
    pipeline.processor.max_length = ROW
    pipeline.processor.max_tiles = 4
    return pipeline


def encoder(**changes) -> SequenceEncoder:
    options = {"image_size": 48, "num_tokens": 4, "row_length": ROW, "max_tiles": 4}
    return SequenceEncoder(text_tokenizer(), **(options | {"drop_prompt": 0.0} | changes))


def asked_about(*pictures, questions: int = 1):
    turns = [Turn(role=r, text=f"{r} {i}") for i in range(questions) for r in ("user", "assistant")]
    return make_sample("understanding", images=pictures, turns=tuple(turns))


@pytest.mark.parametrize(
    ("grid", "blocks"),
    [((1, 1), BLOCK), ((2, 2), f"{BLOCK * 2}\n{BLOCK * 2}\n{BLOCK}"),
     ((1, 3), f"{BLOCK * 3}\n{BLOCK}"), ((3, 1), f"{BLOCK}\n{BLOCK}\n{BLOCK}\n{BLOCK}")],
)  # fmt: skip
def test_rows_of_tiles_are_lines_and_the_overview_is_the_last(grid, blocks):
    assert picture_blocks(grid, 4) == blocks


@pytest.mark.parametrize("pictures", [(PAGE,), (STRIP,), (SMALL,), (SMALL, PAGE, STRIP, SMALL)])
def test_the_processor_prompts_with_what_the_encoder_trains_on(processor, pictures):
    sample = asked_about(*pictures)
    example = encoder().encode(sample)
    prompt = processor.prompt(sample.turns[0].text, len(pictures))
    inputs = processor(images=list(pictures), text=prompt)
    answer = processor.tokenizer.encode(sample.turns[1].text + "<|end|>")
    assert inputs["input_ids"][0].tolist() + answer == example.sequences[0].input_ids
    pixels = torch.stack(example.images)
    torch.testing.assert_close(inputs["pixel_values"], pixels, rtol=0, atol=1e-6)


def test_a_picture_that_fits_one_tile_and_one_that_is_not_to_be_split_are_as_ever():
    small, page = asked_about(SMALL), asked_about(PAGE)
    for sample, max_tiles in ((small, 9), (page, 1)):
        example = encoder(max_tiles=max_tiles).encode(sample)
        assert example.sequences == sequences(sample, text_tokenizer(), 4)
        (pixels,) = example.images
        assert torch.equal(pixels, encoder().transform(sample.images[0]))


@torch.no_grad()
def test_split_pictures_packed_with_others_equal_samples_of_their_own():
    torch.manual_seed(0)
    model: ManzanoForConditionalGeneration = tiny_manzano()
    samples = [asked_about(PAGE, questions=2), asked_about(SMALL, STRIP), make_sample("text")]
    examples = [encoder().encode(sample) for sample in samples]

    def logits(rows):
        batch = encoder().collate(rows)
        return model(
            input_ids=batch.input_ids, position_ids=batch.position_ids,
            pixel_values=batch.pixel_values, image_index=batch.image_index, use_cache=False,
        ).logits  # fmt: skip

    packed = logits([examples])[0]
    start = 0
    for example in examples:
        length = encoder().length(example)
        alone = logits([[example]])[0, :length]
        torch.testing.assert_close(packed[start : start + length], alone, rtol=1e-4, atol=1e-5)
        start += length


def test_every_question_about_a_split_picture_shows_all_of_it():
    example = encoder().encode(asked_about(PAGE, questions=2))
    batch = encoder().collate([[example]])
    assert batch.pixel_values.shape == (5, 3, 48, 48)
    assert batch.image_index.tolist() == [0, 1, 2, 3, 4] * 2
    assert batch.image_sequence.tolist() == [0] * 5 + [1] * 5


def test_the_picture_that_is_edited_is_not_split(pipeline):
    sample = make_sample("editing", images=(PAGE,), target=PAGE)
    assert encoder().encode(sample).sequences == sequences(sample, text_tokenizer(), 4)
    settings = DrawingSettings(num_steps=1)
    assert pipeline.processor.max_tiles == 4
    split = pipeline.edit(PAGE, "make it red", seed=0, settings=settings)
    pipeline.processor.max_tiles = 1
    whole = pipeline.edit(PAGE, "make it red", seed=0, settings=settings)
    pipeline.processor.max_tiles = 4
    assert split.tobytes() == whole.tobytes()


def test_batched_answers_about_different_grids_equal_single_ones(pipeline):
    images = [[PAGE], [SMALL, STRIP], [SMALL], [STRIP]]
    questions = ["what is it?", "why?", "which colour does the disc have?", "and this?"]
    batched = pipeline.ask_batch(images, questions, max_new_tokens=8)
    assert batched == [
        pipeline.ask(own, question, max_new_tokens=8)
        for own, question in zip(images, questions, strict=True)
    ]


def test_the_number_of_tiles_may_be_chosen_anew(pipeline):
    """None is the processor's; a picture that fits one tile does not care."""
    for picture in (PAGE, SMALL):
        inputs = [
            pipeline.processor(images=[picture], text="<image>", max_tiles=n)
            for n in (None, 4, 1, 2)
        ]
        blocks = [len(i["pixel_values"]) for i in inputs]
        assert blocks == ([5, 5, 1, 1] if picture is PAGE else [1, 1, 1, 1])
    answers = {n: pipeline.ask(PAGE, "what is it?", max_tiles=n) for n in (None, 4, 1)}
    assert answers[None] == answers[4]
    untiled = ManzanoPipeline(
        pipeline.model,
        make_processor(pipeline.model.vision, pipeline.processor.tokenizer, max_length=ROW),
        pipeline.transformer, pipeline.vae, pipeline.scheduler,
    )  # fmt: skip
    assert untiled.processor.max_tiles == 1
    assert answers[1] == untiled.ask(PAGE, "what is it?") != answers[4]
    assert pipeline.ask(SMALL, "why?") == untiled.ask(SMALL, "why?")


def test_evaluation_splits_as_the_processor_does(pipeline):
    questions = [
        Question(picture=picture, question="what is it?", answer="a disc")
        for picture in (PAGE, SMALL, STRIP)
    ]
    answers = [a.answer for a in ask(pipeline, questions, "drawn", exact_match)]
    expected = [pipeline.ask(q.picture, q.question, max_new_tokens=16) for q in questions]
    assert answers == expected


def test_the_processor_remembers_and_old_folders_split_nothing(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    assert ManzanoProcessor.from_pretrained(tmp_path).max_tiles == 4
    config = tmp_path / "processor_config.json"
    lines = [line for line in config.read_text().splitlines() if "max_tiles" not in line]
    assert len(lines) < len(config.read_text().splitlines())
    config.write_text("\n".join(lines))
    assert ManzanoProcessor.from_pretrained(tmp_path).max_tiles == 1


def test_what_tiles_make_too_long_is_refused_by_their_number(processor):
    long = r"takes \d+ tokens, 10 tiles of 4 tokens among them, more than a row of 64: "
    with pytest.raises(ValueError, match=long + "raise row_length, lower max_tiles or shorten"):
        encoder(row_length=64, max_tiles=9).encode(asked_about(PAGE, PAGE))
    prompt = processor.prompt("what? " * 40, 1)
    message = "takes 274 tokens, 5 tiles of 4 tokens among them, more than the 256"
    with pytest.raises(ValueError, match=message + ".* fewer images or a smaller max_tiles"):
        processor(images=[PAGE], text=prompt)


def test_less_than_one_tile_is_refused_where_it_is_said(processor):
    for use in (
        lambda: encoder(max_tiles=0),
        lambda: processor(images=[PAGE], text="<image>", max_tiles=0),
    ):
        with pytest.raises(ValueError, match="max_tiles must be 1 .* got 0"):
            use()


def test_a_page_of_any_length_becomes_tiles(processor):
    inputs = processor(images=[drawing(1, (500, 40_000))], text="<image>", max_tiles=9)
    assert inputs["pixel_values"].shape == (10, 3, 48, 48)

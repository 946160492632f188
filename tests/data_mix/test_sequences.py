"""What is trained on is, token for token, what is prompted with."""

import pytest

from manzano.data_mix.schema import Sample, Task, Turn
from manzano.data_mix.sequences import begin_picture, sequences, unconditional
from manzano.data_mix.text_tokenizer import train_text_tokenizer
from manzano.llm.loss import IGNORE
from manzano.training.stages.llm import make_processor
from tests.data_mix.samples import make_sample, picture
from tests.tiny import text_tokenizer, tiny_vision

TOKENIZER = text_tokenizer()


@pytest.fixture(scope="module")
def processor():
    return make_processor(tiny_vision(), TOKENIZER, max_length=128)


def words_of(sample: Sample) -> str:
    return next(turn.text for turn in sample.turns if turn.role == "user")


@pytest.mark.parametrize("task", ["understanding", "generation", "editing"])
def test_a_training_sequence_is_the_prompt_and_its_answer(processor, task: Task):
    sample = make_sample(task)
    (sequence,) = sequences(sample, TOKENIZER, 4)
    draw = sample.target is not None
    begun = begin_picture(TOKENIZER, (3, 4)) if draw else ""
    prompt = processor.prompt(words_of(sample), len(sample.images)) + begun
    inputs = processor(images=list(sample.images), text=prompt)
    answer = "<target>" * 4 + "<img_end><|end|>" if draw else sample.turns[1].text + "<|end|>"
    expected = inputs["input_ids"][0].tolist() + TOKENIZER.encode(answer)
    assert sequence.input_ids == expected
    predicted = TOKENIZER.encode(begun + answer)
    assert sequence.labels[-len(predicted) :] == predicted
    assert set(sequence.labels[: -len(predicted)]) == {IGNORE}


def test_words_before_a_target_picture_are_predicted_and_lead_to_it(processor):
    turns = (Turn(role="user", text="make it red"), Turn(role="assistant", text="a red heart"))
    (sequence,) = sequences(make_sample("editing", turns=turns), TOKENIZER, 4)
    prompt = processor.prompt("make it red", 1) + "a red heart<img_start><3:4>"
    begun = processor(images=[picture(0)], text=prompt)["input_ids"][0].tolist()
    rest = TOKENIZER.encode("<target>" * 4 + "<img_end><|end|>")
    assert sequence.input_ids == begun + rest
    predicted = TOKENIZER.encode("a red heart<img_start><3:4>") + rest
    assert [label for label in sequence.labels if label != IGNORE] == predicted


def test_prose_is_predicted_from_its_first_to_its_end_token():
    (sequence,) = sequences(make_sample("text"), TOKENIZER, 4)
    assert TOKENIZER.decode(sequence.input_ids) == "answer 0<|end|>"
    assert sequence.labels == sequence.input_ids


def test_every_question_is_a_sequence_of_its_own():
    pairs = [
        (Turn(role="user", text=f"q{i}"), Turn(role="assistant", text=f"a{i}")) for i in (1, 2)
    ]
    several = make_sample("understanding", turns=tuple(turn for pair in pairs for turn in pair))
    alone = [sequences(make_sample("understanding", turns=pair), TOKENIZER, 4)[0] for pair in pairs]
    assert sequences(several, TOKENIZER, 4) == alone


def test_an_unconditional_picture_has_neither_words_nor_reference(processor):
    turns = (Turn(role="user", text="make it red"), Turn(role="assistant", text="a red heart"))
    for task in ("generation", "editing"):
        (sequence,) = sequences(unconditional(make_sample(task, turns=turns)), TOKENIZER, 4)
        expected = "<|user|><|assistant|><img_start><3:4>" + "<target>" * 4 + "<img_end><|end|>"
        assert sequence.input_ids == TOKENIZER.encode(expected)


@pytest.mark.parametrize(
    ("size", "begun"),
    [((50, 50), "<img_start>"), ((160, 90), "<img_start><9:16>"), ((10, 90), "<img_start><4:1>")],
)
def test_a_target_picture_begins_with_its_size_unless_it_is_a_square(size, begun):
    sample = make_sample("generation", target=picture(0).resize(size))
    (sequence,) = sequences(sample, TOKENIZER, 4)
    expected = TOKENIZER.encode(begun + "<target>" * 4 + "<img_end><|end|>")
    assert [label for label in sequence.labels if label != IGNORE] == expected


def test_a_tokenizer_without_sizes_refuses_all_but_squares():
    bare = train_text_tokenizer(["red heart"], vocab_size=264)
    assert begin_picture(bare, (1, 1)) == "<img_start>"
    with pytest.raises(ValueError, match="no size token <1:3>, and draws squares alone"):
        begin_picture(bare, (1, 3))

"""Answers: settings are obeyed, batches change nothing, every answer ends where it should."""

import pytest
import torch

from manzano.answering import AnswerSettings, Message, before
from tests.tiny import drawing, tiny_pipeline


@pytest.fixture(scope="module")
def pipeline():
    torch.manual_seed(0)
    return tiny_pipeline()


def asked(index: int, words: str = "what is it?") -> list[Message]:
    return [Message("user", (drawing(index), words))]


CONVERSATIONS = [
    asked(0),
    [Message("user", ("look: ", drawing(1), " and ", drawing(2), " differ?"))],
    [Message("user", ("red?",)), Message("assistant", ("no",)), Message("user", ("why?",))],
]


@pytest.mark.parametrize(
    "settings",
    [
        AnswerSettings(max_new_tokens=8),
        AnswerSettings(max_new_tokens=8, num_beams=3),
        AnswerSettings(max_new_tokens=8, repetition_penalty=1.5),
    ],
)
def test_batched_equals_single(pipeline, settings):
    batched = pipeline.chat_batch(CONVERSATIONS, settings)
    assert batched == [pipeline.chat_batch([one], settings)[0] for one in CONVERSATIONS]
    assert len(set(batched)) > 1


def test_a_question_is_a_conversation_of_one_message(pipeline):
    asked_plainly = pipeline.ask(drawing(0), "what is it?", max_new_tokens=8)
    assert asked_plainly == pipeline.chat_batch([asked(0)], AnswerSettings(max_new_tokens=8))[0]


def test_order_and_earlier_turns_are_read(pipeline):
    settings = AnswerSettings(max_new_tokens=8)
    first = pipeline.chat_batch([[Message("user", ("a ", drawing(0), " b"))]], settings)
    other = pipeline.chat_batch([[Message("user", (drawing(0), "a  b"))]], settings)
    assert first != other
    text = pipeline.processor.conversation(CONVERSATIONS[2])
    assert text == "<|user|>red?<|assistant|>no<|end|><|user|>why?<|assistant|>"


def test_a_seed_makes_a_sampled_answer_repeatable_and_leaves_the_global_state_alone(pipeline):
    settings = AnswerSettings(max_new_tokens=12, temperature=1.5, seed=3)
    state = torch.random.get_rng_state()
    once = pipeline.chat_batch([asked(0)], settings)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert pipeline.chat_batch([asked(0)], settings) == once
    others = [
        pipeline.chat_batch(
            [asked(0)], AnswerSettings(max_new_tokens=12, temperature=1.5, seed=seed)
        )
        for seed in range(4, 8)
    ]
    assert any(other != once for other in others)


def test_top_k_of_one_is_greedy(pipeline):
    greedy = pipeline.chat_batch([asked(0)], AnswerSettings(max_new_tokens=12))
    narrow = AnswerSettings(max_new_tokens=12, temperature=5.0, top_k=1)
    assert pipeline.chat_batch([asked(0)], narrow) == greedy


def test_an_answer_ends_before_a_stop_text(pipeline):
    whole = pipeline.chat_batch(CONVERSATIONS, AnswerSettings(max_new_tokens=16))
    stop = next(words for words in whole if len(words) > 4)[2:4]
    cut = pipeline.chat_batch(CONVERSATIONS, AnswerSettings(max_new_tokens=16, stop=(stop, "zq")))
    assert cut == [before(words, [stop]).strip() for words in whole]
    assert cut != whole


def test_an_answer_ends_where_its_own_room_ends(pipeline):
    room = pipeline.processor.max_length
    plain = AnswerSettings(max_new_tokens=4 * room)
    batched = pipeline.chat_batch([asked(0), asked(1, "a" * 60)], plain)
    assert batched == [
        pipeline.chat_batch([asked(0)], plain)[0],
        pipeline.chat_batch([asked(1, "a" * 60)], plain)[0],
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [("a" * 200, "more than the 96"), ("a <|end|> b", "special tokens"), (None, "at least one")],
)
def test_what_cannot_be_answered_says_why(pipeline, words, message):
    turns = [] if words is None else [Message("user", (words,))]
    with pytest.raises(ValueError, match=message):
        pipeline.chat_batch([turns])


@pytest.mark.parametrize(
    "bad",
    [
        {"max_new_tokens": 0}, {"temperature": -1}, {"top_p": 0}, {"top_p": 1.5}, {"top_k": 0},
        {"num_beams": 0}, {"repetition_penalty": 0}, {"stop": ("",)},
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad)) if "stop" not in bad else "empty"):
        AnswerSettings(**bad)


def test_a_role_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="system"):
        Message("system", ("be brief",))  # pyright: ignore[reportArgumentType]

"""Pieces of an answer: joined, they are the answer; none is taken back."""

import pytest
import torch

from manzano.answering import AnswerSettings, answers, before
from manzano.pieces import Pieces, settled
from tests.test_answering import CONVERSATIONS
from tests.tiny import tiny_pipeline

TEXTS = [
    "  red. \n\n blue\n",
    "a stop",
    "ab abc abcd",
    " \n ",
    "caf\u00e9 \u00fc\u4f60\U0001f600 ok ",
    "aaab",
]
STOPS = [(), ("\n\n",), ("stop",), ("abcd", "bc"), ("aab",), ("\u00fc\u4f60",), (" ",)]


@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.parametrize("text", TEXTS)
def test_what_is_settled_grows_into_the_answer_byte_by_byte(text, stop):
    data = text.encode()
    shown = ""
    for length in range(len(data) + 1):
        said = data[:length].decode(errors="replace")
        now = settled(said, stop)
        assert now.startswith(shown)
        shown = now
        if any(s in said for s in stop):  # here the model ends
            break
    assert before(said, stop).strip().startswith(shown)
    assert len(before(said, stop).strip()) - len(shown) <= max((len(s) for s in stop), default=0)


def test_a_stop_text_that_may_come_is_held_back():
    assert settled("it is red. The", (". The end",)) == "it is red"
    assert settled("it is red. Thus", (". The end",)) == "it is red. Thus"
    assert settled("half \ufffd", ()) == "half"


@pytest.mark.parametrize(
    "settings",
    [
        AnswerSettings(max_new_tokens=24),
        AnswerSettings(max_new_tokens=24, temperature=2.0, seed=1),
        AnswerSettings(max_new_tokens=40, temperature=2.0, seed=2, stop=("e", "a", ">")),
    ],
)
def test_the_pieces_of_a_batch_joined_are_its_answers(settings):
    torch.manual_seed(0)
    pipeline = tiny_pipeline()
    heard: list[list[str]] = [[], [], []]
    listeners = [heard[0].append, None, heard[2].append]
    pieces = Pieces(pipeline.processor, settings.stop, listeners)
    said = answers(pipeline.model, pipeline.processor, CONVERSATIONS, settings, streamer=pieces)
    pieces.finish(said)
    assert ["".join(own) for own in heard] == [said[0].text, "", said[2].text]
    assert max(map(len, heard)) > 1
    assert [one.text for one in said] == pipeline.chat_batch(CONVERSATIONS, settings)

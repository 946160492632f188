"""lmms-eval's words for settings and messages, in Manzano's."""

import logging

import pytest

from manzano.answering import AnswerSettings
from manzano.eval.harness.asked import answer_settings, conversation
from tests.tiny import drawing


@pytest.mark.parametrize(
    ("asked", "settings"),
    [
        ({}, {"max_new_tokens": 1024}),
        ({"max_new_tokens": 16, "temperature": 0, "do_sample": False}, {"max_new_tokens": 16}),
        ({"until": ["\n\n"]}, {"max_new_tokens": 1024, "stop": ("\n\n",)}),
        ({"until": "END"}, {"max_new_tokens": 1024, "stop": ("END",)}),
        ({"until": None, "max_new_tokens": None}, {"max_new_tokens": 1024}),
        ({"until": ["", "x"]}, {"max_new_tokens": 1024, "stop": ("x",)}),
        ({"num_beams": 3, "top_p": 1.0}, {"max_new_tokens": 1024, "num_beams": 3}),
        ({"temperature": 0, "top_p": 0, "top_k": 0}, {"max_new_tokens": 1024}),
        ({"do_sample": True}, {"max_new_tokens": 1024, "temperature": 1.0}),
        (
            {"temperature": 0.6, "top_p": 0.9, "top_k": 20},
            {"max_new_tokens": 1024, "temperature": 0.6, "top_p": 0.9, "top_k": 20},
        ),
        ({"temperature": 0.6, "top_k": -1}, {"max_new_tokens": 1024, "temperature": 0.6}),
        ({"temperature": 0.6, "do_sample": False}, {"max_new_tokens": 1024}),
        ({"repetition_penalty": 1.2}, {"max_new_tokens": 1024, "repetition_penalty": 1.2}),
    ],
)
def test_settings(asked, settings):
    assert answer_settings(asked) == AnswerSettings(**settings)


def test_what_cannot_be_obeyed_is_said_once(caplog):
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            answer_settings({"max_new_tokens": 4, "image_aspect_ratio": "pad"})
    assert caplog.text.count("image_aspect_ratio='pad'") == 1


def test_impossible_settings_are_an_error():
    with pytest.raises(ValueError, match="top_p must be above 0"):
        answer_settings({"temperature": 1, "top_p": 2})


def test_words_and_pictures_keep_their_order():
    picture = drawing()
    content = [
        {"type": "text", "text": " See "}, {"type": "image", "url": picture},
        {"type": "text", "text": ""}, {"type": "text", "text": "\nand say."},
    ]  # fmt: skip
    [turn] = conversation([{"role": "user", "content": content}])
    assert (turn.role, turn.content) == ("user", (" See ", picture, "\nand say."))


def test_words_of_the_system_stand_before_the_users():
    said = [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"), ("user", "Why?")]
    messages = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in said]
    assert [(turn.role, turn.content) for turn in conversation(messages)] == [
        ("user", ("Be brief.", "\n", "Hi")), ("assistant", ("Hello",)), ("user", ("Why?",)),
    ]  # fmt: skip


def test_videos_are_refused():
    content = [{"type": "video", "url": "clip.mp4"}]
    with pytest.raises(ValueError, match="reads words and pictures, and was given a video"):
        conversation([{"role": "user", "content": content}])

"""What lmms-eval asks for, in Manzano's words: conversations, and settings of answers."""

import logging
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from lmms_eval.protocol import ChatMessages
from PIL import Image

from manzano.answering import AnswerSettings, Message
from manzano.data_mix.images import load_image

logger = logging.getLogger(__name__)

MAX_NEW_TOKENS = 1024
"""Where a task sets no limit; an answer ends before, where the model ends it."""
TAKEN = ("max_new_tokens", "num_beams", "repetition_penalty")
CHANCES = ("temperature", "top_p", "top_k")
KNOWN = {"until", "do_sample", *TAKEN, *CHANCES}


def answer_settings(asked: Mapping[str, Any]) -> AnswerSettings:
    """A task's `generation_kwargs` as settings of an answer.

    As in lmms-eval's own models an answer is sampled at a temperature above 0, unless `do_sample`
    forbids it; at a temperature of 0 the chances have no meaning, and stay out. Answers are not
    seeded one by one: lmms-eval's own `--seed` was set before.

    Raises:
        ValueError: for impossible values.
    """
    given = {name: value for name, value in asked.items() if value is not None}
    for name in given.keys() - KNOWN:
        _leave_out(name, repr(given[name]))
    until = given.get("until", ())
    taken = {name: given[name] for name in TAKEN if name in given}
    temperature = given.get("temperature", 1.0 if given.get("do_sample") else 0.0)
    if given.get("do_sample", True) and temperature > 0:
        taken |= {name: given[name] for name in CHANCES if name in given}
        taken["temperature"] = temperature
        if taken.get("top_k", 1) < 1:  # how others say that there is no limit
            del taken["top_k"]
    return AnswerSettings(
        **{"max_new_tokens": MAX_NEW_TOKENS} | taken,
        stop=tuple(text for text in ([until] if isinstance(until, str) else until) if text),
    )


@cache
def _leave_out(name: str, value: str) -> None:
    """Says once what is not obeyed."""
    logger.warning("a task sets %s=%s, which means nothing to Manzano: left out", name, value)


def conversation(messages: Sequence[Mapping[str, Any]]) -> list[Message]:
    """lmms-eval's messages as Manzano's, words as they are. Those of the system, which Manzano's
    chat does not know, stand on lines of their own before the user's next ones.

    Raises:
        ValueError: for pictures that cannot be read, and for videos and sounds.
    """
    turns, before = [], []
    for message in ChatMessages(messages=list(messages)).messages:  # pyright: ignore
        content = [part for part in map(_part, message.content) if part != ""]
        if message.role == "system":
            before += [*content, "\n"]
        else:
            turns.append(Message(message.role, (*before, *content)))
            before = []
    return turns


def _part(content: Any) -> str | Image.Image:
    if content.type == "text":
        return content.text
    if content.type == "image":
        return load_image(content.url)
    raise ValueError(f"Manzano reads words and pictures, and was given a {content.type}")

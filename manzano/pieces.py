"""Answers in pieces, while they are said: each is handed on when no later token can change it."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers.generation.streamers import BaseStreamer

from manzano.answering import Answer, before
from manzano.processing import ManzanoProcessor

HALF_LETTER = "\N{REPLACEMENT CHARACTER}"
Listener = Callable[[str], None]


def settled(text: str, stop: Sequence[str]) -> str:
    """The beginning of an answer that is sure when only `text` of it was said.

    Not sure are spaces at its end, which an answer loses, half a letter, and what may yet become a
    stop text.
    """
    if any(s in text for s in stop):
        return before(text, stop).strip()
    text = text.rstrip(HALF_LETTER)
    held = [n for s in stop for n in range(1, len(s)) if text.endswith(s[:n])]
    return text[: len(text) - max(held, default=0)].strip()


class Pieces(BaseStreamer):
    """Follows a batch of answers token by token.

    The pieces of an answer, joined, are exactly its text.

    Args:
        listeners: of each answer, called with its next piece; None where nobody listens.
        on_token: called after each token of the batch; what it raises ends the batch.
    """

    def __init__(
        self,
        processor: ManzanoProcessor,
        stop: Sequence[str],
        listeners: Sequence[Listener | None],
        on_token: Callable[[], None] = lambda: None,
    ):
        self.processor, self.stop, self.on_token = processor, stop, on_token
        self.listeners = {row: heard for row, heard in enumerate(listeners) if heard is not None}
        self.sent = dict.fromkeys(self.listeners, 0)
        self.ids: list[Tensor] = []

    def put(self, value: Tensor) -> None:
        if value.ndim > 1:  # the prompts
            return
        self.ids.append(value)
        self.on_token()
        if self.listeners:
            rows = list(self.listeners)
            said = self.processor.decode(torch.stack(self.ids, dim=1)[rows])  # (B', T)
            for row, text in zip(rows, said, strict=True):
                self.hand_on(row, settled(text, self.stop))

    def end(self) -> None:
        """The last pieces come with `finish`, when it is known where the answers end."""

    def finish(self, answers: Sequence[Answer]) -> None:
        """Hands on what is left."""
        for row in self.listeners:
            self.hand_on(row, answers[row].text)

    def hand_on(self, row: int, text: str) -> None:
        piece = text[self.sent[row] :]
        if piece:
            self.sent[row] = len(text)
            self.listeners[row](piece)

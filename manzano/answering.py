"""Answers in words: what was said so far, how the next words are chosen, where they end."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor
from transformers import StoppingCriteria
from transformers.generation import RepetitionPenaltyLogitsProcessor

from manzano.data_mix.images import load_image
from manzano.model import ManzanoForConditionalGeneration
from manzano.processing import ManzanoProcessor


@dataclass(frozen=True)
class Message:
    """One turn: words and pictures in the order in which they are read."""

    role: Literal["user", "assistant"]
    content: tuple[str | Image.Image, ...]

    def __post_init__(self):
        if self.role not in ("user", "assistant"):
            raise ValueError(f"a message is the user's or the assistant's, got {self.role!r}")

    @property
    def images(self) -> list[Image.Image]:
        return [part for part in self.content if isinstance(part, Image.Image)]


@dataclass(frozen=True, kw_only=True)
class AnswerSettings:
    """How an answer is chosen; by default its likeliest tokens, one after the other."""

    max_new_tokens: int = 64
    """An answer ends here at the latest, or where the model has no room left."""
    temperature: float = 0.0
    """Of the tokens; 0 takes the likeliest."""
    top_p: float | None = None
    """Sample among the likeliest tokens that hold this much probability."""
    top_k: int | None = None
    """Sample among this many likeliest tokens."""
    num_beams: int = 1
    """Beams of a search; 1 searches none."""
    repetition_penalty: float = 1.0
    """Above 1, what was said is less likely to be said again."""
    stop: tuple[str, ...] = ()
    """An answer ends before the first of these."""
    seed: int | None = None
    """Of the sampling; None answers anew each time."""

    def __post_init__(self):
        for name, least in (("max_new_tokens", 1), ("num_beams", 1), ("temperature", 0)):
            if not least <= getattr(self, name) < math.inf:
                raise ValueError(
                    f"{name} must be {least} or more and finite, got {getattr(self, name)}"
                )
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, got {self.top_p}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be 1 or more, got {self.top_k}")
        if self.repetition_penalty <= 0:
            raise ValueError(f"repetition_penalty must be above 0, got {self.repetition_penalty}")
        if "" in self.stop:
            raise ValueError("an empty text cannot stop an answer: leave it out")

    def generation(self) -> dict[str, Any]:
        """The same in the words of transformers' `generate`."""
        sampled = self.temperature > 0
        # Not by its name: beside embeddings, transformers then spares the answer's first tokens, as
        # many as the prompt has.
        penalties = [RepetitionPenaltyLogitsProcessor(float(self.repetition_penalty))]
        chances = {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k or 0}
        return {
            "do_sample": sampled,
            "num_beams": self.num_beams,
            "max_new_tokens": self.max_new_tokens,
            "logits_processor": penalties,
        } | {name: value for name, value in chances.items() if sampled and value is not None}


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What was said, and how it came to its end."""

    text: str
    """Without spaces around it."""
    prompt_tokens: int
    """Those that pictures take among them."""
    tokens: int
    """Chosen for the answer, the one that ends it among them."""
    complete: bool
    """Ended by the model or before a stop text, not where `max_new_tokens` or the room end."""


class Ends(StoppingCriteria):
    """Ends each answer of a batch at a stop text, or where its own sequence is full.

    Args:
        rooms: tokens that each conversation may still take.
    """

    def __init__(self, processor: ManzanoProcessor, stop: Sequence[str], rooms: list[int]):
        self.processor, self.stop, self.rooms = processor, stop, rooms
        # A token is one byte or more; some to spare, where half a letter comes first.
        self.tail = max((len(text.encode()) for text in stop), default=0) + 8

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs) -> Tensor:
        rows = len(input_ids) // len(self.rooms)  # of each conversation: its beams and candidates
        ended = [input_ids.shape[1] >= room for room in self.rooms for _ in range(rows)]
        if self.stop:
            said = self.processor.decode(input_ids[:, -self.tail :])
            ended = [e or any(s in t for s in self.stop) for e, t in zip(ended, said, strict=True)]
        return torch.tensor(ended, device=input_ids.device)


def answer(
    model: ManzanoForConditionalGeneration,
    processor: ManzanoProcessor,
    conversations: Sequence[Sequence[Message]],
    settings: AnswerSettings,
    *,
    max_tiles: int | None = None,
) -> list[str]:
    """What the model says next in each conversation, without spaces around it; see `answers`."""
    said = answers(model, processor, conversations, settings, max_tiles=max_tiles)
    return [one.text for one in said]


def answers(
    model: ManzanoForConditionalGeneration,
    processor: ManzanoProcessor,
    conversations: Sequence[Sequence[Message]],
    settings: AnswerSettings,
    *,
    max_tiles: int | None = None,
    streamer: Any = None,
) -> list[Answer]:
    """What the model says next in each conversation.

    Args:
        max_tiles: into which a large picture is split at most; by default as in training.
        streamer: of transformers, gets the tokens (B,) of all conversations as they are chosen; see
            `manzano.pieces`.

    Raises:
        ValueError: for a conversation that leaves no room for an answer, or whose words hold
            special tokens; for pictures that cannot be read.
    """
    images = [load_image(i) for turns in conversations for turn in turns for i in turn.images]
    text = [processor.conversation(turns) for turns in conversations]
    inputs = processor(images=images or None, text=text, max_tiles=max_tiles, reserve=1)
    lengths = inputs["attention_mask"].sum(dim=1).tolist()
    ends = Ends(processor, settings.stop, [processor.max_length - length for length in lengths])
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices, enabled=settings.seed is not None):
        if settings.seed is not None:
            torch.manual_seed(settings.seed)
        ids = model.generate(
            **inputs.to(model.device), stopping_criteria=[ends], streamer=streamer,
            **settings.generation(),
        )  # fmt: skip
    v = model.vocabulary
    rows = zip(processor.decode(ids), lengths, ids.tolist(), strict=True)
    return [
        Answer(
            text=before(said, settings.stop).strip(),
            prompt_tokens=length,
            tokens=sum(token != v.pad for token in row),
            complete=v.end in row or any(stop in said for stop in settings.stop),
        )
        for said, length, row in rows
    ]


def before(text: str, stop: Sequence[str]) -> str:
    """The text up to the first of the stop texts in it."""
    return text[: min((text.find(s) for s in stop if s in text), default=len(text))]

"""Questions about held-out pictures: asked, scored, and compared with answers given blindly."""

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from PIL import Image

from manzano.data_mix.schema import read_fields, read_samples, shard_paths
from manzano.eval.batches import batches
from manzano.eval.floors import Score, majority_floor, question_only_floor
from manzano.eval.metrics import exact_match, relaxed_accuracy
from manzano.eval.record import Answer, Figure

MAX_QUESTIONS = {"easy_vqa": 2000, "reading": 400, "charts": 400}
"""Questions asked of each source, drawn at random where its test holds more."""
MAX_NEW_TOKENS = 16
"""Longer than any answer of the demo corpus."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question about one held-out picture."""

    picture: Image.Image
    question: str
    answer: str


class Answering(Protocol):
    """What answers questions: a pipeline, or a model without a pixel decoder."""

    def ask_batch(
        self, images: list, questions: list[str], *, max_new_tokens: int
    ) -> list[str]: ...


def held_out_questions(folder: Path, *, limit: int, seed: int) -> list[Question]:
    """At most `limit` questions of a source's test split, in an order drawn from `seed`."""
    questions = [
        Question(picture=sample.images[0], question=question, answer=answer)
        for sample in read_samples(folder, "test")
        for question, answer in sample.pairs()
    ]
    random.Random(seed).shuffle(questions)
    return questions[:limit]


def training_pairs(folder: Path) -> Iterator[tuple[str, str]]:
    """Every (question, answer) of a source's training split; no picture is decoded."""
    for shard in shard_paths(folder, "train"):
        for fields in read_fields(shard):
            texts = [turn["text"] for turn in json.loads(fields["json"])["turns"]]
            yield from zip(texts[0::2], texts[1::2], strict=True)


def ask(
    pipeline: Answering, questions: Sequence[Question], what: str, score: Score
) -> list[Answer]:
    """The model's answers, in order; right where `score` is 1."""
    said = [
        words
        for batch in batches(questions, what)
        for words in pipeline.ask_batch(
            [[question.picture] for question in batch],
            [question.question for question in batch],
            max_new_tokens=MAX_NEW_TOKENS,
        )
    ]
    return [
        Answer(
            picture=question.picture,
            question=question.question,
            answer=words,
            right_answer=question.answer,
            correct=score(words, question.answer) == 1,
        )
        for question, words in zip(questions, said, strict=True)
    ]


def understanding(
    pipeline: Answering, data: Path, *, seed: int
) -> tuple[list[Figure], dict[str, list[Answer]]]:
    """The three figures of understanding, and all answers by source."""
    answers = {
        source: ask(
            pipeline,
            held_out_questions(data / source, limit=limit, seed=seed),
            source,
            relaxed_accuracy if source == "charts" else exact_match,
        )
        for source, limit in MAX_QUESTIONS.items()
    }
    return [
        _vqa(answers["easy_vqa"], data / "easy_vqa"),
        _reading(answers["reading"]),
        _charts(answers["charts"], data / "charts"),
    ], answers


def _right(answers: Sequence[Answer]) -> float:
    return sum(answer.correct for answer in answers) / len(answers)


def _pairs(answers: Sequence[Answer]) -> list[tuple[str, str]]:
    return [(answer.question, answer.right_answer) for answer in answers]


def _vqa(answers: Sequence[Answer], folder: Path) -> Figure:
    majority = majority_floor(answer.right_answer for answer in answers)
    return Figure(
        name="vqa_exact_match",
        label="easy-VQA questions answered right",
        value=_right(answers),
        floor=question_only_floor(training_pairs(folder), _pairs(answers)),
        target=0.9,
        n=len(answers),
        note="published test split; floor: the best guess from the question alone "
        f"(always the same answer: {majority:.3f})",
    )


def _reading(answers: Sequence[Answer]) -> Figure:
    words = [answer.right_answer for answer in answers]
    lengths = sorted({len(word) for word in words})
    return Figure(
        name="reading_exact_match",
        label="Words read letter for letter",
        value=_right(answers),
        floor=majority_floor(words),
        target=0.5,
        n=len(answers),
        note=f"words of {' or '.join(map(str, lengths))} letters, none of them seen in training; "
        "floor: always the same word",
    )


def _charts(answers: Sequence[Answer], folder: Path) -> Figure:
    floor = question_only_floor(training_pairs(folder), _pairs(answers), score=relaxed_accuracy)
    return Figure(
        name="chart_relaxed_accuracy",
        label="Chart questions, relaxed accuracy",
        value=_right(answers),
        floor=floor,
        target=floor + 0.15,
        n=len(answers),
        note="numbers within 5 %; floor: the best guess from the question alone",
    )

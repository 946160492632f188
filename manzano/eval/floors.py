"""What trivial answers reach: a model that stays at a floor has not looked at the picture.

What is answered: the most common answer of all, or the one most often given to the same question.
A benchmark without a training split lends its own answers, but never a sample its own.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from manzano.eval.metrics import exact_match, normalise

Value = TypeVar("Value")
Score = Callable[[str, str], float]
GuessScore = Callable[[str, int], float]
"""What a guess scores as the answer to the question of this number."""


def majority_floor(answers: Iterable[str]) -> float:
    """The share of the most common answer: what answering always the same reaches."""
    counts = Counter(normalise(answer) for answer in answers)
    if not counts:
        raise ValueError("The majority floor needs at least one answer, got none.")
    return max(counts.values()) / counts.total()


def question_only_floor(
    train: Iterable[tuple[str, str]],
    test: Sequence[tuple[str, str]],
    *,
    score: Score = exact_match,
) -> float:
    """The mean score of guessing from the question alone, without its picture.

    `train` and `test` are (question, answer) pairs. The guess is the answer most often given to
    that very question in `train`; to a question unknown there, the most common answer of all.
    """
    everywhere: Counter[str] = Counter()
    by_question: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for question, answer in train:
        everywhere[answer] += 1
        by_question[normalise(question)][answer] += 1
    if not everywhere or not test:
        raise ValueError("The question-only floor needs train and test pairs, one list is empty.")
    guesses = (by_question.get(normalise(question), everywhere) for question, _ in test)
    scores = [
        score(guess.most_common(1)[0][0], answer)
        for guess, (_, answer) in zip(guesses, test, strict=True)
    ]
    return sum(scores) / len(scores)


def always_the_same(references: Sequence[Sequence[str]], score: GuessScore) -> float:
    """The mean score of the answer that is the commonest reference of most questions."""
    counts = Counter(map(commonest, references))
    if not counts:
        raise ValueError("There is no reference to answer with.")
    guess = counts.most_common(1)[0][0]
    return sum(score(guess, place) for place in range(len(references))) / len(references)


def blind_guess(
    questions: Sequence[str], references: Sequence[Sequence[str]], score: GuessScore
) -> float:
    """The mean score of guessing from the question alone, each question left out in its turn.

    The guess is what is most often right for the same question elsewhere in the data; where it is
    asked but once, what is most often right for all others.
    """
    asked, right = list(map(normalise, questions)), list(map(commonest, references))
    everywhere, by_question = Counter(right), defaultdict[str, Counter[str]](Counter)
    for question, answer in zip(asked, right, strict=True):
        by_question[question][answer] += 1
    if not everywhere:
        raise ValueError("There is no reference to answer with.")
    scores = []
    for place, (question, own) in enumerate(zip(asked, right, strict=True)):
        counts = by_question[question] if by_question[question].total() > 1 else everywhere
        counts[own] -= 1
        scores.append(score(counts.most_common(1)[0][0], place) if counts.total() else 0.0)
        counts[own] += 1
    return sum(scores) / len(scores)


def others(values: Sequence[Value]) -> list[Value | None]:
    """For each value the next one that differs from it, past the end the first; None without one:
    what was made of the one, held against the other, is right by chance alone."""
    twice = [*values, *values]
    return [
        next((other for other in twice[place + 1 : place + len(values)] if other != own), None)
        for place, own in enumerate(values)
    ]


def commonest(answers: Sequence[str]) -> str:
    """What most annotators say; the first of equals."""
    return Counter(answers).most_common(1)[0][0]

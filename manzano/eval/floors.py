"""What trivial answers reach: a model that stays at a floor has not looked at the picture.

Floors from answers to other questions: the most common answer of all, or the one most often given
to the same question.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence

from manzano.eval.metrics import exact_match, normalise

Score = Callable[[str, str], float]


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

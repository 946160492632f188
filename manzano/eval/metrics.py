"""Measures of answers and pictures, and the floors that give them meaning.

The text measures are the field's own: relaxed accuracy (ChartQA), ANLS (DocVQA) and VQA accuracy
(TextVQA), with the corner cases of the evaluation harness, so that a figure taken during training
can be compared with one taken by it. Every measure scores one answer; average over the questions.

A floor is what the trivial answer reaches: the most common one, or the best guess from the question
without its picture. A model that stays at its floor has not looked at the picture.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

Score = Callable[[str, str], float]

_NUMBER_WORDS = "zero one two three four five six seven eight nine ten".split()
_DIGITS = {word: str(value) for value, word in enumerate(_NUMBER_WORDS)} | {"none": "0"}
_ARTICLES = {"a", "an", "the"}
_CONTRACTIONS = {
    word.replace("'", ""): word
    for word in (
        "ain't aren't can't couldn't didn't doesn't don't hadn't hasn't haven't isn't mightn't "
        "mustn't needn't oughtn't shan't shouldn't wasn't weren't won't wouldn't could've might've "
        "must've not've should've would've he'd he's how'd how'll how's it'd it'll ma'am "
        "o'clock somebody'll somebody's someone'd someone'll someone's something'd something'll "
        "that's there'd there're there's they'd they'll they're they've 'twas we've what'll "
        "what're what's what've when's where'd where's where've who'd who'll who's who've why'll "
        "why're why's y'all you'd you'll you're you've"
    ).split()
}
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'


def normalise(text: str) -> str:
    """Lower case, single spaces, no full stop at the end."""
    return " ".join(text.lower().split()).removesuffix(".").rstrip()


def exact_match(prediction: str, target: str) -> float:
    """1 if both are equal after `normalise`, else 0."""
    return float(normalise(prediction) == normalise(target))


def relaxed_accuracy(prediction: str, target: str, *, tolerance: float = 0.05) -> float:
    """1 if a number lies within `tolerance` of a non-zero target, else equality without case.

    A trailing per cent sign divides by 100; thousands separators are not understood.
    """
    predicted, wanted = _number(prediction), _number(target)
    if predicted is not None and wanted:
        return float(abs(predicted - wanted) / abs(wanted) <= tolerance)
    return float(prediction.lower() == target.lower())


def _number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


def anls(prediction: str, references: Sequence[str], *, threshold: float = 0.5) -> float:
    """Normalised Levenshtein similarity with the nearest reference; 0 below `threshold`.

    The distance is taken without case and repeated spaces, the length from the raw strings.
    """
    if not references:
        raise ValueError("ANLS needs at least one reference answer, got none.")
    similarity = max(1 - _distance_share(prediction, reference) for reference in references)
    return similarity if similarity >= threshold else 0.0


def _distance_share(a: str, b: str) -> float:
    longest = max(len(a), len(b))
    distance = levenshtein(" ".join(a.lower().split()), " ".join(b.lower().split()))
    return distance / longest if longest else 0.0


def levenshtein(a: str, b: str) -> int:
    """The fewest insertions, deletions and substitutions that turn `a` into `b`."""
    row = list(range(len(b) + 1))
    for i, left in enumerate(a, start=1):
        diagonal, row[0] = row[0], i
        for j, right in enumerate(b, start=1):
            substituted = diagonal + (left != right)
            diagonal, row[j] = row[j], min(substituted, row[j] + 1, row[j - 1] + 1)
    return row[-1]


def vqa_accuracy(prediction: str, references: Sequence[str]) -> float:
    """The mean, over each annotator left out, of min(1, agreeing others / 3).

    Both sides pass `normalise_vqa` first. There are ten references in the published data sets.
    """
    if len(references) < 2:
        raise ValueError(
            f"VQA accuracy leaves one annotator out at a time: it needs at least 2 reference "
            f"answers, got {len(references)}. With one, use exact_match."
        )
    predicted = normalise_vqa(prediction)
    agrees = [normalise_vqa(reference) == predicted for reference in references]
    return sum(min(1.0, (sum(agrees) - own) / 3) for own in agrees) / len(agrees)


def normalise_vqa(text: str) -> str:
    """The VQA challenge's rules: no articles or punctuation, number words as digits.

    Contractions get their apostrophe back ("dont" becomes "don't"); double ones stay as they are.
    """
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's")
    text = original = text.replace("\n", " ").replace("\t", " ").strip()
    for mark in _PUNCTUATION:
        beside_space = f"{mark} " in original or f" {mark}" in original
        text = text.replace(mark, "" if beside_space else " ")
    text = re.sub(r"\.(?!\d)", "", text)
    words = (_DIGITS.get(word, word) for word in text.split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def pixels(pictures: Sequence[Image.Image]) -> Tensor:
    """Pictures of one size as (B, 3, H, W) in [0, 1], float32."""
    sizes = {picture.size for picture in pictures}
    if len(sizes) != 1:
        raise ValueError(
            f"The pictures must have one size, got {sorted(sizes)}: resize them first."
        )
    array = np.stack([np.asarray(picture.convert("RGB")) for picture in pictures])
    return rearrange(torch.from_numpy(array), "b h w c -> b c h w").float() / 255


def psnr(pictures: Tensor, targets: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each picture, in dB; infinite for equal ones.

    Both (B, C, H, W), floating point, values in [0, 1]. Returns (B,) in float32.
    """
    if pictures.shape != targets.shape:
        raise ValueError(
            f"psnr compares pictures of one shape, got {tuple(pictures.shape)} and "
            f"{tuple(targets.shape)}: resize one of them first."
        )
    error = (pictures.float() - targets.float()).square().mean(dim=(1, 2, 3))  # (B,)
    return -10 * torch.log10(error)


def psnr_floor(targets: Tensor) -> Tensor:
    """The PSNR that filling each picture with its own mean colour reaches: (B, C, H, W) -> (B,)."""
    return psnr(targets.mean(dim=(2, 3), keepdim=True).expand_as(targets), targets)


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

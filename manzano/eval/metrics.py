"""Measures of answers in words: one function a benchmark family, all of it in this file.

    ChartQA            relaxed accuracy   numbers within 5 %, else the same letters
    DocVQA, InfoVQA    ANLS               share of letters that are right, from one half on
    TextVQA            VQA accuracy       how many of ten people say the same
    OCRBench           containment        a reference occurs in the answer

Each scores one answer in [0, 1]; average over the questions. They give to the bit what lmms-eval
0.7 gives, its slips included, so that a figure taken in training can be compared with one taken by
it; the tests compare the two on thousands of generated answers.
"""

import re
from collections.abc import Sequence
from statistics import mean

_NUMBER_WORDS = "zero one two three four five six seven eight nine ten".split()
_DIGITS = {word: str(value) for value, word in enumerate(_NUMBER_WORDS)} | {"none": "0"}
_ARTICLES = {"a", "an", "the"}
_CONTRACTED = (
    "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't "
    "haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't "
    "mightn't've must've mustn't needn't not've o'clock oughtn't 'ow's'at shan't she'd've "
    "should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've "
    "someone'll someone's something'd something'd've something'll that's there'd there'd've "
    "there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't "
    "what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's "
    "who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'd've y'all'll "
    "you'd you'd've you'll you're you've"
).split()
_CONTRACTIONS = {
    word[:place] + word[place + 1 :]: word
    for word in _CONTRACTED
    for place, letter in enumerate(word)
    if letter == "'"
} | {"somebody'd": "somebodyd"}
"""Words in which one apostrophe is missing, with the apostrophe; one goes the other way."""
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_FULL_WIDTH = {0xFF01 + i: 0x21 + i for i in range(94)} | {0x3000: 0x20}
"""Letters, digits and marks as wide as a Chinese character, and the space: the ordinary ones."""


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

    The distance is taken without case and repeated spaces, the length from the raw strings in
    capitals (of which "ß" has two).
    """
    if not references:
        raise ValueError("ANLS needs at least one reference answer, got none.")
    similarity = max(1 - _distance_share(prediction, reference) for reference in references)
    return similarity if similarity >= threshold else 0.0


def _distance_share(a: str, b: str) -> float:
    longest = max(len(a.upper()), len(b.upper()))
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
    return mean(min(1.0, (sum(agrees) - own) / 3) for own in agrees)


def normalise_vqa(text: str) -> str:
    """The VQA challenge's rules: no articles or punctuation, number words as digits.

    Contractions get a missing apostrophe back ("dont" becomes "don't"). Of the full stops that are
    no decimal points, 32 go: upstream hands a flag to `re.sub` where the count belongs.
    """
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's")
    text = original = text.replace("\n", " ").replace("\t", " ").strip()
    for mark in _PUNCTUATION:
        beside_space = f"{mark} " in original or f" {mark}" in original
        text = text.replace(mark, "" if beside_space else " ")
    text = re.sub(r"\.(?!\d)", "", text, count=32)
    words = (_DIGITS.get(word, word) for word in text.split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def ocrbench(prediction: str, references: Sequence[str], *, spaces: bool = True) -> float:
    """1 if a reference occurs in the prediction, else 0.

    Without case, line breaks as spaces, wide (Chinese) forms of ASCII as ASCII. Formulas of the
    HME100k set are compared with `spaces` False: no spaces at all, and case counts.
    """
    fold = _folded if spaces else _formula
    said = fold(prediction.strip())
    return float(any(fold(reference) in said for reference in references))


def _folded(text: str) -> str:
    return text.translate(_FULL_WIDTH).lower().strip().replace("\n", " ")


def _formula(text: str) -> str:
    return text.strip().replace("\n", " ").replace(" ", "")

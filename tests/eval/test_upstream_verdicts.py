"""The text measures agree with lmms-eval 0.7.3, whose verdicts lie in a file.

`python -m tests.eval.upstream_cases` writes it; tests/harness compares with lmms-eval itself, on
thousands of cases more.
"""

import json
from collections import Counter
from functools import partial

import pytest

from manzano.eval.metrics import anls, ocrbench, relaxed_accuracy, vqa_accuracy
from tests.eval.upstream_cases import FAMILIES, VERDICTS, Case

OURS = {
    "relaxed": lambda prediction, references: relaxed_accuracy(prediction, references[0]),
    "anls": anls,
    "vqa": vqa_accuracy,
    "ocrbench": ocrbench,
    "ocrbench_formula": partial(ocrbench, spaces=False),
}
JUDGED = [(Case(*case), score) for *case, score in json.loads(VERDICTS.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_verdict_is_upstreams(family):
    judged = [(case, score) for case, score in JUDGED if case.family == family]
    scores = Counter(score for _, score in judged)
    assert scores[0] > 20 and scores[1] > 20  # both happen often: neither is a test of nothing
    ours = {case[1:]: OURS[family](*case[1:]) for case, _ in map(hashable, judged)}
    assert ours == {case[1:]: score for case, score in map(hashable, judged)}


def hashable(judged):
    case, score = judged
    return Case(case.family, case.prediction, tuple(case.references)), score

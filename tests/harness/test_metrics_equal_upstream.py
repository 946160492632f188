"""The text measures against lmms-eval's own functions, on thousands of generated answers each."""

from collections import Counter

import pytest

from tests.eval.test_upstream_verdicts import JUDGED, OURS
from tests.eval.upstream_cases import FAMILIES, cases, upstream


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_upstreams(family):
    scores = Counter()
    for case in cases(family, 5000, seed=2):
        score = upstream(case)
        assert OURS[family](case.prediction, case.references) == score, case
        scores[score] += 1
    assert scores[0] > 500 and scores[1] > 500


def test_the_stored_verdicts_are_those_of_this_version():
    assert all(upstream(case) == score for case, score in JUDGED)

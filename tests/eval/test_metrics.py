"""Each measure on the corner cases that define it."""

import pytest

from manzano.eval.metrics import (
    anls,
    exact_match,
    levenshtein,
    normalise_vqa,
    relaxed_accuracy,
    vqa_accuracy,
)


@pytest.mark.parametrize(
    ("prediction", "target", "score"),
    [("Circle.", "circle", 1), ("  two  words ", "Two words", 1), ("red", "blue", 0), ("", "a", 0)],
)
def test_exact_match_ignores_case_spaces_and_a_final_stop(prediction, target, score):
    assert exact_match(prediction, target) == score


@pytest.mark.parametrize(
    ("prediction", "target", "score"),
    [
        ("10.4", "10", 1),
        ("10.5", "10", 1),
        ("10.6", "10", 0),
        ("10%", "0.1", 1),
        ("10%", "10", 0),
        ("0", "0", 1),
        ("0.0", "0", 0),
        ("1,000", "1000", 0),
        (" 10 ", "10", 1),
        ("YES", "yes", 1),
        ("Yes.", "Yes", 0),
        (" Yes", "Yes", 0),
        ("-9.6", "-10", 1),
        ("nan", "10", 0),
    ],
)
def test_relaxed_accuracy_follows_the_harness(prediction, target, score):
    assert relaxed_accuracy(prediction, target) == score


@pytest.mark.parametrize(
    ("a", "b", "distance"),
    [("", "", 0), ("", "abc", 3), ("kitten", "sitting", 3), ("flaw", "lawn", 2), ("ab", "ba", 2)],
)
def test_levenshtein_counts_edits_both_ways(a, b, distance):
    assert levenshtein(a, b) == levenshtein(b, a) == distance


@pytest.mark.parametrize(
    ("prediction", "references", "score"),
    [
        ("42", ["421"], 2 / 3),
        ("Hello  World", ["hello world"], 1.0),
        ("abcd", ["abxy"], 0.5),
        ("abcd", ["axyz"], 0.0),
        ("a b", ["something else", "a b"], 1.0),
        ("", [""], 1.0),
        ("ab  ", ["ac"], 0.75),
    ],
)
def test_anls_takes_the_nearest_reference_and_cuts_at_one_half(prediction, references, score):
    assert anls(prediction, references) == pytest.approx(score)


def test_anls_without_references_is_refused():
    with pytest.raises(ValueError, match="at least one reference"):
        anls("a", [])


@pytest.mark.parametrize(
    ("text", "normalised"),
    [
        ("The two dogs.", "2 dogs"),
        ("10,000", "10000"),
        ("3.5", "3.5"),
        ("dont know", "don't know"),
        ("Coca-Cola", "coca cola"),
        ("stop !", "stop"),
        ("none", "0"),
        ("Bob's\nbar", "bob 's bar"),
        ("A (red) car", "red car"),
        ("yes/no", "yes no"),
    ],
)
def test_vqa_normalisation_follows_the_challenge(text, normalised):
    assert normalise_vqa(text) == normalised


@pytest.mark.parametrize(("agreeing", "score"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1)])
def test_vqa_accuracy_averages_over_the_annotators_left_out(agreeing, score):
    references = ["2 dogs"] * agreeing + ["cat"] * (10 - agreeing)
    assert vqa_accuracy("The two dogs.", references) == pytest.approx(score)


def test_vqa_accuracy_of_a_single_reference_is_refused():
    with pytest.raises(ValueError, match="exact_match"):
        vqa_accuracy("a", ["a"])

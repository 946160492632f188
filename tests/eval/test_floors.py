"""Each floor on a case that can be counted."""

from manzano.eval.floors import majority_floor, question_only_floor
from manzano.eval.metrics import relaxed_accuracy


def test_majority_floor_is_the_share_of_the_commonest_answer():
    assert majority_floor(["yes", "Yes.", "no", "red"]) == 0.5


TRAIN = [("Is it red?", "yes"), ("Is it red?", "yes"), ("Is it red?", "no"), ("Shape?", "disc")]


def test_question_only_floor_guesses_what_train_answers_to_the_question():
    test = [("is it red?", "yes"), ("Is it red?", "no"), ("Shape?", "disc"), ("Shape?", "bar")]
    assert question_only_floor(TRAIN, test) == 0.5


def test_question_only_floor_falls_back_to_the_commonest_answer():
    assert question_only_floor(TRAIN, [("Never asked?", "yes"), ("Nor this?", "disc")]) == 0.5


def test_question_only_floor_takes_another_score():
    pairs = [("How many?", "100")]
    assert question_only_floor(pairs, [("How many?", "104")]) == 0
    assert question_only_floor(pairs, [("How many?", "104")], score=relaxed_accuracy) == 1

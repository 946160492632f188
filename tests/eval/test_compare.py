"""What `manzano eval compare` calls a difference is one; what it cannot tell it does not say."""

from dataclasses import replace

import numpy as np
import pytest

from manzano.cli import main
from manzano.eval.results.compare import Comparison, Difference, compare, sign_flip_test
from manzano.eval.scores import Score, ScoreFile, TaskScores, mean_score, write_scores

TRUTH = 0.1
"""By which the second of two simulated models is better."""


def file_of(**scores: Score) -> ScoreFile:
    task = TaskScores(
        scores=scores, n=max(score.n for score in scores.values()), data={"sha256": "ab"},
        settings={"prompt": "{question}", "decoding": {"temperature": 0.0}},
    )  # fmt: skip
    return ScoreFile(
        suite="text-rich", model={"name": "m", "sha256": "cd", "config": {"layers": 2}},
        environment={"versions": {"torch": "2"}, "commit": "ef"}, seed=0, tasks={"words": task},
        started="2026-01-01T00:00:00+00:00", wall_seconds=1.0,
    )  # fmt: skip


def changed(file: ScoreFile, **parts) -> ScoreFile:
    return replace(file, tasks={"words": replace(file.tasks["words"], **parts)})


def simulated(seed: int, n: int = 120) -> tuple[dict[str, float], dict[str, float]]:
    """Scores of two models on the same samples: what is hard is so for both."""
    random = np.random.default_rng(seed)
    ease = random.normal(0.5, 0.3, n)
    one, other = ease + random.normal(0, 0.1, n), ease + TRUTH + random.normal(0, 0.1, n)
    return ({str(i): float(x) for i, x in enumerate(values)} for values in (one, other))


def only(comparison: Comparison) -> Difference:
    (found,) = comparison.differences
    return found


def compared(one: dict, other: dict, **settings) -> Difference:
    files = (file_of(score=mean_score(values, **settings)) for values in (one, other))
    return only(compare(*files))


def without_samples(score: Score) -> Score:
    return replace(score, per_sample={}, groups={})


def bare(values: dict[str, float]) -> Score:
    """Without the interval of its own, which pairs do not need."""
    return Score(value=float(np.mean(list(values.values()))), n=len(values), per_sample=values)


def test_the_interval_of_pairs_covers_the_true_difference_as_often_as_it_says():
    """190 of 200 expected, with a standard deviation of 3."""
    covered = 0
    for seed in range(200):
        a, b = map(bare, simulated(seed))
        found = only(compare(file_of(score=a), file_of(score=b)))
        assert found.paired
        covered += found.low <= TRUTH <= found.high
    assert 180 <= covered <= 198


def test_without_pairs_it_does_so_where_the_samples_share_nothing():
    random, covered = np.random.default_rng(0), 0
    for _ in range(100):
        right = [random.random(200) < share for share in (0.3, 0.3 + TRUTH)]
        a, b = (mean_score({str(i): float(x) for i, x in enumerate(part)}) for part in right)
        files = file_of(score=without_samples(a)), file_of(score=without_samples(b))
        found = only(compare(*files))
        covered += found.low <= TRUTH <= found.high
    assert 90 <= covered <= 99


@pytest.mark.parametrize("seed", range(5))
def test_pairs_halve_the_interval_where_both_models_share_what_is_hard(seed):
    a, b = map(mean_score, simulated(seed))
    pairs = only(compare(file_of(score=a), file_of(score=b)))
    apart = only(compare(file_of(score=without_samples(a)), file_of(score=without_samples(b))))
    assert pairs.paired and not apart.paired
    assert 2 * (pairs.high - pairs.low) < apart.high - apart.low


def test_models_that_are_equally_good_seldom_differ_beyond_noise():
    """10 of 200 at most are expected by chance, however few the samples."""
    called = 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        a, b = ({str(i): float(x) for i, x in enumerate(random.random(9) < 0.5)} for _ in "ab")
        called += only(compare(file_of(s=bare(a)), file_of(s=bare(b)))).verdict != "within noise"
    assert called <= 16


def test_a_file_differs_from_itself_in_nothing():
    a, _ = simulated(0)
    file = file_of(score=mean_score(a))
    comparison = compare(file, file)
    found = only(comparison)
    assert (comparison.unlike, comparison.told) == ((), ())
    assert (found.a, found.low, found.high, found.p) == (found.b, 0, 0, 1)
    assert found.verdict == "within noise" and found.n == 120


@pytest.mark.parametrize("samples", [True, False])
def test_the_other_way_round_is_the_same_difference_with_the_other_sign(samples):
    scores = [mean_score(values) for values in simulated(1)]
    a, b = (file_of(score=score if samples else without_samples(score)) for score in scores)
    there, back = only(compare(a, b)), only(compare(b, a))
    assert (there.a, there.b) == (back.b, back.a)
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))
    assert there.p == pytest.approx(back.p)
    assert (there.verdict, back.verdict) == ("better", "worse")


def test_lower_may_be_better():
    a, b = simulated(0)
    assert compared(a, b, lower_is_better=True).verdict == "worse"
    assert compared(b, a, lower_is_better=True).verdict == "better"


def test_groups_weigh_alike_in_a_paired_difference():
    """Group x, one sample, gains 1; group y, three samples, nothing: a half, not a quarter."""
    groups = {"0": "x", "1": "y", "2": "y", "3": "y"}
    found = compared({k: 0.0 for k in groups}, {"0": 1.0, "1": 0, "2": 0, "3": 0}, groups=groups)
    assert found.b - found.a == 0.5 and found.paired


def test_the_sign_test_is_that_of_fisher():
    """Of 2^5 choices of signs two are as far out as five gains; ties do not count."""
    assert sign_flip_test(np.asarray([0.2] * 5 + [0.0] * 50)) == pytest.approx(2 / 32, abs=0.01)
    assert sign_flip_test(np.zeros(3)) == 1.0


def test_five_gains_in_four_hundred_samples_are_within_noise():
    a = {str(i): 0.0 for i in range(400)}
    b = a | {str(i): 1.0 for i in range(5)}
    assert compared(a, b).verdict == "within noise"
    assert compared(a, a | {str(i): 1.0 for i in range(9)}).verdict == "better"


def test_gains_on_one_page_are_one_gain():
    a = {str(i): 0.0 for i in range(400)}
    b = a | {str(i): 1.0 for i in range(9)}
    found = compared(a, b, clusters={str(i): "page" for i in range(9)})
    assert found.verdict == "within noise" and found.low == 0.0


def test_files_that_do_not_tell_their_data_are_not_paired():
    file = file_of(score=mean_score(next(iter(simulated(0)))))
    assert not only(compare(*[changed(file, data={})] * 2)).paired


def test_one_sample_tells_nothing():
    found = compared({"0": 0.0}, {"0": 1.0})
    assert (found.low, found.p, found.verdict) == (None, None, "too few samples")


def test_few_samples_that_cannot_be_paired_tell_nothing():
    a, b = (mean_score({str(i): x for i in range(19)}) for x in (0.0, 1.0))
    found = only(compare(file_of(s=without_samples(a)), file_of(s=without_samples(b))))
    assert (found.low, found.high, found.verdict) == (1.0, 1.0, "too few samples")


def test_a_measure_without_an_interval_has_no_verdict():
    a, b = (file_of(fid=Score(value=x, n=100, lower_is_better=True)) for x in (20.0, 10.0))
    found = only(compare(a, b))
    assert (found.a, found.b, found.p, found.verdict) == (20.0, 10.0, None, "no interval")


def test_unpaired_equal_values_and_sure_ones():
    a, b = (without_samples(mean_score({str(i): x for i in range(50)})) for x in (0.0, 1.0))
    assert only(compare(file_of(s=a), file_of(s=a))).verdict == "within noise"
    assert only(compare(file_of(s=a), file_of(s=b))).verdict == "better"


def test_samples_of_a_part_are_paired_with_those_of_the_whole():
    a, b = simulated(0)
    part = {key: b[key] for key in list(b)[:40]}
    files = file_of(score=mean_score(a)), file_of(score=mean_score(part))
    with pytest.raises(ValueError, match=r"words\.n: A 120, B 40"):
        compare(*files)
    found = only(compare(*files, unlike=True))
    assert found.paired and found.n == 40
    assert found.a == pytest.approx(np.mean([a[key] for key in part]))


def test_other_data_are_never_paired():
    a, b = (file_of(score=mean_score(values)) for values in simulated(0))
    b = changed(b, data={"sha256": "other"})
    with pytest.raises(ValueError, match=r'words\.data\.sha256: A "ab", B "other"'):
        compare(a, b)
    found = only(compare(a, b, unlike=True))
    assert not found.paired and found.n == 120


def test_what_is_unlike_is_refused_by_name_and_what_may_differ_is_told():
    a = file_of(score=mean_score(next(iter([*simulated(0)]))))
    settings = {"prompt": "{question}?", "decoding": {"temperature": 0.0, "top_k": 5}}
    b = replace(
        changed(a, settings=settings, failed={"7": "no picture"}), seed=1, way="server",
        model={"name": "m", "sha256": "12", "config": {"layers": 3}},
        environment={"versions": {"torch": "3"}, "commit": "ef"},
    )  # fmt: skip
    with pytest.raises(ValueError, match="--unlike") as refused:
        compare(a, b)
    assert 'words.settings.prompt: A "{question}", B "{question}?"' in str(refused.value)
    assert "words.settings.decoding.top_k: A -, B 5" in str(refused.value)
    comparison = compare(a, b, unlike=True)
    assert [change.what for change in comparison.unlike] == [
        "words.settings.decoding.top_k", "words.settings.prompt",
    ]  # fmt: skip
    assert {change.what: (change.a, change.b) for change in comparison.told} == {
        "model.config.layers": (2, 3), "model.sha256": ("cd", "12"), "seed": (0, 1),
        "way": ("light", "server"), "words.failed": (0, 1),
        "environment.versions.torch": ("2", "3"),
    }  # fmt: skip


def test_other_suites_are_unlike_and_other_tasks_cannot_be_compared():
    a = file_of(score=mean_score({"0": 1.0, "1": 0.0}))
    with pytest.raises(ValueError, match='suite: A "text-rich", B "dpg"'):
        compare(a, replace(a, suite="dpg"))
    b = replace(a, tasks={"charts": a.tasks["words"]})
    for other in (b, file_of(anls=mean_score({"0": 1.0, "1": 0.0}))):
        with pytest.raises(ValueError, match="nothing to compare"):
            compare(a, other, unlike=True)


def test_p_values_are_adjusted_for_their_number():
    """Holm: the smallest times their number, each at least as large as those before it."""
    one = {str(i): 0.0 for i in range(30)}
    gains = {
        "a": one | {str(i): 1.0 for i in range(7)},
        "b": one | {str(i): 1.0 for i in range(8)},
        "c": one,
    }
    files = (
        file_of(**{k: mean_score(v) for k, v in part.items()})
        for part in ({"a": one, "b": one, "c": one}, gains)
    )
    alone = {name: compared(one, values).p for name, values in gains.items()}
    together = {entry.measure: entry for entry in compare(*files).differences}
    assert together["b"].p == pytest.approx(3 * alone["b"])
    assert together["a"].p == pytest.approx(2 * alone["a"])
    assert together["c"].p == 1.0


def test_the_command_prints_the_verdict_and_refuses_the_unlike(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    paths = []
    for name, values in zip("ab", simulated(0), strict=True):
        paths.append(str(tmp_path / name))
        write_scores(file_of(score=mean_score(values)), tmp_path / name)
    assert main(["eval", "compare", *paths]) == 0
    printed = capsys.readouterr().out
    assert "words" in printed and "better" in printed and "1 comparisons" in printed
    assert "What differs" not in printed and "*" not in printed
    other = changed(file_of(score=mean_score({"0": 1.0})), settings={"prompt": "[bold]{x}"})
    write_scores(other, tmp_path / "c")
    assert main(["eval", "compare", paths[0], str(tmp_path / "c")]) == 2
    assert "manzano eval compare: error: A and B were not made alike" in capsys.readouterr().err
    assert main(["eval", "compare", paths[0], str(tmp_path / "c"), "--unlike"]) == 0
    assert "[bold]{x}" in capsys.readouterr().out

"""Two score files side by side: what differs between them, and which differences are beyond noise.

Where both hold the scores of the same samples, the difference is taken sample by sample: easy and
hard samples are so for both models, and what they share cancels out. Its interval is a bootstrap
over the pairs, its test turns the sign of each pair's difference at random (exact for any number
of samples, Fisher 1935). Samples of one cluster, such as questions about one page, go together.
Where samples cannot be paired, the intervals in the files are combined (the method of variance
estimates recovery, Zou and Donner 2008).

Noise is that of which samples a benchmark happens to have. Another training run of the same model
differs as well, and this says nothing of that: train several.
"""

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from manzano.eval.scores import Score, ScoreFile, TaskScores, grouped, resampled_means

LEVEL = 0.05
"""Chance of calling any difference real where there is none, over all comparisons of two files."""
FLIPS = 10_000
"""Random choices of signs in a test: the smallest p is one in as many."""
FEWEST = 20
"""Samples below which an interval by bootstrap is too narrow to be combined with another."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """What is not the same in two files; None where one of them does not say."""

    what: str
    """Its place, such as "chartqa.settings.prompt"."""
    a: Any
    b: Any

    def __str__(self) -> str:
        return f"{self.what}: A {shown(self.a)}, B {shown(self.b)}"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """B minus A in one measure of one task."""

    task: str
    measure: str
    a: float
    """Over the pairs where there are such, else as in the file."""
    b: float
    n: int
    """Pairs; where there are none, the samples of the file that has fewer."""
    paired: bool
    low: float | None
    """95 % interval of b - a; None where nothing tells the noise."""
    high: float | None
    p: float | None
    """Chance of such a difference if there is none, by `compare` adjusted for their number."""
    verdict: str
    """better or worse (B than A), within noise, too few samples, no interval."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    unlike: tuple[Change, ...]
    """For which the figures cannot be compared strictly: data and settings."""
    told: tuple[Change, ...]
    """All else: models, seeds, ways, versions, commits, machines, failures."""
    differences: tuple[Difference, ...]


def compare(a: ScoreFile, b: ScoreFile, *, unlike: bool = False) -> Comparison:
    """What differs between two evaluations, measure by measure.

    p-values are adjusted by Holm's method (1979) for the number of measures compared.

    Args:
        unlike: compares what was made from other data or with other settings all the same.

    Raises:
        ValueError: if no measure is in both, or data or settings differ and `unlike` is not given.
    """
    tasks = [name for name in a.tasks if name in b.tasks]
    measures = [(t, m) for t in tasks for m in a.tasks[t].scores if m in b.tasks[t].scores]
    if not measures:
        raise ValueError(
            f"there is nothing to compare: A has {', '.join(names(a)) or 'no scores'} ({a.suite}), "
            f"B has {', '.join(names(b)) or 'no scores'} ({b.suite})"
        )
    changes = tuple(unlike_changes(a, b, tasks))
    if changes and not unlike:
        listed = "".join(f"\n  {change}" for change in changes)
        raise ValueError(
            f"A and B were not made alike:{listed}\n"
            "make one of them again as the other was, or give --unlike to compare all the same"
        )
    found = [difference(t, m, a.tasks[t], b.tasks[t]) for t, m in measures]
    return Comparison(
        unlike=changes, told=tuple(told_changes(a, b, tasks)), differences=tuple(judged(found, a))
    )


def names(file: ScoreFile) -> list[str]:
    """task/measure of all its measures."""
    return [f"{task}/{name}" for task, scores in file.tasks.items() for name in scores.scores]


def unlike_changes(a: ScoreFile, b: ScoreFile, tasks: Sequence[str]) -> Iterator[Change]:
    yield from changes("suite", a.suite, b.suite)
    for name in tasks:
        one, other = a.tasks[name], b.tasks[name]
        yield from changes(f"{name}.data", one.data, other.data)
        yield from changes(f"{name}.n", one.n, other.n)
        yield from changes(f"{name}.settings", one.settings, other.settings)


def told_changes(a: ScoreFile, b: ScoreFile, tasks: Sequence[str]) -> Iterator[Change]:
    yield from changes("model", a.model, b.model)
    yield from changes("seed", a.seed, b.seed)
    yield from changes("way", a.way, b.way)
    yield from changes("measures", sorted(names(a)), sorted(names(b)))
    for name in tasks:
        yield from changes(f"{name}.failed", len(a.tasks[name].failed), len(b.tasks[name].failed))
    yield from changes("environment", a.environment, b.environment)


def changes(what: str, a: Any, b: Any) -> Iterator[Change]:
    """What differs, by the names under which it lies."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in sorted(a.keys() | b.keys()):
            yield from changes(f"{what}.{key}", a.get(key), b.get(key))
    elif a != b:
        yield Change(what=what, a=a, b=b)


def shown(value: Any) -> str:
    """A value in at most 60 characters."""
    text = "-" if value is None else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def difference(task: str, measure: str, a: TaskScores, b: TaskScores) -> Difference:
    """B minus A with the p-value of this measure alone; `judged` gives the verdict."""
    one, other = a.scores[measure], b.scores[measure]
    data = a.data.get("sha256")
    same = data is not None and data == b.data.get("sha256") and one.groups == other.groups
    keys = sorted(one.per_sample.keys() & other.per_sample.keys()) if same else []
    found = Difference(
        task=task, measure=measure, a=one.value, b=other.value, n=min(one.n, other.n),
        paired=False, low=None, high=None, p=None, verdict="no interval",
    )  # fmt: skip
    if keys:
        return paired(found, one, other, keys)
    return unpaired(found, one, other)


def paired(found: Difference, a: Score, b: Score, keys: Sequence[str]) -> Difference:
    pairs = {key: b.per_sample[key] - a.per_sample[key] for key in keys}
    sizes = Counter(a.groups.get(key, "") for key in keys)
    # What a sample weighs in the mean of its groups' means; all alike where there are no groups.
    weights = np.asarray([1 / len(sizes) / sizes[a.groups.get(key, "")] for key in keys])
    found = replace(
        found,
        a=float(weights @ [a.per_sample[key] for key in keys]),
        b=float(weights @ [b.per_sample[key] for key in keys]),
        n=len(keys),
        paired=True,
    )
    effects: dict[str, float] = {}  # of each cluster, for what depends on each other flips together
    for key, weight in zip(keys, weights.tolist(), strict=True):
        cluster = a.clusters.get(key, f"sample {key}")
        effects[cluster] = effects.get(cluster, 0.0) + weight * pairs[key]
    if len(effects) == 1:
        return replace(found, verdict="too few samples")
    parts = grouped(pairs, a.groups, a.clusters)
    low, high = np.percentile(resampled_means(parts), [2.5, 97.5])
    p = sign_flip_test(np.asarray(list(effects.values())))
    return replace(found, low=float(low), high=float(high), p=p)


def sign_flip_test(effects: np.ndarray) -> float:
    """How often the sum of (n,) effects is as far from zero when each has a sign at random."""
    effects = effects[effects != 0]
    if not len(effects):
        return 1.0
    reached, block = 0, 100
    observed = abs(effects.sum()) * (1 - 1e-9)  # equal sums may differ by rounding
    random = np.random.default_rng(0)
    for _ in range(FLIPS // block):
        signs = random.integers(0, 2, size=(block, len(effects)), dtype=np.int8) * 2 - 1
        reached += int((abs(signs @ effects) >= observed).sum())
    return (1 + reached) / (1 + FLIPS)


def unpaired(found: Difference, a: Score, b: Score) -> Difference:
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return found
    gain = b.value - a.value
    below = math.hypot(b.value - b.low, a.high - a.value)
    above = math.hypot(b.high - b.value, a.value - a.low)
    found = replace(found, low=gain - below, high=gain + above)
    if found.n < FEWEST:
        return replace(found, verdict="too few samples")
    if gain == 0:
        return replace(found, p=1.0)
    to_zero = below if gain > 0 else above  # 1.96 standard errors
    errors = 1.96 * abs(gain) / to_zero if to_zero else math.inf
    return replace(found, p=math.erfc(errors / math.sqrt(2)))


def judged(found: Sequence[Difference], file: ScoreFile) -> Iterator[Difference]:
    """The differences with Holm's p-values and verdicts; the file tells which way is better."""
    ordered = sorted((d.p, index) for index, d in enumerate(found) if d.p is not None)
    adjusted, largest = {}, 0.0
    for rank, (p, index) in enumerate(ordered):
        largest = max(largest, min(1.0, p * (len(ordered) - rank)))
        adjusted[index] = largest
    for index, entry in enumerate(found):
        if index not in adjusted:
            yield entry
            continue
        lower_is_better = file.tasks[entry.task].scores[entry.measure].lower_is_better
        verdict = "within noise"
        if adjusted[index] < LEVEL:
            verdict = "worse" if (entry.b > entry.a) == lower_is_better else "better"
        yield replace(entry, p=adjusted[index], verdict=verdict)

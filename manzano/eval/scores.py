"""Score files: every figure of one evaluation, with all that is needed to make it again.

    {
      "format": 1, "suite": "text-rich", "way": "light", "seed": 0,
      "model": {"name", "sha256", "config"},
      "environment": {"python", "versions", "commit", "hardware"},
      "started": "2026-01-31T12:00:00+00:00", "wall_seconds": 812.4,
      "tasks": {"chartqa": {
        "n": 2500, "data": {"sha256", ...}, "settings": {"prompt", "decoding", ...},
        "failed": {"17": "why this sample has no answer; it counts as wrong"},
        "scores": {"relaxed_overall": {
          "value": 0.71, "low": 0.69, "high": 0.73, "n": 2500, "floors": {"majority": 0.04, ...},
          "lower_is_better": false, "per_sample": {"0": 1.0, ...}, "groups": {}, "clusters": {}
        }}
      }}
    }

Settings are what two files must share to be compared: prompts, decoding, tiles, seeds. `low` and
`high` are a 95 % interval by bootstrap over the samples, or over clusters of samples that depend on
each other, such as the questions about one page: it holds the noise of which samples the benchmark
happens to have, not that of another training run.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from manzano.eval.record import write_atomically

FORMAT = 1
RESAMPLES = 1000
"""Of a bootstrap."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """One measure of one task: the mean over its samples, or of its groups' means."""

    value: float
    n: int
    low: float | None = None
    """95 % interval; None for a measure that is no mean over samples, such as FID."""
    high: float | None = None
    floors: Mapping[str, float] = field(default_factory=dict)
    """What trivial answers reach, by name: majority, question_only, shuffled_images, copy_input."""
    ceilings: Mapping[str, float] = field(default_factory=dict)
    """What cannot be passed, by name: the VAE's round trip, true ids."""
    lower_is_better: bool = False
    per_sample: Mapping[str, float] = field(default_factory=dict)
    """Key of the sample -> its own score."""
    groups: Mapping[str, str] = field(default_factory=dict)
    """Key of the sample -> its group, where the value is the mean of the groups' means."""
    clusters: Mapping[str, str] = field(default_factory=dict)
    """Key of the sample -> its cluster; one that is not there stands alone."""


@dataclass(frozen=True, kw_only=True)
class TaskScores:
    """The measures of one task, the first being the one that is quoted."""

    scores: Mapping[str, Score]
    n: int
    data: Mapping[str, Any]
    """"sha256" of the data, and whatever says which part of them was used."""
    settings: Mapping[str, Any]
    """What must be alike for two of these to be compared."""
    failed: Mapping[str, str] = field(default_factory=dict)
    """Samples without an answer and why; they count as wrong."""


@dataclass(frozen=True, kw_only=True)
class ScoreFile:
    """One evaluation of one model; `write_scores` and `read_scores` are each other's inverse."""

    suite: str
    model: Mapping[str, Any]
    """See `manzano.eval.provenance.model_record`."""
    environment: Mapping[str, Any]
    """See `manzano.eval.provenance.environment`."""
    seed: int
    tasks: Mapping[str, TaskScores]
    started: str
    """ISO 8601, UTC."""
    wall_seconds: float
    """Spent on samples, over all runs of an evaluation that was interrupted."""
    way: str = "light"
    """light, lmms-eval or server."""


def mean_score(
    values: Mapping[str, float],
    *,
    groups: Mapping[str, str] | None = None,
    clusters: Mapping[str, str] | None = None,
    floors: Mapping[str, float] | None = None,
    ceilings: Mapping[str, float] | None = None,
    lower_is_better: bool = False,
) -> Score:
    """The mean of the samples' values, or of the means of their groups, with its interval.

    Raises:
        ValueError: if there are no values, one is not finite, or a sample has no group.
    """
    if not values:
        raise ValueError("there is nothing to average: no sample has a value")
    if bad := [key for key, value in values.items() if not math.isfinite(value)]:
        raise ValueError(f"the values of samples {bad[:5]} are not finite")
    if groups and (missing := values.keys() - groups.keys()):
        raise ValueError(f"samples {sorted(missing)[:5]} belong to no group")
    own = {key: groups[key] for key in values} if groups else {}
    together = {key: clusters[key] for key in values if key in clusters} if clusters else {}
    sizes = Counter(together.values())
    together = {key: cluster for key, cluster in together.items() if sizes[cluster] > 1}
    parts = grouped(values, own, together)
    low, high = np.percentile(resampled_means(parts), [2.5, 97.5])
    return Score(
        value=float(np.mean([sums.sum() / counts.sum() for sums, counts in parts])),
        n=len(values),
        low=float(low),
        high=float(high),
        floors=floors or {},
        ceilings=ceilings or {},
        lower_is_better=lower_is_better,
        per_sample={key: float(value) for key, value in values.items()},
        groups=own,
        clusters=together,
    )


def grouped(
    values: Mapping[str, float], groups: Mapping[str, str], clusters: Mapping[str, str]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of each group (there is one where none is named) the sums (C,) of its clusters' values, and
    how many (C,) they are; in the order of their keys."""
    members: dict[str, dict[str, list[float]]] = {}
    for key in sorted(values):
        # A sample that stands alone is a cluster by its key, which is no name of another one.
        cluster = f"cluster {clusters[key]}" if key in clusters else f"sample {key}"
        members.setdefault(groups.get(key, ""), {}).setdefault(cluster, []).append(values[key])
    return [
        (np.asarray([sum(c) for c in own.values()]), np.asarray([len(c) for c in own.values()]))
        for own in (members[name] for name in sorted(members))
    ]


def resampled_means(parts: Sequence[tuple[np.ndarray, np.ndarray]], *, seed: int = 0) -> np.ndarray:
    """(RESAMPLES,) means of the groups' means, clusters of each group drawn again with
    replacement; `parts` as of `grouped`."""
    random = np.random.default_rng(seed)

    def again(sums: np.ndarray, counts: np.ndarray) -> float:
        drawn = random.integers(len(sums), size=len(sums))
        return sums[drawn].sum() / counts[drawn].sum()

    draws = [[again(sums, counts) for sums, counts in parts] for _ in range(RESAMPLES)]
    return np.asarray(draws).mean(axis=1)


def write_scores(scores: ScoreFile, path: Path) -> None:
    """Writes the file at once: a reader finds it whole or not at all."""
    text = json.dumps({"format": FORMAT} | asdict(scores), indent=1, allow_nan=False)
    write_atomically(path, text + "\n")


def read_scores(path: Path) -> ScoreFile:
    """Reads what `write_scores` wrote.

    Raises:
        ValueError: for a file that is missing or something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"there is no score file {path}") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is no score file: {error}") from error
    if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
        raise ValueError(
            f"{path} is no score file of format {FORMAT}: give a scores.json of `manzano eval`"
        )
    try:
        tasks = {
            name: TaskScores(
                **task | {"scores": {k: Score(**score) for k, score in task["scores"].items()}}
            )
            for name, task in content.pop("tasks").items()
        }
        return ScoreFile(**content, tasks=tasks)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is a damaged score file: {error}") from error

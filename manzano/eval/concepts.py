"""A small GenEval of our own, on the demo's glyphs, with exact truth instead of a detector.

Prompts are in the metadata format of GenEval (arXiv 2310.11513, `evaluation_metadata.jsonl`) and
have its six tags; what a picture shows is read by the pixel rules of `manzano.eval.glyph_judge`,
and what counts as correct follows GenEval's evaluation. So whatever writes and reads GenEval's
layout serves both. Figures on it are not GenEval's: it asks for twelve shapes, not for photos.

Where a prompt names a colour, training never shows it on that shape. The demo's data have one glyph
a picture, so two objects, counting and position lie outside what its model can learn from them.
"""

import json
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import permutations, product
from typing import Any

import numpy as np
from PIL import Image

from manzano.data_mix.sources import glyphs
from manzano.data_mix.sources.drawing import TEMPLATES
from manzano.eval.floors import others
from manzano.eval.glyph_judge import Found, GlyphJudge

Metadata = dict[str, Any]
"""One prompt: `tag`, `include` and perhaps `exclude`, `prompt`. What is included and excluded are
lists of `class`, `count` and perhaps `color` and `position`: a relation and the place in `include`
of what it refers to."""

POSITIONS = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}
"""Where an object stands, seen from another: to the right and down."""

_COUNTS = {2: "two", 3: "three", 4: "four"}
_PER_TAG = 20
_CELLS = ((0, 0), (0, 1), (1, 0), (1, 1))
"""Where true pictures of several objects have them: (column, row)."""
_NEARNESS = 0.1
"""GenEval's: an offset up to this part of both objects' sides is none."""


def concept_prompts(seed: int = 0) -> list[Metadata]:
    """The prompts: each of the twelve shapes alone, and twenty of each other tag; the same for the
    same seed on every machine."""
    rng = random.Random(f"concepts/{seed}")
    return [
        {"tag": tag, **prompt}
        for tag, every in _possible().items()
        for prompt in rng.sample(every, min(_PER_TAG, len(every)))
    ]


def judge(picture: Image.Image, metadata: Metadata) -> dict[str, Any]:
    """Whether a picture shows what its prompt asks for, by GenEval's rules.

    As there, more objects than asked for are no fault unless they are excluded, colours and
    positions are those of the largest ones (in GenEval: of the surest), and two objects stand in
    a relation if their centres are far enough apart and mostly in that direction.

    Returns:
        A line of GenEval's results but for its file name: `tag`, `prompt`, `correct` (bool),
        `reason` (what is wrong, "" if nothing is), `metadata` and `details` (the boxes found, left,
        top, right, bottom in pixels, by class), the last two as JSON.

    Raises:
        ValueError: The prompt asks for what is none of the demo's shapes and colours.
    """
    check(metadata)
    found: defaultdict[str, list[Found]] = defaultdict(list)
    for glyph in _glyph_judge().find(picture):
        found[glyph.shape].append(glyph)
    faults = list(_faults(found, metadata))
    boxes = {
        shape: [[g.left, g.top, g.right, g.bottom] for g in found[shape]] for shape in sorted(found)
    }
    return {
        "tag": metadata["tag"],
        "prompt": metadata["prompt"],
        "correct": not faults,
        "reason": "\n".join(faults),
        "metadata": json.dumps(metadata),
        "details": json.dumps(boxes),
    }


def tag_scores(results: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The share of correct pictures by tag, and `overall`: GenEval's mean of the tags."""
    by_tag: defaultdict[str, list[bool]] = defaultdict(list)
    for result in results:
        by_tag[result["tag"]].append(result["correct"])
    scores = {tag: float(np.mean(correct)) for tag, correct in by_tag.items()}
    return scores | {"overall": float(np.mean(list(scores.values())))}


def shuffled(prompts: Sequence[Metadata]) -> list[Metadata | None]:
    """The next other prompt of the same tag in the place of each: judged by them, pictures show the
    floor, what is correct without listening. None where a tag has no other prompt."""
    by_tag: defaultdict[str, list[Metadata]] = defaultdict(list)
    for prompt in prompts:
        by_tag[prompt["tag"]].append(prompt)
    following = {tag: iter(others(own)) for tag, own in by_tag.items()}
    return [next(following[prompt["tag"]]) for prompt in prompts]


def true_picture(metadata: Metadata, *, seed: int = 0, image_size: int = 72) -> Image.Image:
    """A picture that shows what a prompt asks for, by the renderer of the training data.

    What the prompt leaves open is drawn at random: colours, background, places. The judge's score
    on such pictures is the ceiling.

    Raises:
        ValueError: The prompt asks for more than four objects, or for unknown ones.
    """
    check(metadata)
    rng = random.Random(f"{metadata['prompt']}/{seed}")
    wanted = [item for item in metadata["include"] for _ in range(item["count"])]
    if len(wanted) > len(_CELLS):
        raise ValueError(f"{metadata['prompt']!r} asks for more than {len(_CELLS)} objects.")
    background = rng.choice(glyphs.BACKGROUNDS)
    several = len(wanted) > 1
    cells = _places(wanted, rng) if several else [(0, 0)]
    side = image_size // 2 if several else image_size
    picture = Image.new("RGB", (image_size, image_size), background)
    for item, (column, row) in zip(wanted, cells, strict=True):
        colour = item.get("color") or rng.choice(list(glyphs.COLOURS))
        offset = glyphs.random_offset(rng)
        glyph = glyphs.render(item["class"], colour, "large", background, **offset, image_size=side)
        picture.paste(glyph, (column * side, row * side))
    return picture


def _possible() -> dict[str, list[Metadata]]:
    """By GenEval's tags, everything that may be asked for."""
    pairs = list(permutations(glyphs.SHAPES, 2))
    unseen = glyphs.concepts("test")
    coloured = [(a, b) for a, b in permutations(unseen, 2) if a[0] != b[0] and a[1] != b[1]]
    return {
        "single_object": [_asked(_article(s), [_object(s)]) for s in glyphs.SHAPES],
        "two_object": [
            _asked(f"{_article(a)} and {_article(b)}", [_object(a), _object(b)]) for a, b in pairs
        ],
        "counting": [_counted(s, number) for s in glyphs.SHAPES for number in _COUNTS],
        "colors": [_asked(glyphs.describe(c, s), [_object(s, color=c)]) for c, s in unseen],
        "position": [
            _asked(
                f"{_article(a)} {relation} {_article(b)}",
                [_object(b), _object(a, position=[relation, 0])],
            )
            for (a, b), relation in product(pairs, POSITIONS)
        ],
        "color_attr": [
            _asked(
                f"{glyphs.describe(*a)} and {glyphs.describe(*b)}",
                [_object(shape, color=colour) for colour, shape in (a, b)],
            )
            for a, b in coloured
        ],
    }


def _asked(words: str, include: list[dict], **exclude: list[dict]) -> Metadata:
    return {"include": include, **exclude, "prompt": TEMPLATES[0].format(words)}


def _counted(shape: str, number: int) -> Metadata:
    plural = shape if shape == "fish" else f"{shape}s"
    return _asked(
        f"{_COUNTS[number]} {plural}",
        [_object(shape, count=number)],
        exclude=[_object(shape, count=number + 1)],
    )


def _object(shape: str, *, count: int = 1, **more: Any) -> dict[str, Any]:
    return {"class": shape, "count": count, **more}


def _article(shape: str) -> str:
    return glyphs.describe("", shape)


def _places(wanted: Sequence[dict], rng: random.Random) -> Sequence[tuple[int, int]]:
    """A cell for each object, so that each stands where it is to stand."""
    layouts = list(permutations(_CELLS, len(wanted)))
    rng.shuffle(layouts)

    def fits(cells: Sequence[tuple[int, int]]) -> bool:
        for item, (column, row) in zip(wanted, cells, strict=True):
            if "position" in item:
                relation, other = item["position"]
                if (column - cells[other][0], row - cells[other][1]) != POSITIONS[relation]:
                    return False
        return True

    return next(cells for cells in layouts if fits(cells))


def check(metadata: Metadata) -> None:
    """Raises ValueError for what is no prompt of GenEval's format, or asks for what is unknown."""
    if missing := {"tag", "include", "prompt"} - metadata.keys():
        raise ValueError(
            f"This is no prompt of GenEval's format: it has {sorted(metadata)} and lacks "
            f"{sorted(missing)}."
        )
    known = {"class": glyphs.SHAPES, "color": glyphs.COLOURS}
    for item in [*metadata["include"], *metadata.get("exclude", [])]:
        if missing := {"class", "count"} - item.keys():
            raise ValueError(f"{metadata['prompt']!r} has an object without {sorted(missing)}.")
        for key, words in known.items():
            if item.get(key, "") not in ("", *words):
                raise ValueError(
                    f"{metadata['prompt']!r} asks for the {key} {item[key]!r}; the rules know "
                    f"{', '.join(words)} only: give the prompts of `concept_prompts`."
                )


@cache
def _glyph_judge() -> GlyphJudge:
    return GlyphJudge()


def _faults(found: Mapping[str, list[Found]], metadata: Metadata) -> Iterator[str]:
    groups: list[list[Found]] = []
    for item in metadata["include"]:
        own = found.get(item["class"], [])[: item["count"]]
        fault = _missing(own, item) or _misplaced(own, item, groups)
        groups.append([] if fault else own)
        if fault:
            yield fault
    for item in metadata.get("exclude", []):
        number = len(found.get(item["class"], []))
        if number >= item["count"]:
            yield f"expected {item['class']}<{item['count']}, found {number}"


def _missing(own: Sequence[Found], item: dict) -> str:
    shape, count = item["class"], item["count"]
    if len(own) < count:
        return f"expected {shape}>={count}, found {len(own)}"
    colours = [glyph.colour for glyph in own]
    if "color" in item and colours.count(item["color"]) < count:
        return f"expected {item['color']} {shape}>={count}, found {', '.join(colours)}"
    return ""


def _misplaced(own: Sequence[Found], item: dict, groups: Sequence[Sequence[Found]]) -> str:
    if "position" not in item:
        return ""
    relation, place = item["position"]
    if not groups[place]:
        return f"no target for {item['class']} to be {relation}"
    for glyph, other in product(own, groups[place]):
        seen = _relations(glyph, other)
        if relation not in seen:
            said = " and ".join(seen) or "no relation to"
            return f"expected {item['class']} {relation} target, found {said} target"
    return ""


def _relations(glyph: Found, other: Found) -> list[str]:
    """How a glyph stands to another, two relations on a diagonal."""
    corners = np.array([[[g.left, g.top], [g.right, g.bottom]] for g in (glyph, other)])
    offset = corners[0].mean(axis=0) - corners[1].mean(axis=0)  # (2,): right and down
    slack = _NEARNESS * np.ptp(corners, axis=1).sum(axis=0)  # (2,)
    beyond = np.maximum(np.abs(offset) - slack, 0) * np.sign(offset)
    if not beyond.any():
        return []
    along = beyond / np.linalg.norm(offset)
    return [name for name, step in POSITIONS.items() if along @ np.array(step) > 0.5]

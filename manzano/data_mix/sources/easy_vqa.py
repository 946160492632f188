"""easy-VQA: one coloured shape an image, about ten questions each, with its published split."""

import json
from collections import defaultdict
from collections.abc import Iterator

from PIL import Image

from manzano.data_mix.images import load_image
from manzano.data_mix.schema import Sample, Turn
from manzano.data_mix.sources.package_data import package_folder

NAME = "easy_vqa"
LICENCE = "MIT"
ATTRIBUTION = "easy-vqa by Victor Zhou, MIT: images and questions, scaled up."
PACKAGES = ("easy-vqa",)

COLOURS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")
SHAPES = ("circle", "rectangle", "triangle")

Pairs = list[tuple[str, str]]


def samples(split: str, *, image_size: int, seed: int) -> Iterator[Sample]:
    """One sample an image, with all its questions. Nothing is random: `seed` is unused."""
    folder = package_folder("easy_vqa") / "data" / split
    questions: dict[int, Pairs] = defaultdict(list)
    for question, answer, image_id in json.loads((folder / "questions.json").read_text()):
        questions[image_id].append((question, answer))
    for image_id, pairs in sorted(questions.items()):
        image = load_image(folder / "images" / f"{image_id}.png")
        turns = [
            turn
            for question, answer in pairs
            for turn in (Turn(role="user", text=question), Turn(role="assistant", text=answer))
        ]
        yield Sample(
            key=f"{NAME}-{split}-{image_id:05d}",
            task="understanding",
            turns=tuple(turns),
            images=(image.resize((image_size, image_size), Image.Resampling.BICUBIC),),
            caption=caption(pairs),
            source=NAME,
            licence=LICENCE,
            concept=f"easy-vqa/{split}/{image_id}",
            extra={"kinds": [kind(answer) for _, answer in pairs]},
        )


def kind(answer: str) -> str:
    """The type of a question, told from its answer: "colour", "shape" or "yes/no"."""
    return "colour" if answer in COLOURS else "shape" if answer in SHAPES else "yes/no"


def caption(pairs: Pairs) -> str:
    """What the questions say of the image: "a red circle", or as much of that as can be told.

    Raises:
        ValueError: The questions contradict each other.
    """
    colours, shapes = set(), set()
    for question, answer in pairs:
        denies = " not " in question or " no " in question
        if answer != ("yes" if denies else "no"):  # what the question names is in the image
            words = f"{question.rstrip('?')} {answer}".split()
            colours |= set(words) & set(COLOURS)
            shapes |= set(words) & set(SHAPES)
    if len(colours) > 1 or len(shapes) > 1:
        raise ValueError(f"questions disagree: {sorted(colours)}, {sorted(shapes)}")
    if not colours and not shapes:
        return ""
    return " ".join(["a", *colours, *(shapes or {"shape"})])

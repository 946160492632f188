"""The datasets of the twelve tasks in miniature: the hub's names, splits and columns, our rows.

lmms-eval loads a dataset by its name on the hub, and takes a folder of this name below the current
one before it asks the hub; so its own tasks run here as they are, without a network.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
from PIL import Image

from tests.tiny import drawing

PICTURE = datasets.Image()
PHRASE = "\nAnswer the question using a single word or phrase."
LETTER = "\nAnswer with the option's letter from the given choices directly."
OPTIONS = ["red", "lime", "blue", "orange"]
LISTED = "A. red\nB. lime\nC. blue\nD. orange"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A row, and what a model must be given for it: pictures and words, in order."""

    row: dict[str, Any]
    prompt: tuple[str | Image.Image, ...]


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task of lmms-eval with the rows of its dataset."""

    name: str
    dataset: str
    split: str
    gold: str
    """The column of the right answer, a letter or what `right` makes of it."""
    asked: Sequence[Asked]
    config: str | None = None
    max_new_tokens: int = 1024
    until: tuple[str, ...] = ("\n\n",)
    pictures: tuple[str, ...] = ("image",)
    metric: str = "exact_match"
    whole: float = 1.0
    """What the metric is where all answers are right."""

    def right(self, letter: str) -> Any:
        """A letter as this dataset writes an answer."""
        return {
            "ai2d": str("ABCD".index(letter)),
            "scienceqa_img": "ABCD".index(letter),
            "mathvista_testmini_format": OPTIONS["ABCD".index(letter)],
            "textvqa_val": [letter] * 10,
        }.get(self.name, [letter] if self.gold == "answers" else letter)

    def answered(self, letters: Sequence[str]) -> "Task":
        """The same with these right answers."""
        rows = [
            replace(asked, row=asked.row | {self.gold: self.right(letter)})
            for asked, letter in zip(self.asked, letters, strict=True)
        ]
        return replace(self, asked=rows)

    def write(self, folder: Path) -> None:
        """Parquet as on the hub; for a named configuration the card says where it lies."""
        home = folder / self.dataset
        path = f"{self.config or 'data'}/{self.split}-00000-of-00001.parquet"
        (home / path).parent.mkdir(parents=True)
        table = datasets.Dataset.from_list([encoded(asked.row) for asked in self.asked])
        for column in self.pictures:
            kind = [PICTURE] if isinstance(self.asked[0].row[column], list) else PICTURE
            table = table.cast_column(column, kind)
        table.to_parquet(str(home / path))
        if self.config:
            card = home / "README.md"
            known = card.read_text().splitlines()[2:-1] if card.exists() else []
            where = [f"- config_name: {self.config}", "  data_files:", f"  - split: {self.split}"]
            lines = ["---", "configs:", *known, *where, f"    path: {path}", "---"]
            card.write_text("\n".join(lines) + "\n")


def encoded(row: dict[str, Any]) -> dict[str, Any]:
    """Pictures as the hub's parquet files hold them."""

    def one(value: Any) -> Any:
        if isinstance(value, list):
            return [one(v) for v in value]
        return {"bytes": png(value), "path": None} if isinstance(value, Image.Image) else value

    return {name: one(value) for name, value in row.items()}


def png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def pictures(task: int, count: int = 4) -> list[Image.Image]:
    return [drawing(5 * task + index, (48 + 8 * index, 48)) for index in range(count)]


def rows(task: int, columns: Any, prompt: Any) -> list[Asked]:
    """Four rows about four pictures; `columns` and `prompt` are made from picture and index."""
    return [
        Asked(row={"image": p} | columns(p, i), prompt=prompt(p, i))
        for i, p in enumerate(pictures(task))
    ]


def reading_tasks() -> list[Task]:
    """Answers in words: ChartQA, TextVQA, DocVQA, InfographicVQA, OCRBench."""
    return [
        Task(
            name="chartqa", dataset="lmms-lab-encoder/ChartQA", split="test", gold="answer",
            metric="relaxed_overall", max_new_tokens=16,
            asked=rows(
                0,
                lambda p, i: {
                    "type": "human_test" if i % 2 else "augmented_test",
                    "question": f"Which bar is {i}?", "answer": "A",
                },
                lambda p, i: (p, f"Which bar is {i}?\nAnswer the question with a single word."),
            ),
        ),
        Task(
            name="textvqa_val", dataset="lmms-lab-encoder/textvqa", split="validation",
            gold="answers", until=("ASSISTANT:",),
            asked=rows(
                1,
                lambda p, i: {
                    "question": f"what does sign {i} say?", "answers": ["a"] * 10,
                    "question_id": i, "ocr_tokens": ["a"], "image_id": str(i),
                },
                lambda p, i: (p, f"What does sign {i} say?" + PHRASE),
            ),
        ),
        Task(
            name="docvqa_val", dataset="lmms-lab-encoder/DocVQA", config="DocVQA",
            split="validation", gold="answers", metric="anls", max_new_tokens=32,
            asked=rows(
                2,
                lambda p, i: {
                    "questionId": str(i), "question": f"What is in line {i}?", "answers": ["a"],
                    "docId": i,
                },
                lambda p, i: (p, f"What is in line {i}?" + PHRASE),
            ),
        ),
        Task(
            name="infovqa_val", dataset="lmms-lab-encoder/DocVQA", config="InfographicVQA",
            split="validation", gold="answers", metric="anls", max_new_tokens=32,
            asked=rows(
                3,
                lambda p, i: {
                    "questionId": str(i), "question": f"How many in {i}?", "answers": ["a"],
                },
                lambda p, i: (p, f"How many in {i}?" + PHRASE),
            ),
        ),
        Task(
            name="ocrbench", dataset="echo840/OCRBench", split="test", gold="answer",
            metric="ocrbench_accuracy", max_new_tokens=128, whole=4 / 1000,
            asked=rows(
                4,
                lambda p, i: {
                    "dataset": ("IIIT5K", "HME100k", "FUNSD", "SROIE")[i],
                    "question_type": (
                        "Regular Text Recognition",
                        "Handwritten Mathematical Expression Recognition",
                        "Key Information Extraction", "Doc-oriented VQA",
                    )[i],
                    "question": f"what is written in the image {i}?", "answer": ["a"],
                },
                lambda p, i: (p, f"what is written in the image {i}?"),
            ),
        ),
    ]  # fmt: skip


def choice_tasks() -> list[Task]:
    """Answers by a letter: AI2D, ScienceQA, SEED-Bench, RealWorldQA, MMBench."""
    letters = {"A": "red", "B": "lime", "C": "blue", "D": "orange"}
    return [
        Task(
            name="ai2d", dataset="lmms-lab-encoder/ai2d", split="test", gold="answer",
            max_new_tokens=16,
            asked=rows(
                5,
                lambda p, i: {"question": f"Which is {i}?", "options": OPTIONS, "answer": "0"},
                lambda p, i: (p, f"Which is {i}?\n{LISTED}{LETTER}"),
            ),
        ),
        Task(
            name="scienceqa_img", dataset="lmms-lab-encoder/ScienceQA", config="ScienceQA-IMG",
            split="test", gold="answer", max_new_tokens=16,
            asked=rows(
                6,
                lambda p, i: {
                    "question": f"Which is {i}?", "choices": OPTIONS, "answer": 0,
                    "hint": "Look." if i % 2 else "",
                },
                lambda p, i: (
                    p, ("Context: Look.\n" if i % 2 else "") + f"Which is {i}?\n{LISTED}{LETTER}",
                ),
            ),
        ),
        Task(
            name="seedbench", dataset="lmms-lab-encoder/SEED-Bench", split="test", gold="answer",
            metric="seed_all", until=("ASSISTANT:",),
            asked=rows(
                7,
                lambda p, i: {  # a video is a list of its frames
                    "image": [p, drawing(99)] if i % 2 else [p],
                    "data_type": "video" if i % 2 else "image",
                    "question": f"Which is {i}?", "answer": "A", "question_id": str(i),
                } | {f"choice_{letter.lower()}": word for letter, word in letters.items()},
                lambda p, i: (
                    *([p, drawing(99)] if i % 2 else [p]), f"Which is {i}?\n{LISTED}{LETTER}",
                ),
            ),
        ),
        Task(
            name="realworldqa", dataset="lmms-lab-encoder/RealWorldQA", split="test",
            gold="answer", max_new_tokens=16,
            asked=rows(
                8,
                lambda p, i: {"question": f"Which is {i}?\n\n{LISTED}\nA letter.", "answer": "A"},
                lambda p, i: (p, f"Which is {i}?\n\n{LISTED}\nA letter."),
            ),
        ),
        Task(
            name="mmbench_en_dev_static", dataset="lmms-lab-encoder/MMBench", config="en",
            split="dev", gold="answer", metric="gpt_eval_score", until=("ASSISTANT:",),
            whole=100.0,
            asked=rows(
                9,
                lambda p, i: {
                    "index": i, "question": f"Which is {i}?", "hint": "nan", "answer": "A",
                    "category": "object_localization", "L2-category": "finegrained_perception",
                    "source": "ours", "comment": "nan", "split": "dev",
                } | letters,
                lambda p, i: (
                    p,
                    f"Which is {i}? There are several options:\n{LISTED}\n\n{LETTER.strip()}",
                ),
            ),
        ),
    ]  # fmt: skip


def reasoning_tasks() -> list[Task]:
    """MMMU, with pictures amid the words, and MathVista, whose answers a judge reads."""
    listed = f"\n{LISTED}\n\n{LETTER.strip()}"
    fields = [f"image_{number}" for number in range(1, 8)]
    return [
        Task(
            name="mmmu_val", dataset="lmms-lab-encoder/MMMU", split="validation", gold="answer",
            metric="mmmu_acc", max_new_tokens=128, pictures=tuple(fields),
            asked=[
                Asked(
                    row={
                        "id": f"validation_Art_{i}", "options": str(OPTIONS), "answer": "A",
                        "question": f"See <image 1> and <image 2>: which is {i}?",
                        "question_type": "multiple-choice", "subfield": "Art",
                    } | dict.fromkeys(fields) | {"image_1": p, "image_2": drawing(i)},
                    prompt=(
                        "See", p, "and", drawing(i), f": which is {i}?{listed}",
                    ),
                )
                for i, p in enumerate(pictures(10))
            ],
        ),
        Task(
            name="mathvista_testmini_format", dataset="AI4Math/MathVista", split="testmini",
            gold="answer", metric="llm_as_judge_eval", whole=100.0, max_new_tokens=16384,
            pictures=("decoded_image",),
            asked=[
                Asked(
                    row={
                        "pid": str(i), "question": f"Which is {i}?", "image": f"images/{i}.jpg",
                        "decoded_image": p, "choices": OPTIONS, "unit": "", "precision": 0.0,
                        "answer": "red", "question_type": "multi_choice", "answer_type": "text",
                        "query": f"Which is {i}?",
                        "metadata": {
                            "split": "testmini", "language": "english", "source": "ours",
                            "category": "general-vqa", "task": "figure question answering",
                            "context": "bar chart", "grade": "daily life",
                            "skills": ["logical reasoning"],
                        },
                    },
                    prompt=(
                        p,
                        f"Which is {i}?\n{LISTED}{LETTER}",
                    ),
                )
                for i, p in enumerate(pictures(11))
            ],
        ),
    ]  # fmt: skip


def twelve_tasks() -> list[Task]:
    return [*reading_tasks(), *choice_tasks(), *reasoning_tasks()]

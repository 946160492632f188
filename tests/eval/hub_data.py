"""Benchmarks of a few samples in the hub's columns, as parquet files or WebDataset shards."""

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
from PIL import Image
from pyarrow import parquet

from manzano.eval.text_rich.tasks import OCRBENCH_PARTS
from tests.tiny import drawing

SPLITS = {"chartqa": "test", "ocrbench": "test"}
CONFIGS = {"docvqa": "DocVQA", "infovqa": "InfographicVQA"}
KINDS = list(OCRBENCH_PARTS)
Row = dict[str, Any]


def rows(task: str, count: int) -> list[Row]:
    """Samples with a picture of their own each; references are digits."""
    own = {
        "chartqa": lambda i: {
            "type": "human_test" if i % 2 else "augmented_test",
            "answer": str(i % 3),
        },
        "textvqa": lambda i: {"answers": [str(i % 3)] * 10, "question_id": i, "ocr_tokens": []},
        "docvqa": lambda i: {"answers": [str(i % 3), "page"], "questionId": str(i)},
        "infovqa": lambda i: {"answers": [str(i % 3)], "questionId": str(i)},
        "ocrbench": lambda i: {
            "dataset": "HME100k" if i % 4 == 3 else "SVT",
            "question_type": KINDS[i % len(KINDS)],
            "answer": [str(i % 3)],
        },
    }[task]
    return [
        {"question": f"what is number {i % 4}?", **own(i), "image": encoded(drawing(i))}
        for i in range(count)
    ]


def encoded(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def write_parquet(folder: Path, task: str, content: Sequence[Row], *, files: int = 2) -> Path:
    """The rows as the hub lays them out, in row groups of three."""
    folder = folder / CONFIGS.get(task, "data")
    folder.mkdir(parents=True, exist_ok=True)
    step = -(-len(content) // files)
    for number in range(files):
        part = [
            row | {"image": row["image"] and {"bytes": row["image"], "path": None}}
            for row in content[number * step : (number + 1) * step]
        ]
        name = f"{SPLITS.get(task, 'validation')}-{number:05d}-of-{files:05d}.parquet"
        table = pyarrow.Table.from_pylist(part)
        parquet.write_table(table, folder / name, row_group_size=3)
    return folder


def write_shard(folder: Path, task: str, content: Sequence[Row]) -> Path:
    """The rows as a WebDataset shard; a row without an image has no picture file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{SPLITS.get(task, 'validation')}-000000.tar"
    with tarfile.open(path, "w") as tar:
        for number, row in enumerate(content):
            columns = {name: value for name, value in row.items() if name != "image"}
            files = {"json": json.dumps(columns).encode(), "png": row["image"]}
            for ending, data in files.items():
                if data is not None:
                    member = tarfile.TarInfo(f"{number:06d}.{ending}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    return path

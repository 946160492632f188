"""Writes the demo's held-out pictures in the columns of public benchmarks, to try evaluation with:

    python benchmarks/hub_columns.py --data runs/demo/data --output runs/hub
    manzano eval runs/demo/model --suite text-rich --data runs/hub --prompt '{question}' --floors

Chart questions become `chartqa`, words `textvqa` and `ocrbench`: as many as the demo's report asks,
so that its figures must come out again. They are not those benchmarks.
"""

import argparse
import io
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from manzano.eval.understanding import MAX_QUESTIONS, Question, held_out_questions

SEED = 0
"""Of the choice of questions, as in the demo's report."""


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("runs/demo/data"), metavar="DIR")
    parser.add_argument("--output", type=Path, default=Path("runs/hub"), metavar="DIR")
    arguments = parser.parse_args(argv)
    charts, words = (
        held_out_questions(arguments.data / source, limit=MAX_QUESTIONS[source], seed=SEED)
        for source in ("charts", "reading")
    )
    rows = {
        ("chartqa", "test"): [
            {"type": "human_test", **asked(q), "answer": q.answer} for q in charts
        ],
        ("textvqa", "validation"): [
            {**asked(q), "answers": [q.answer] * 10} for q in words
        ],
        ("ocrbench", "test"): [
            {"dataset": "demo", "question_type": "Regular Text Recognition",
             **asked(q), "answer": [q.answer]}
            for q in words
        ],
    }  # fmt: skip
    for (name, split), own in rows.items():
        print(write(arguments.output / name / "data" / f"{split}-00000-of-00001.parquet", own))


def asked(question: Question) -> dict:
    return {"question": question.question, "image": png(question.picture)}


def png(picture: Image.Image) -> dict[str, bytes | None]:
    """A picture as the hub's parquet files hold it."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def write(path: Path, rows: Sequence[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows)), path, row_group_size=100)
    return path


if __name__ == "__main__":
    main()

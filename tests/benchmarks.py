"""Prompt files of the drawing and editing benchmarks, as their repositories ship them but small."""

import csv
import io
import json
from pathlib import Path

import pyarrow
from pyarrow.parquet import write_table

from tests.tiny import drawing

WORDS = ["a red heart", "a blue star", "a green circle"]


def geneval(folder: Path) -> Path:
    rows = [
        {"tag": tag, "include": [{"class": "heart", "count": 1}], "prompt": words}
        for tag, words in zip(["colors", "colors", "counting"], WORDS, strict=True)
    ]
    path = folder / "evaluation_metadata.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def dpg(folder: Path) -> Path:
    path = folder / "dpg_prompts"
    path.mkdir()
    for name, words in zip(["partiprompts1", "whoops20", "COCOval7"], WORDS, strict=True):
        (path / f"{name}.txt").write_text(words + "\n")
    return path


def wise(folder: Path, names=("_verified",), numbers=(1, 401, 1000)) -> Path:
    path = folder / ("data_verified" if names == ("_verified",) else "data")
    path.mkdir()
    stems = ["cultural_common_sense", "spatio-temporal_reasoning", "natural_science"]
    rows = [
        {"Prompt": words, "Explanation": "", "Category": "C", "Subcategory": "S", "prompt_id": i}
        for words, i in zip(WORDS, numbers, strict=True)
    ]
    for stem, row in zip(stems, rows, strict=True):
        (path / f"{stem}{names[0]}.json").write_text(json.dumps([row]))
    (path / "merge.json").write_text(json.dumps(rows))
    return path


def t2i_compbench(folder: Path) -> Path:
    path = folder / "dataset"
    path.mkdir()
    (path / "color_val.txt").write_text("a red heart\nA blue star.\t1\n")
    (path / "3d_spatial_val.txt").write_text("a heart behind a star")
    (path / "color_train.txt").write_text("never read\n")
    (path / "new_objects.txt").write_text("heart - hearts\n")
    return path


def oneig(folder: Path, column: str = "prompt_en") -> Path:
    path = folder / "OneIG-Bench.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["category", "id", column, "type", "prompt_length", "class"])
        writer.writerow(["Text_Rendering", "000", "a heart, red", "NP", "short", "None"])
        writer.writerow(["General_Object", "000", "a blue star", "NP", "short", "None"])
        writer.writerow(["Anime_Stylization", "017", "a green circle", "NP", "short", "None"])
    return path


def png(index: int, size: tuple[int, int]) -> bytes:
    file = io.BytesIO()
    drawing(index, size).save(file, "PNG")
    return file.getvalue()


GEDIT_ROWS = [
    ("color_alter", "k0", "make it green", "en", (48, 40), True),
    ("subject-add", "k1", "add a star", "en", (40, 48), False),
    ("color_alter", "k2", "make it green", "cn", (48, 48), True),
]


def gedit_rows(picture) -> list[dict]:
    """Rows in the hub's columns; `picture(index, size)` gives what stands for a picture."""
    return [
        {
            "task_type": task, "key": key, "instruction": words, "instruction_language": language,
            "input_image": picture(index, size), "input_image_raw": picture(index, (48, 48)),
            "Intersection_exist": both,
        }
        for index, (task, key, words, language, size, both) in enumerate(GEDIT_ROWS)
    ]  # fmt: skip


def gedit(folder: Path) -> Path:
    path = folder / "GEdit-Bench" / "data"
    path.mkdir(parents=True)
    rows = gedit_rows(lambda index, size: {"bytes": png(index, size), "path": None})
    table = pyarrow.Table.from_pylist(rows)
    write_table(table, path / "train-00000-of-00001.parquet", row_group_size=2)
    return path.parent


def gedit_arrow(folder: Path) -> Path:
    path = folder / "GEdit-Bench-arrow"
    path.mkdir()
    rows = gedit_rows(lambda index, size: {"bytes": png(index, size), "path": None})
    table = pyarrow.Table.from_pylist(rows)
    with pyarrow.ipc.new_stream(path / "data-00000-of-00001.arrow", table.schema) as writer:
        writer.write_table(table)
    return path


def gedit_json(folder: Path) -> Path:
    def picture(index, size):
        name = f"{index}-{size[0]}-{size[1]}.png"
        (folder / name).write_bytes(png(index, size))
        return name

    path = folder / "gedit.json"
    path.write_text(json.dumps(gedit_rows(picture)))
    return path


def imgedit(folder: Path) -> Path:
    edits = {
        "1082": {"id": "animal/0.jpg", "prompt": "make it green", "edit_type": "alter"},
        "97": {"id": "for_add/1.jpg", "prompt": "add a star", "edit_type": "add"},
        "1083": {"id": "animal/0.jpg", "prompt": "make it blue", "edit_type": "alter"},
    }
    for index, name in enumerate(["animal/0.jpg", "for_add/1.jpg"]):
        path = folder / name
        path.parent.mkdir()
        drawing(index, (48, 40)).save(path)
    path = folder / "basic_edit.json"
    path.write_text(json.dumps(edits, indent=4))
    return path


PROMPTS = {
    "geneval": geneval, "dpg": dpg, "wise": wise, "t2i-compbench": t2i_compbench,
    "oneig": oneig, "gedit": gedit, "imgedit": imgedit,
}  # fmt: skip

"""GEdit-Bench: edits that people asked for (Step1X-Edit, Liu et al., arXiv 2504.17761).

prompts   the data set's folder (parquet or arrow), or a JSON file of such rows, pictures as
          paths seen from it: task_type, key, instruction, instruction_language, input_image,
          Intersection_exist
folder    MODEL/fullset/TASK_TYPE/LANGUAGE/KEY.png, of the source's size, and KEY_SRCIMG.png
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from manzano.data_mix.images import ImageSource
from manzano.eval.pictures.layouts import tables
from manzano.eval.pictures.layouts.layout import (
    Item,
    Layout,
    file_name,
    has,
    read_json,
    read_json_lines,
    words,
)

COLUMNS = ["task_type", "key", "instruction", "instruction_language", "Intersection_exist"]
PICTURE = "input_image"
LANGUAGES = ("en", "cn")


class GEdit(Layout):
    suite = "gedit"
    edits = True
    expected = (
        "the folder of the data set stepfun-ai/GEdit-Bench (parquet or arrow), or a .json or "
        f".jsonl of rows with {', '.join([*COLUMNS, PICTURE])}, the last a path"
    )

    @classmethod
    def recognises(cls, prompts: Path) -> bool:
        if paths := tables.table_paths(prompts):
            return {*COLUMNS, PICTURE} <= set(tables.columns(paths[0]))
        if not prompts.is_file() or prompts.suffix not in (".json", ".jsonl"):
            return False
        return has(next(_json_rows(prompts), None), *COLUMNS, PICTURE)

    def items(self) -> list[Item]:
        places = dict.fromkeys(LANGUAGES, -1)
        items = []
        for row, image in self._rows():
            language = row["instruction_language"]
            if language not in places:
                raise ValueError(
                    f"{row['key']} of {self.prompts} is in {language!r}; there are "
                    f"{', '.join(LANGUAGES)}"
                )
            places[language] += 1
            items.append(
                Item(
                    key=f"{row['task_type']}/{language}/{row['key']}",
                    prompt=words(row["instruction"]),
                    task=f"{self.suite}-{language}",
                    group=row["task_type"],
                    place=places[language],
                    image=image,
                    facts=row,
                )  # fmt: skip
            )
        return items

    def _rows(self) -> Iterator[tuple[dict[str, Any], Callable[[], ImageSource]]]:
        """What is in each row, and how to come by its picture."""
        for path in tables.table_paths(self.prompts):
            for group, place, row in tables.rows(path, COLUMNS):
                yield row, partial(_table_picture, path, group, place)
        if self.prompts.is_file() and self.prompts.suffix in (".json", ".jsonl"):
            for number, row in enumerate(_json_rows(self.prompts), start=1):
                if not has(row, *COLUMNS, PICTURE):
                    raise ValueError(
                        f"row {number} of {self.prompts} lacks one of {', '.join(COLUMNS)}, "
                        f"{PICTURE}"
                    )
                facts = {name: row[name] for name in COLUMNS}
                yield facts, partial(str, self.prompts.parent / words(row[PICTURE]))

    def data_files(self) -> list[Path]:
        if paths := tables.table_paths(self.prompts):
            return paths
        pictures = (self.prompts.parent / words(row[PICTURE]) for row in _json_rows(self.prompts))
        return [self.prompts, *filter(Path.is_file, pictures)]

    def files(self, item: Item) -> tuple[str, ...]:
        facts = item.facts
        folder = f"{self.model}/fullset/{file_name(facts['task_type'], '')}"
        folder += f"/{facts['instruction_language']}"
        return tuple(f"{folder}/{file_name(facts['key'], end)}" for end in (".png", "_SRCIMG.png"))

    def contents(self, item, pictures, source):
        assert source is not None  # all items are edits
        return (pictures[0].resize(source.size), source)

    def scorer(self, height: int, width: int) -> str:
        scores = self.beside("gedit_scores")
        return (
            "# In GEdit-Bench of a clone of github.com/stepfun-ai/Step1X-Edit: datasets,\n"
            "# megfile, pandas; a key for GPT-4.1 in secret.env (or Qwen2.5-VL-72B, qwen25vl).\n"
            f"python run_gedit_score.py --model_name {self.model} --edited_images_dir "
            f"{self.quoted} --save_dir {scores} --backbone gpt4o\n"
            f"python calculate_statistics.py --model_name {self.model} --save_path {scores} "
            "--backbone gpt4o --language all"
        )


def _json_rows(path: Path) -> Iterator[Any]:
    if path.suffix == ".jsonl":
        yield from (row for _, row in read_json_lines(path))
    elif isinstance(found := read_json(path), list):
        yield from found


def _table_picture(path: Path, group: int, place: int) -> ImageSource:
    value = tables.cell(path, group, place, PICTURE)
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if not value:
        raise ValueError(f"there is no picture in {PICTURE}")
    return value

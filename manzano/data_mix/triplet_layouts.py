"""Triplets of a picture, an instruction and the edited picture, as they lie in others' files.

    parquet      *.parquet with a row a triplet; a picture is {bytes, path}, bytes, or a path
    pix2pix      the folders of InstructPix2Pix: NAME/prompt.json with "edit", NAME/SEED_0.jpg and
                 NAME/SEED_1.jpg; seeds.json or NAME/metadata.jsonl, where there, say which seeds
    jsonl        *.jsonl with an object a triplet; a picture is a path, seen from the file's folder
    tar          *.tar of a WebDataset: KEY.before.jpg, KEY.after.jpg, perhaps KEY.mask.png, with
                 the instruction in KEY.json or as KEY.txt

InstructPix2Pix: Brooks, Holynski, Efros, arXiv 2211.09800; MagicBrush: Zhang et al., 2306.10012.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from manzano.data_mix.schema import read_fields

PICTURES = ("png", "jpg", "jpeg", "webp")


@dataclass(frozen=True)
class Row:
    """One triplet, undecoded."""

    place: str
    """Where it is from, for people."""
    folder: Path
    """Where its paths begin."""
    values: Mapping[str, Any]
    """By name of the column, key or field."""
    group: str = ""
    """Names what it shares with others, where the layout says so."""

    def picture(self, name: str) -> bytes:
        """The bytes of the image file in a column.

        Raises:
            ValueError: There is none, or it cannot be read.
        """
        value = self.values.get(name)
        if isinstance(value, Mapping):
            value = value.get("bytes") or value.get("path")
        if isinstance(value, bytes) and value:
            return value
        if not isinstance(value, str) or not value:
            raise ValueError(f"there is no picture in '{name}'")
        try:
            return (self.folder / value).read_bytes()
        except OSError as error:
            raise ValueError(f"cannot read '{self.folder / value}': {error.strerror}") from error


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which column holds what."""

    before: str
    instruction: str
    after: str
    mask: str = ""
    """White or transparent where the edit is; "" for none."""
    concept: str = ""
    """What train and test must not share; "" for what the layout says, or else for
    the content of the source picture."""

    def names(self) -> list[str]:
        return [name for f in fields(self) if (name := getattr(self, f.name))]


KNOWN = (
    Columns(before="before", instruction="instruction", after="after"),
    Columns(before="original_image", instruction="edit_prompt", after="edited_image"),
    Columns(before="input_image", instruction="edit_prompt", after="edited_image"),
    Columns(before="source_img", instruction="instruction", after="target_img"),
)
"""Of this module's own layouts, InstructPix2Pix on the hub (two of them), and MagicBrush."""


def choose_columns(there: Mapping[str, Any], given: Mapping[str, str]) -> Columns:
    """The first known columns that are all there, with the given ones in place of theirs.

    Raises:
        ValueError: None are.
    """
    for known in KNOWN:
        columns = replace(known, **given)
        if all(name in there for name in columns.names()):
            return columns
    wanted = "; ".join(", ".join(replace(known, **given).names()) for known in KNOWN)
    raise ValueError(
        f"the columns are {', '.join(there)}, and none of these sets is among them: {wanted}. Name "
        "them: --before, --instruction, --after, and perhaps --mask and --concept"
    )


def read_rows(source: Path) -> Iterator[Row]:
    """All triplets of a file or folder, always in the same order.

    Raises:
        ValueError: It has none of the layouts, or a file that holds many triplets is damaged.
    """
    if source.is_dir() and any(source.glob("*/prompt.json")):
        yield from _pix2pix_rows(source)
        return
    for suffix, read in _READERS.items():
        files = sorted(source.rglob(f"*{suffix}")) if source.is_dir() else [source]
        if files and all(file.suffix == suffix and file.is_file() for file in files):
            for file in files:
                yield from read(file)
            return
    raise ValueError(
        f"'{source}' holds no triplets: give a folder with {', '.join(_READERS)} files or with "
        "InstructPix2Pix's */prompt.json, or one such file"
    )


def _parquet_rows(path: Path) -> Iterator[Row]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise ValueError(
            "reading parquet files needs pyarrow: pip install manzano[data]"
        ) from error
    try:
        batches = ParquetFile(path).iter_batches(batch_size=16)
        rows = (row for batch in batches for row in batch.to_pylist())
        for number, row in enumerate(rows):
            yield Row(f"{path.name} row {number}", path.parent, row)
    except (ArrowException, OSError) as error:
        raise ValueError(f"'{path}' is truncated or corrupt: {error}") from error


def _jsonl_rows(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                place = f"{path.name} line {number}"
                yield Row(place, path.parent, _json_object(line, place))


def _tar_rows(path: Path) -> Iterator[Row]:
    for found in read_fields(path):
        place, values = f"{path.name} key {found['__key__']}", {}
        for field, data in found.items():
            name, _, suffix = field.rpartition(".")
            if field == "json":
                values |= _json_object(data, place)
            elif field == "txt":
                values["instruction"] = data.decode(errors="replace")
            elif suffix in PICTURES:
                values[name] = data
        yield Row(place, path.parent, values)


def _pix2pix_rows(source: Path) -> Iterator[Row]:
    for folder, seeds in _chosen_seeds(source):
        try:
            prompt = _json_object((folder / "prompt.json").read_bytes(), "prompt.json")
        except (OSError, ValueError):
            prompt = {}  # its triplets lack an instruction, and are named for it
        for seed in seeds:
            values = {
                "before": f"{seed}_0.jpg",
                "instruction": prompt.get("edit", ""),
                "after": f"{seed}_1.jpg",
            }
            yield Row(f"{folder.name}/{seed}", folder, values, group=folder.name)


def _chosen_seeds(source: Path) -> Iterator[tuple[Path, list[str]]]:
    """The folders of InstructPix2Pix, each with the seeds of its pairs."""
    listed = source / "seeds.json"
    if listed.is_file():
        try:
            chosen = [(str(name), [str(seed) for seed in seeds]) for name, seeds in
                      json.loads(listed.read_text())]  # fmt: skip
        except (ValueError, TypeError) as error:
            raise ValueError(f"'{listed}' must list [folder, seeds] pairs: {error}") from error
        for name, seeds in chosen:
            yield source / name, seeds
        return
    for prompt in sorted(source.glob("*/prompt.json")):
        folder, metadata = prompt.parent, prompt.with_name("metadata.jsonl")
        if metadata.is_file():
            yield folder, [str(row.values.get("seed", "")) for row in _jsonl_rows(metadata)]
        else:
            yield folder, sorted(path.stem[: -len("_0")] for path in folder.glob("*_0.jpg"))


def _json_object(text: str | bytes, place: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{place} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{place} must hold an object, got {type(value).__name__}")
    return value


_READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".parquet": _parquet_rows,
    ".jsonl": _jsonl_rows,
    ".tar": _tar_rows,
}

"""Rows of parquet and arrow files, the pictures in them being read only when they are needed."""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

SUFFIXES = (".parquet", ".arrow")


def table_paths(path: Path) -> list[Path]:
    """The tables that a path names, or that lie in a folder, in the order of their names."""
    paths = sorted(path.rglob("*")) if path.is_dir() else [path]
    return [found for found in paths if found.suffix in SUFFIXES and found.is_file()]


def columns(path: Path) -> list[str]:
    """The names of a table's columns.

    Raises:
        ValueError: if it is damaged, or pyarrow is not installed.
    """
    if path.suffix == ".parquet":
        return list(_parquet(path).schema_arrow.names)
    return list(_arrow(path).schema.names)


def rows(path: Path, names: list[str]) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Row group, place in it and these columns of each row."""
    for group in range(_parquet(path).num_row_groups if path.suffix == ".parquet" else 1):
        for place, row in enumerate(_group(path, group, names).to_pylist()):
            yield group, place, row


def cell(path: Path, group: int, place: int, name: str) -> Any:
    """One value of one row."""
    return _column(path, group, name)[place].as_py()


@lru_cache(maxsize=1)  # of the group at hand: rows are asked for one after another
def _column(path: Path, group: int, name: str):
    return _group(path, group, [name]).column(name)


def _group(path: Path, group: int, names: list[str]):
    if path.suffix == ".parquet":
        return _parquet(path).read_row_group(group, columns=names)
    return _arrow(path).select(names)


@lru_cache(maxsize=1)
def _parquet(path: Path):
    pyarrow = _pyarrow(path)
    try:
        return pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path} is no parquet file that can be read: {error}") from error


@lru_cache(maxsize=1)
def _arrow(path: Path):
    """The table of an arrow stream, as `datasets` saves it, or file; its data stay on disk."""
    pyarrow = _pyarrow(path)
    try:
        source = pyarrow.memory_map(str(path))
        try:
            return pyarrow.ipc.open_stream(source).read_all()
        except pyarrow.ArrowInvalid:
            return pyarrow.ipc.open_file(source).read_all()
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path} is no arrow file that can be read: {error}") from error


def _pyarrow(path: Path) -> ModuleType:
    try:
        import pyarrow
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError as error:
        raise ValueError(f"reading {path} needs pyarrow: pip install manzano[data]") from error
    return pyarrow

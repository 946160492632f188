"""Benchmarks as the hub has them: rows of parquet files or WebDataset shards, read when asked for.

    chartqa/data/test-00000-of-00001.parquet     columns type, question, answer, image
    chartqa/test-000000.tar                      {key}.json with these columns, {key}.png

Of a parquet file two row groups are in memory at most, of shards a sample; pictures are encoded.
"""

import json
import tarfile
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

from PIL import Image

from manzano.data_mix.images import load_image
from manzano.data_mix.schema import check_end

PICTURES = ("png", "jpg", "jpeg", "webp")
"""Endings of the picture of a sample in a shard."""


class ParquetRows:
    """The rows of a parquet file; a picture is a struct of "bytes" and "path", its old name."""

    def __init__(self, path: Path):
        try:
            from pyarrow import ArrowException
            from pyarrow.parquet import ParquetFile
        except ImportError as error:
            raise ValueError(
                "reading parquet files needs pyarrow: pip install manzano[data]"
            ) from error
        self.path = path
        try:
            self.file = ParquetFile(path)
        except (ArrowException, OSError) as error:
            raise ValueError(f"{path} is no parquet file, or a damaged one: {error}") from error
        self.columns = self.file.schema_arrow.names
        groups = range(self.file.metadata.num_row_groups)
        self.ends = list(accumulate(self.file.metadata.row_group(g).num_rows for g in groups))
        self.group = lru_cache(maxsize=2)(self.file.read_row_group)

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def row(self, index: int) -> dict[str, Any]:
        """All columns; raises ValueError if the row cannot be read."""
        group = bisect_right(self.ends, index)
        begin = self.ends[group - 1] if group else 0
        try:
            return self.group(group).slice(index - begin, 1).to_pylist()[0]
        except OSError as error:
            raise ValueError(f"row {index} of {self.path} cannot be read: {error}") from error


class ShardRows:
    """The samples of a WebDataset shard: a JSON object of columns, and a picture beside it."""

    def __init__(self, path: Path):
        self.path = path
        self.samples: dict[str, dict[str, tarfile.TarInfo]] = {}
        try:
            with tarfile.open(path) as tar:
                for member in filter(tarfile.TarInfo.isfile, tar):
                    folder, _, name = member.name.rpartition("/")
                    stem, _, ending = name.partition(".")
                    self.samples.setdefault(f"{folder}/{stem}", {})[ending] = member
                check_end(tar)
        except (tarfile.TarError, OSError) as error:
            raise ValueError(f"{path} is no tar file, or a damaged one: {error}") from error
        self.keys = list(self.samples)
        self.columns = self.first_columns()

    def __len__(self) -> int:
        return len(self.keys)

    def row(self, index: int) -> dict[str, Any]:
        """The JSON's columns and the image; raises ValueError if they cannot be read."""
        key = self.keys[index]
        files = self.samples[key]
        try:
            columns = json.loads(self.read(files["json"]))
            json.dumps(columns, ensure_ascii=False).encode()  # refuses halves of characters
        except KeyError:
            raise ValueError(f"sample {key} of {self.path} has no .json") from None
        except ValueError as error:
            raise ValueError(f"the .json of sample {key} of {self.path}: {error}") from error
        if not isinstance(columns, dict):
            raise ValueError(f"the .json of sample {key} of {self.path} is no object")
        pictures = [name for name in files if name.rpartition(".")[2].lower() in PICTURES]
        return columns | {"image": self.read(files[pictures[0]]) if pictures else None}

    def read(self, member: tarfile.TarInfo) -> bytes:
        try:
            with tarfile.open(self.path) as tar:
                file = tar.extractfile(member)
                return file.read() if file else b""
        except (tarfile.TarError, OSError) as error:
            raise ValueError(f"{member.name} in {self.path} is damaged: {error}") from error

    def first_columns(self) -> list[str]:
        """Those of the first sample that can be read."""
        for index in range(len(self)):
            with suppress(ValueError):
                return list(self.row(index))
        return []


RowFile = ParquetRows | ShardRows


class HubRows:
    """The rows of one split of one benchmark, in the order of its files.

    Args:
        folder: a dataset as it was downloaded, or any folder with such files.
        split: test, validation: how the names of its files begin.
        columns: that must be there, beside the image.

    Raises:
        ValueError: if there is no such file or more than one set of them, or a column is missing.
    """

    def __init__(self, folder: Path, split: str, columns: Sequence[str]):
        self.paths = find_files(folder, split)
        kind = ParquetRows if self.paths[0].suffix == ".parquet" else ShardRows
        self.files: list[RowFile] = [kind(path) for path in self.paths]
        self.ends = list(accumulate(len(file) for file in self.files))
        if not len(self):
            raise ValueError(f"there are no samples in {', '.join(map(str, self.paths))}")
        for file in self.files:
            if missing := [c for c in (*columns, "image") if len(file) and c not in file.columns]:
                raise ValueError(
                    f"{file.path} lacks the columns {', '.join(missing)}; it has "
                    f"{', '.join(file.columns)}. Is it the data of another benchmark?"
                )

    def __len__(self) -> int:
        return self.ends[-1]

    def row(self, index: int) -> dict[str, Any]:
        """All columns of a row; raises ValueError where it cannot be read."""
        file, own = self.place(index)
        return file.row(own)

    def place(self, index: int) -> tuple[RowFile, int]:
        """The file a row is in, and the row's number there."""
        number = bisect_right(self.ends, index)
        return self.files[number], index - (self.ends[number - 1] if number else 0)

    def name(self, index: int) -> str:
        """Where a row is, for people: file and row."""
        file, own = self.place(index)
        return f"{file.path.name}:{own}"

    def picture(self, index: int) -> Image.Image:
        """The picture of a row, RGB.

        Raises:
            ValueError: if it is missing or cannot be read.
        """
        return picture(self.row(index))


def find_files(folder: Path, split: str) -> list[Path]:
    """The parquet files or shards of a split, in order, wherever they lie in `folder`."""
    names = (f"{split}.parquet", f"{split}-*.parquet", f"{split}.tar", f"{split}-*.tar")
    found = sorted({path for name in names for path in folder.rglob(name)})
    if not found:
        there = sorted(p.name for p in folder.rglob("*") if p.suffix in (".parquet", ".tar"))
        raise ValueError(
            f"{folder} has no {split}-*.parquet and no {split}-*.tar; "
            f"it has {', '.join(there[:5]) or 'no parquet and no tar files'}"
        )
    sets = sorted({str(path.parent / f"*{path.suffix}") for path in found})
    if len(sets) > 1:
        raise ValueError(f"{folder} has the split {split} more than once: {', '.join(sets)}")
    return found


def picture(row: Mapping[str, Any]) -> Image.Image:
    """The picture of a row: bytes, or a struct of bytes and a path. The path alone will not do: the
    hash of the data would know nothing of such a picture."""
    source = row.get("image")
    if isinstance(source, Mapping):
        if source.get("path") and not source.get("bytes"):
            raise ValueError(
                f"the picture is not in the file, which has but its path, {source['path']!r:.80}: "
                "write its bytes into the file"
            )
        source = source.get("bytes")
    if not source:
        raise ValueError("there is no picture")
    if not isinstance(source, bytes):
        raise ValueError(f"the picture is a {type(source).__name__}: give the bytes of a file")
    return load_image(source)


def strings(value: Any, what: str) -> list[str]:
    """Reference answers as texts: of one answer or of several, words or numbers.

    Raises:
        ValueError: for no answer at all, and for what is neither.
    """
    several = value.tolist() if hasattr(value, "tolist") else value  # of numpy
    several = list(several) if isinstance(several, list | tuple) else [several]
    bad = [
        item
        for item in several
        if isinstance(item, bool) or not isinstance(item, str | int | float)
    ]
    if bad or not several:
        got = f"a {type(bad[0]).__name__} ({bad[0]!r:.40})" if bad else "an empty list"
        raise ValueError(f"{what} must hold one text or several, got {got}")
    return [str(item) for item in several]

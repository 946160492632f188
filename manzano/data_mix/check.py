"""Looks for everything that is wrong with a folder of shards: `manzano data check DIR`."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from megatron.energon.flavors.webdataset.config import INFO_JSON_FILENAME, MAIN_FOLDER_NAME

from manzano.data_mix.prepare import is_prepared
from manzano.data_mix.schema import decode_sample, read_fields, sample_faults

SPLITS = ("train", "test")


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing that is wrong, and where."""

    shard: str
    """Path of the shard, or of the folder where the fault is no single shard's."""
    key: str
    """Key of the sample, "" where the fault is no single sample's."""
    fault: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.shard, self.key, self.fault) if part)


def check(
    directory: str | Path, *, on_shard: Callable[[int, int], None] | None = None
) -> list[Fault]:
    """Reads every sample of a source's folder, or of all sources in a folder, and lists all faults.

    Args:
        directory: A folder with shards, or one with such folders.
        on_shard: Called after each shard with how many are done and how many there are.
    """
    directory = Path(directory)
    if not directory.is_dir():
        return [Fault(shard=str(directory), key="", fault="there is no such folder")]
    found = (f for f in sorted(directory.iterdir()) if not f.name.startswith("."))
    sources = [f for f in (directory, *found) if _is_source(f)]
    if not sources:
        return [Fault(shard=str(directory), key="", fault="holds no train-*.tar and no test-*.tar")]
    shards = {source: [s for split in SPLITS for s in _shards(source, split)] for source in sources}
    total, done = sum(map(len, shards.values())), 0
    faults = []
    for source in sources:
        folder = _FolderCheck(source)
        for shard in shards[source]:
            folder.check_shard(shard)
            done += 1
            if on_shard is not None:
                on_shard(done, total)
        folder.check_whole()
        faults += folder.faults
    return faults


def _is_source(folder: Path) -> bool:
    return folder.is_dir() and (
        (folder / MAIN_FOLDER_NAME).is_dir() or any(_shards(folder, split) for split in SPLITS)
    )


def _shards(folder: Path, split: str) -> list[Path]:
    return sorted(folder.glob(f"{split}-*.tar"))


class _FolderCheck:
    """The faults of one source's folder; keys and concepts are compared between its shards."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.faults: list[Fault] = []
        self.shard_of_key: dict[str, str] = {}
        self.counts: dict[str, int] = {}
        self.concepts: dict[str, dict[str, tuple[str, str]]] = {split: {} for split in SPLITS}

    def add(self, fault: str, shard: Path | str = "", key: str = "") -> None:
        self.faults.append(Fault(shard=str(shard or self.folder), key=key, fault=fault))

    def check_shard(self, shard: Path) -> None:
        count = 0
        try:
            for fields in read_fields(shard):
                count += 1
                self._check_sample(shard, fields)
        except ValueError as error:
            self.add(str(error), shard)
        else:
            if count == 0:
                self.add("holds no samples", shard)
        self.counts[shard.name] = count

    def _check_sample(self, shard: Path, fields: dict) -> None:
        key = fields["__key__"]
        if key in self.shard_of_key:
            self.add(f"key occurs twice, also in {self.shard_of_key[key]}", shard, key)
        self.shard_of_key[key] = shard.name
        try:
            sample = decode_sample(fields)
        except ValueError as error:
            self.add(str(error), shard, key)
            return
        for fault in sample_faults(sample):
            self.add(fault, shard, key)
        self.concepts[shard.name.split("-")[0]].setdefault(sample.concept, (str(shard), key))

    def check_whole(self) -> None:
        """What only shows when all shards have been read: splits, leaks, the index."""
        for split in SPLITS:
            if not _shards(self.folder, split):
                self.add(f"there is no {split}-*.tar")
        for concept in sorted(self.concepts["train"].keys() & self.concepts["test"].keys()):
            shard, key = self.concepts["test"][concept]
            self.add(f"concept '{concept}' is in the train split too", shard, key)
        if not is_prepared(self.folder):
            self.add(f"there is no {MAIN_FOLDER_NAME} index: prepare the folder")
            return
        indexed = self._indexed_counts()
        for name in sorted(indexed.keys() | self.counts.keys()):
            if name not in self.counts:
                self.add("is in the index but missing", self.folder / name)
            elif indexed.get(name) != self.counts[name]:
                self.add(
                    f"has {self.counts[name]} samples, {indexed.get(name, 'none')} by the index: "
                    "prepare the folder again",
                    self.folder / name,
                )

    def _indexed_counts(self) -> dict[str, int]:
        try:
            info = json.loads((self.folder / MAIN_FOLDER_NAME / INFO_JSON_FILENAME).read_text())
            return dict(info["shard_counts"])
        except (OSError, ValueError, KeyError) as error:
            self.add(f"the {MAIN_FOLDER_NAME} index cannot be read: prepare the folder ({error})")
            return {}

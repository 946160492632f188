"""Prepares a folder of shards for the loader: an index beside the tar files, which stay."""

import contextlib
import shutil
from pathlib import Path

import yaml
from megatron.energon.flavors.webdataset import BaseWebdatasetFactory
from megatron.energon.flavors.webdataset.config import MAIN_FOLDER_NAME

from manzano.data_mix.schema import shard_paths

_DATASET = {"__module__": "megatron.energon", "__class__": "CrudeWebdataset"}


def prepare(directory: str | Path) -> None:
    """Writes `.nv-meta/` and `*.tar.idx` for `train-*.tar` and `test-*.tar`, replacing old ones.

    The training split is `train`; `val` and `test` are both the test shards. It is what `energon
    prepare` does, without its questions.

    Raises:
        ValueError: A split has no shards.
    """
    directory = Path(directory)
    shards = [path.name for split in ("train", "test") for path in shard_paths(directory, split)]
    shutil.rmtree(directory / MAIN_FOLDER_NAME, ignore_errors=True)
    with contextlib.redirect_stdout(None):  # energon prints while it writes the index
        BaseWebdatasetFactory.prepare_dataset(
            directory,
            shards,
            split_parts_patterns=[
                ("train", r"train-.*\.tar"),
                ("val", r"test-.*\.tar"),
                ("test", r"test-.*\.tar"),
            ],
            shuffle_seed=None,
            workers=1,
        )
    (directory / MAIN_FOLDER_NAME / "dataset.yaml").write_text(yaml.safe_dump(_DATASET))


def is_prepared(directory: str | Path) -> bool:
    """Whether the folder has the index that the loader needs."""
    meta = Path(directory) / MAIN_FOLDER_NAME
    names = ("dataset.yaml", "split.yaml", "index.sqlite")
    return all((meta / name).is_file() for name in names)

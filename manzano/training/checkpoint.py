"""Checkpoints: sharded state that loads on any number of ranks, and each rank's place in the data.

    checkpoints/step-000123/
        state/            torch.distributed.checkpoint: weights, optimizer, moving average
        rank-00000.pt     data position, random generators and open metrics of one rank
        manifest.json     written last: step, ranks, configuration and the size of every file

A checkpoint is written under another name and renamed when it is whole, so a folder without `.tmp`
is a whole one unless the disk lost something; the manifest finds that out. Frozen parameters are
not saved.
"""

import io
import json
import logging
import os
import pickle
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.checkpoint.stateful import Stateful
from torch.optim import Optimizer

from manzano.training.config import HARMLESS, differences
from manzano.training.distributed import World
from manzano.training.ema import MovingAverage

logger = logging.getLogger(__name__)
OPTIONS = StateDictOptions(ignore_frozen_params=True, strict=False)  # dcp.load itself is strict


@dataclass
class TrainState(Stateful):
    """What training changes, in the form that torch.distributed.checkpoint saves and loads."""

    model: nn.Module
    optimizer: Optimizer
    ema: MovingAverage | None

    def state_dict(self) -> dict[str, Any]:
        """Tensors by full parameter name, sharded as they are."""
        model, optimizer = get_state_dict(self.model, self.optimizer, options=OPTIONS)
        return {
            "model": model,
            "optimizer": optimizer,
            "ema": self.ema.average if self.ema else {},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over loaded tensors; the moving average was loaded in place."""
        set_state_dict(
            self.model,
            self.optimizer,
            model_state_dict=state_dict["model"],
            optim_state_dict=state_dict["optimizer"],
            options=OPTIONS,
        )


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(
        self,
        folder: Path,
        world: World,
        *,
        config: dict[str, Any],
        keep: int,
        restart_data: bool = False,
        complete: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict,
    ):
        """`config` is the run's `config.to_dict`; a checkpoint of another one is refused, once
        `complete` has given that of older code the keys that are new."""
        self.folder = folder
        self.world = world
        self.config = config
        self.keep = keep
        self.restart_data = restart_data
        self.complete = complete

    @property
    def last(self) -> Path | None:
        """The newest whole checkpoint."""
        return next(iter(reversed(self.whole())), None)

    def whole(self) -> list[Path]:
        """Whole checkpoints, oldest first."""
        found = [path.parent for path in self.folder.glob("step-*/manifest.json")]
        return sorted((path for path in found if path.suffix != ".tmp"), key=_step)

    def save(self, step: int, state: TrainState, local: Mapping[str, Any]) -> Path:
        """Write the state after `step` optimizer steps, then delete all but the newest `keep`.

        Collective. `local` is this rank's own picklable state. Raises OSError, with advice, where
        the checkpoint cannot be written.
        """
        path = self.folder / f"step-{step:06d}"
        if path in self.whole():
            return path
        partial = path.with_suffix(".tmp")
        try:
            if self.world.rank == 0:
                shutil.rmtree(partial, ignore_errors=True)
                shutil.rmtree(path, ignore_errors=True)  # has no manifest
                partial.mkdir(parents=True)
            self.world.barrier()
            with quiet():
                writer = FileSystemWriter(partial / "state")
                save({"train": state}, storage_writer=writer, no_dist=self.world.size == 1)
            buffer = io.BytesIO()  # torch.save to a file hides the cause of a failure
            torch.save(dict(local), buffer)
            (partial / f"rank-{self.world.rank:05d}.pt").write_bytes(buffer.getbuffer())
            self.world.barrier()
            if self.world.rank == 0:
                self._finish(partial, path, step)
        except (OSError, CheckpointException) as error:
            raise self._cannot_write(path, error) from error
        self.world.barrier()
        return path

    def resume(self, state: TrainState) -> tuple[int, dict[str, Any] | None]:
        """Load the newest whole checkpoint: its step and this rank's own state. Collective.

        The step is 0 where there is none. The rank's state is None where the data is to start
        afresh on another number of ranks. Raises ValueError for a checkpoint of another
        configuration or number of ranks, RuntimeError for a damaged one.
        """
        path = self.last
        if path is None:
            return 0, None
        manifest = self.manifest(path)
        self._require_same_config(path, manifest)
        same_ranks = manifest["ranks"] == self.world.size
        if not same_ranks and not self.restart_data:
            raise ValueError(
                f"{path} was written by {manifest['ranks']} ranks and this run has "
                f"{self.world.size}: weights and optimizer can be resharded, the place in the data "
                "cannot. Use the same number of ranks, or --loop.restart_data=true to draw the "
                "data afresh."
            )
        try:
            with quiet():
                reader = FileSystemReader(path / "state")
                load({"train": state}, storage_reader=reader, no_dist=self.world.size == 1)
        except CheckpointException as error:
            raise self._damaged(path, str(error).strip().splitlines()[-1]) from error
        return manifest["step"], self._read_local(path) if same_ranks else None

    def _finish(self, partial: Path, path: Path, step: int) -> None:
        files = {
            str(file.relative_to(partial)): file.stat().st_size
            for file in sorted(partial.rglob("*"))
            if file.is_file()
        }
        manifest = {
            "step": step,
            "ranks": self.world.size,
            "torch": torch.__version__,
            "files": files,
            "config": self.config,
        }
        (partial / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        os.replace(partial, path)
        for old in self.whole()[: -self.keep]:
            shutil.rmtree(old)

    def _read_local(self, path: Path) -> dict[str, Any]:
        file = path / f"rank-{self.world.rank:05d}.pt"
        try:
            return torch.load(file, map_location="cpu", weights_only=False)
        except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
            raise self._damaged(path, f"{file.name}: {error}") from error

    def manifest(self, path: Path) -> dict[str, Any]:
        """What a checkpoint says of itself. Raises RuntimeError where a file is not whole."""
        try:
            manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise self._damaged(path, f"manifest.json: {error}") from error
        for name, size in manifest["files"].items():
            file = path / name
            found = file.stat().st_size if file.exists() else 0
            if found != size:
                raise self._damaged(path, f"{name} has {found} bytes instead of {size}")
        return manifest

    def _require_same_config(self, path: Path, manifest: Mapping[str, Any]) -> None:
        allowed = HARMLESS | ({"loop.accumulate"} if self.restart_data else set())
        changed = differences(self.complete(manifest["config"]), self.config)
        refused = {key: values for key, values in changed.items() if key not in allowed}
        if refused:
            listed = ", ".join(
                f"{key} (was {old}, is {new})" for key, (old, new) in refused.items()
            )
            raise ValueError(
                f"{path} belongs to a run with another configuration: {listed}. Give loop.output "
                "another folder for a new run, or take these changes back to go on with this one."
            )
        if "loop.max_steps" in changed:
            logger.warning(
                "max_steps is now %s: the schedule is stretched to it.",
                changed["loop.max_steps"][1],
            )

    def _damaged(self, path: Path, what: str) -> RuntimeError:
        others = [other for other in self.whole() if other != path]
        then = f"go on from {others[-1]}" if others else "start the run afresh"
        return RuntimeError(
            f"the checkpoint {path} is damaged ({what}). Delete that folder to {then}."
        )

    def _cannot_write(self, path: Path, error: OSError | CheckpointException) -> OSError:
        cause: BaseException = error
        if isinstance(error, CheckpointException):
            cause = next(iter(error.failures.values()))[0]
        return OSError(
            f"cannot write the checkpoint {path}: {cause}. Make room or fix the permissions, then "
            f"give the same command again; it goes on from {self.last or 'the start'}."
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warning that a single process is a single process."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def _step(path: Path) -> int:
    return int(path.name.partition("-")[2])

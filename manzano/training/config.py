"""What every training stage can be told: frozen dataclasses, and how two of them are compared.

A run folder keeps its resolved configuration as `config.yaml`; given back with `--config` it yields
an equal object. A checkpoint keeps it too, so that a run cannot be continued as another one.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml

from manzano.training.optimizer import OptimConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How long a stage runs, on what, and what it leaves in its run folder."""

    output: str
    """Run folder: config.yaml, metrics.jsonl, checkpoints/, previews/ and, at the end, export/."""
    max_steps: int
    """Optimizer steps of the whole run."""
    seed: int = 0
    """Seed of the initial weights and of everything drawn at random in training."""
    accumulate: int = 1
    """Micro-batches per rank in one optimizer step."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to train; auto takes cuda if there is one, else the cpu."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: matrix products in bfloat16, weights and optimizer in float32. Slow on most CPUs."""
    compile: bool = False
    """torch.compile the blocks of the model. Pays on a GPU only."""
    recompute: bool = False
    """Compute the activations of blocks a second time in the backward pass instead of keeping them:
    less memory for about a third more time."""
    threads: int = 0
    """CPU threads per rank; 0 leaves torch's own choice (torchrun sets OMP_NUM_THREADS=1)."""
    checkpoint_every: int = 1000
    """Steps between checkpoints; there is always one at the end and at SIGTERM or SIGINT."""
    keep_checkpoints: int = 2
    """How many of the newest checkpoints stay on disk."""
    log_every: int = 10
    """Steps averaged in one line of metrics.jsonl."""
    preview_every: int = 0
    """Steps between previews; 0 means none."""
    validate_every: int = 0
    """Steps between measurements on held-out data, which the last step has too; a multiple of
    log_every. 0 means none. Of the stages, llm has them (its key validation)."""
    tensorboard: bool = False
    """Also write TensorBoard events to the run folder."""
    guard: bool = True
    """Stop in the first step where a loss is far above what a model that knows nothing gives."""
    restart_data: bool = False
    """Going on with another number of ranks: draw the data afresh. accumulate may then change."""

    def __post_init__(self) -> None:
        for name in (
            "max_steps",
            "accumulate",
            "checkpoint_every",
            "keep_checkpoints",
            "log_every",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"loop.{name} is {getattr(self, name)}; it must be at least 1.")
        for name in ("threads", "preview_every", "validate_every", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"loop.{name} is {getattr(self, name)}; it must not be negative.")
        if self.validate_every % self.log_every:
            raise ValueError(
                f"loop.validate_every is {self.validate_every}; it must be a multiple of "
                f"loop.log_every, {self.log_every}: what is measured stands in the same line."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What every stage has. A stage's own configuration inherits this and adds model and data."""

    loop: LoopConfig
    optim: OptimConfig = OptimConfig()


HARMLESS = {
    "loop.output",
    "loop.max_steps",
    "loop.device",
    "loop.compile",
    "loop.recompute",
    "loop.threads",
    "loop.checkpoint_every",
    "loop.keep_checkpoints",
    "loop.log_every",
    "loop.preview_every",
    "loop.validate_every",
    "loop.tensorboard",
    "loop.restart_data",
    "loop.guard",
    "validation.data",
    "validation.tasks",
    "validation.limit",
    "validation.batch_size",
}
"""Keys that may change when a run goes on from a checkpoint: none alters what one step computes."""


def to_dict(config: Any) -> dict[str, Any]:
    """The configuration as nested dicts of plain YAML / JSON values (tuples become lists)."""
    return _plain(config)


def save(config: Any, path: Path) -> None:
    """Write the resolved configuration as YAML that `command_line.parse` reads back."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(to_dict(config), sort_keys=False), encoding="utf-8")


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted keys whose values differ between two `to_dict` results, each with (old, new)."""
    before, after = dict(_flatten(old)), dict(_flatten(new))
    return {
        key: (before.get(key), after.get(key))
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    }


def with_defaults(old: Mapping[str, Any], config: Any) -> dict[str, Any]:
    """A `to_dict` result of older code, completed by the defaults of the keys that it did not have:
    what is new is, by default, as it was."""
    completed = dict(old)
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in old:
            if dataclasses.is_dataclass(value) and isinstance(old[field.name], Mapping):
                completed[field.name] = with_defaults(old[field.name], value)
        elif field.default is not dataclasses.MISSING:
            completed[field.name] = _plain(field.default)
        elif field.default_factory is not dataclasses.MISSING:
            completed[field.name] = _plain(field.default_factory())
    return completed


def _plain(value: Any) -> Any:
    """A value of a configuration as it stands in `to_dict`."""
    return json.loads(json.dumps(value, default=dataclasses.asdict))


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value

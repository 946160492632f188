"""A tiny real stage: regression with dropout, a frozen part and rows without a target."""

import os
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_model
from torch import Tensor, nn

from manzano.training import run, stages
from manzano.training.config import TrainConfig

WIDTH = 8


@dataclass(frozen=True, kw_only=True)
class Config(TrainConfig):
    """The toy's configuration."""

    batch_size: int = 4
    """Rows in a micro-batch."""
    dropout: float = 0.1
    """Makes training draw from torch's generator."""
    ceiling: float = 1e6
    """The largest plausible first value of `squared`."""
    poison_step: int = -1
    """The batch (counted from 0) whose inputs are not finite."""


class Block(nn.Module):
    """Two layers and a residual."""

    def __init__(self, dropout: float):
        super().__init__()
        self.inner = nn.Linear(WIDTH, WIDTH)
        self.outer = nn.Linear(WIDTH, WIDTH)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.dropout(self.outer(torch.relu(self.inner(x))))


class Model(nn.Module):
    """A frozen input layer, two blocks and a head; one parameter is never used."""

    _no_split_modules = ["Block"]

    def __init__(self, dropout: float):
        super().__init__()
        self.frozen = nn.Linear(WIDTH, WIDTH).requires_grad_(False)
        self.blocks = nn.ModuleList([Block(dropout), Block(dropout)])
        self.head = nn.Linear(WIDTH, 1)
        self.unused = nn.Parameter(torch.ones(3, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.frozen(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)[..., 0]


class Loader:
    """Rows `rank, rank + world_size, ...` of an endless stream of seeded rows."""

    def __init__(self, batch_size: int, rank: int, world_size: int, poison: int):
        self.batch_size, self.rank, self.world_size, self.poison = (
            batch_size,
            rank,
            world_size,
            poison,
        )
        self.position = 0

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        while True:
            start = self.position * self.batch_size * self.world_size + self.rank * self.batch_size
            rows = [row(start + i) for i in range(self.batch_size)]
            x, y = torch.stack([x for x, _ in rows]), torch.stack([y for _, y in rows])
            if self.position == self.poison:
                x = x * float("nan")
            self.position += 1
            yield {"x": x, "y": y, "index": torch.arange(start, start + self.batch_size)}

    def save_state_rank(self) -> int:
        return self.position

    def restore_state_rank(self, state: int) -> None:
        self.position = state


def row(index: int) -> tuple[Tensor, Tensor]:
    """Row `index`; every third has no target."""
    generator = torch.Generator().manual_seed(index)
    x = torch.randn(WIDTH, generator=generator)
    return x, torch.where(torch.tensor(index % 3 == 0), torch.nan, x.sum())


class Stage:
    """Masked regression; the mean is over the rows that have a target."""

    def __init__(self, config: Config):
        self.config = config
        self.model = Model(config.dropout)
        self.seen: list[int] = []

    def batches(self, *, rank: int, world_size: int) -> Loader:
        return Loader(self.config.batch_size, rank, world_size, self.config.poison_step)

    def targets(self, batch: dict[str, Tensor]) -> dict[str, int]:
        self.seen += batch["index"].tolist()
        return {"rows": int(batch["y"].isfinite().sum()), "samples": len(batch["y"])}

    def loss(
        self, batch: dict[str, Tensor], totals: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Any]]:
        noise = (
            0.01 * random.random() + 0.01 * float(np.random.rand()) if self.config.dropout else 0.0
        )
        known = batch["y"].isfinite()
        error = self.model(batch["x"]).float() + noise - batch["y"].nan_to_num()
        loss = (error.square() * known).sum() / totals["rows"]
        return loss, {"squared": loss.detach()}

    def ceilings(self) -> dict[str, float]:
        return {"squared": self.config.ceiling}

    def preview(self, directory: Path, step: int) -> None:
        (directory / "value.txt").write_text(str(self.value()))
        self.write_kind(directory)

    def validate(self) -> dict[str, float]:
        return {"validation/toy": self.value()}

    def value(self) -> float:
        torch.rand(7)
        return float(self.model(torch.ones(WIDTH, device=self.model.head.weight.device)))

    def export(self, directory: Path) -> None:
        save_model(self.model, str(directory / "model.safetensors"))
        self.write_kind(directory)

    def write_kind(self, directory: Path) -> None:
        """What transformers looks at in `save_pretrained` and `generate` to see a sharded model."""
        sharded = getattr(self.model, "_is_fsdp_managed_module", False)
        (directory / "kind.txt").write_text(f"{type(self.model).__name__} {sharded}")


def train_toy(arguments: list[str]) -> None:
    """`train.py toy ARGUMENTS`."""
    stages.STAGES, stages.load_stage = ("toy",), lambda name: (Config, Stage)
    run("toy", arguments)


def child(arguments: list[str], environment: dict[str, str], errors: Path) -> None:
    """Train the toy as `train.py` would, with what goes to stderr in a file."""
    os.environ.update(environment)
    with errors.open("w") as file:
        os.dup2(file.fileno(), 2)
    sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    train_toy(arguments)

"""The figures of the steps since the last log line.

They stay on the device until a line is written or a checkpoint is due, so that a step does not wait
for the device. Every figure of every step is kept, so the first one that is not finite can be named
exactly.
"""

import math
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from manzano.training.distributed import World

SAVED = ("first_step", "shared_names", "equal_names", "counts", "waited", "earlier")


class Window:
    """Figures of consecutive steps: shares to be summed over ranks, and those equal on all
    ranks."""

    def __init__(self, world: World):
        self.world = world
        self.shared_names: list[str] = []
        self.equal_names: list[str] = []
        self.earlier = 0.0
        self._open()

    def reset(self) -> None:
        """Begin anew after a log line."""
        self.earlier += self.seconds
        self._open()

    def _open(self) -> None:
        self.first_step = 0
        self.rows: list[Tensor] = []
        self.counts: Counter[str] = Counter()
        self.waited = 0.0
        self.seconds_before = 0.0
        self.start()

    def start(self) -> None:
        """Time counts from here on; what an interrupted run spent in this window is kept."""
        self.started = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Time covered by the window, without that between a kill and going on."""
        return self.seconds_before + time.perf_counter() - self.started

    def add(
        self,
        step: int,
        shares: Mapping[str, Tensor],
        equals: Mapping[str, Tensor],
        counts: Mapping[str, int],
    ) -> None:
        """Take in the scalars of one step, and what it processed over all ranks."""
        if not self.rows:
            self.first_step = step
            self.shared_names, self.equal_names = list(shares), list(equals)
        self.rows.append(torch.stack([*shares.values(), *equals.values()]).float())
        self.counts.update(counts)

    def means(self) -> dict[str, float]:
        """Mean of every figure over the window's steps. Collective.

        Raises FloatingPointError naming the first step and figure that is not finite.
        """
        if not self.rows:
            return {}
        table = torch.stack(self.rows)  # (steps, figures)
        if self.world.size > 1:
            shares = table[:, : len(self.shared_names)].contiguous()
            dist.all_reduce(shares)
            table = torch.cat([shares, table[:, len(self.shared_names) :]], dim=1)
        names = self.shared_names + self.equal_names
        for offset, row in enumerate(table.tolist()):
            for name, value in zip(names, row, strict=True):
                if not math.isfinite(value):
                    raise FloatingPointError(
                        f"{name} is {value} in step {self.first_step + offset}"
                    )
        return dict(zip(names, table.mean(dim=0).tolist(), strict=True))

    def rates(self, steps_left: int) -> dict[str, float]:
        """What was processed per second, the part of the time spent waiting for data, and the time
        of the run."""
        seconds = max(self.seconds, 1e-9)
        rates = {f"{name}_per_second": number / seconds for name, number in self.counts.items()}
        return {
            **rates,
            "data_wait": self.waited / seconds,
            "seconds_elapsed": self.earlier + seconds,
            "seconds_left": steps_left * seconds / len(self.rows),
        }

    def state_dict(self) -> dict[str, Any]:
        """The window of this rank, to go on with it after a restart."""
        state = {name: getattr(self, name) for name in SAVED}
        return {**state, "rows": [row.cpu() for row in self.rows], "seconds_before": self.seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with a saved window."""
        for name in (*SAVED, "seconds_before"):
            setattr(self, name, state[name])
        self.rows = [row.to(self.world.device) for row in state["rows"]]

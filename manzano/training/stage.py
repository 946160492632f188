"""What a training stage supplies; the loop (`manzano.training.loop`) does the rest.

A stage is built from its configuration alone, `StageClass(config)`, on the CPU and identically on
every rank. The loop moves `model` to the device, shards it and trains every parameter that requires
gradients.
"""

from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn


class Loader(Protocol):
    """An endless, exactly resumable stream of batches: megatron-energon's savable loader."""

    def __iter__(self) -> Generator[Any, None, None]: ...

    def save_state_rank(self) -> Any:
        """This rank's position in the data after the batches handed out so far; picklable."""
        ...

    def restore_state_rank(self, state: Any) -> None:
        """Go to a saved position; called before the first `iter`."""
        ...


class Stage(Protocol):
    """One training stage: a model, its data and its loss."""

    model: nn.Module
    """The one root module. Frozen submodules may be inside, with requires_grad=False; they are kept
    in eval mode and are neither sharded nor checkpointed. Classes named in `_no_split_modules` (of
    the root or of a submodule) are the units of sharding and compilation.
    `trained_rows` of the root, where it is set, names tables of which only some rows train
    (`manzano.training.rows`)."""

    def batches(self, *, rank: int, world_size: int) -> Loader:
        """This rank's stream of micro-batches: objects with `.to(device)`, or dicts of tensors."""
        ...

    def targets(self, batch: Any) -> dict[str, int]:
        """How many targets of each loss term are in a micro-batch (still on the CPU), e.g. {"text":
        312, "image": 90}.

        The keys are the same for every batch. Other things worth counting may be among them
        ("samples", "tokens"): a rate per second is logged for each.
        """
        ...

    def loss(self, batch: Any, totals: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The micro-batch's share of the loss of one optimizer step, and of the metrics to log.

        Each is a scalar: a sum over this micro-batch's targets divided by `totals`, the counts
        (float32 scalars, at least 1) of all micro-batches of all ranks. So shares add up to a mean
        over the global batch. The keys of the metrics are the same for every batch: a term without
        targets gives 0. Metrics carry no gradient.

        Call `self.model(...)` as a whole, and let the same parameters take part on every rank:
        sharded parameters are gathered by forward hooks, in which all ranks must join.
        """
        ...

    def ceilings(self) -> dict[str, float]:
        """The largest plausible value of metrics in the first step of a run, by name: what a model
        that knows nothing gives, with head room (`manzano.training.guard`)."""
        ...

    def preview(self, directory: Path, step: int) -> None:
        """Write sample pictures or answers. Runs on rank 0 alone, in eval mode, without
        gradients."""
        ...

    def export(self, directory: Path) -> None:
        """Write the finished artefact that the next stage reads. Runs on rank 0 alone with whole
        fp32 weights."""
        ...


@runtime_checkable
class Validated(Protocol):
    """A stage that can also be measured on held-out data while it trains."""

    def validate(self) -> dict[str, float]:
        """Figures to log beside the losses, named "validation/...". Runs on rank 0 alone, in eval
        mode, without gradients."""
        ...


def to_device(batch: Any, device: torch.device) -> Any:
    """A batch on `device`, by its own `.to` or, for a dict, tensor by tensor."""
    if isinstance(batch, Mapping):
        return {
            key: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
            for key, value in batch.items()
        }
    return batch.to(device)

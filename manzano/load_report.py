"""What became of a checkpoint's weights: taken, resized, left behind, and what had to be made new.

Loading is strict. A weight that is missing or left over without being expected is an error here,
never a warning that scrolls by: half-loaded weights train, only worse.
"""

import logging
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from manzano.weights import looks_like

logger = logging.getLogger(__name__)

Shapes = tuple[tuple[int, ...], tuple[int, ...]]
"""A shape in the checkpoint and the shape in the model."""


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """The outcome of loading one checkpoint into one model."""

    part: str
    """What was loaded, e.g. ViT."""
    source: str
    """Path or name of the checkpoint."""
    taken: int
    """Tensors of the model that come from the checkpoint."""
    parameters: int
    """Numbers in them, after resizing."""
    resized: Mapping[str, Shapes] = field(default_factory=dict)
    """Tensors that were resampled, cut or extended."""
    new: tuple[str, ...] = ()
    """What the checkpoint does not have and the model needs."""
    dropped: tuple[str, ...] = ()
    """What the checkpoint has and the model does not need."""

    def __str__(self) -> str:
        lines = [
            f"{self.part} from {self.source}: {self.taken} tensors taken, "
            f"{self.parameters / 1e6:.2f}M parameters"
        ]
        lines += [f"  resized {name}: {old} -> {new}" for name, (old, new) in self.resized.items()]
        lines += [
            f"  {verb} {_some(names)}"
            for verb, names in (("new", self.new), ("dropped", self.dropped))
            if names
        ]
        return "\n".join(lines)

    def log(self) -> None:
        """Says it once, not once a rank."""
        if os.environ.get("RANK", "0") == "0":
            logger.info("%s", self)


def load_whole(kind, folder: Path, **kwargs):
    """A model of that class from a folder that holds every one of its weights.

    Raises:
        ValueError: if any is missing, left over or of another shape.
    """
    model, info = kind.from_pretrained(
        folder, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs
    )
    strict_report(kind.__name__, str(folder), model, info)
    return model


def strict_report(
    part: str,
    source: str,
    model: nn.Module,
    info: Mapping[str, Collection],
    *,
    resized: Mapping[str, Shapes] | None = None,
    new: Collection[str] = (),
    dropped: Collection[str] = (),
) -> LoadReport:
    """The report of a checkpoint that fits; what was expected to differ is told apart.

    Args:
        part, source, resized, new, dropped: see LoadReport.
        model: after loading.
        info: what transformers and diffusers return for `output_loading_info=True`: the names
            `missing_keys` and `unexpected_keys`, and `mismatched_keys` (name, old, new shape).

    Raises:
        ValueError: if anything is missing, unexpected or mismatched: names, what the checkpoint
            looks like, and what to do.
    """
    missing, unexpected = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    shapes = sorted(f"{n} {tuple(old)} -> {tuple(now)}" for n, old, now in info["mismatched_keys"])
    faults = []
    if missing:
        faults.append(f"{len(missing)} weights are missing ({_some(missing)})")
    if unexpected:
        faults.append(f"{len(unexpected)} are left over ({_some(unexpected)})")
    if shapes:
        faults.append(f"{len(shapes)} have another shape ({_some(shapes)})")
    if faults:
        hint = f"; it looks like {looks_like(unexpected)}" if unexpected else ""
        raise ValueError(
            f"the weights of {source} do not fit this {part}: {', '.join(faults)}{hint}. Give "
            "weights of the architecture that is configured, or configure that of the weights"
        )
    tensors = model.state_dict(keep_vars=True).values()
    whole = {id(t): t.numel() for t in tensors}  # a tied tensor counts once
    return LoadReport(
        part=part, source=source, taken=len(whole), parameters=sum(whole.values()),
        resized=resized or {}, new=tuple(new), dropped=tuple(dropped),
    )  # fmt: skip


def _some(names: Collection[str], limit: int = 4) -> str:
    shown = ", ".join(list(names)[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"

"""AdamW or Muon, the learning-rate schedule and the parameter groups.

Weight decay applies to matrices only, and to none that a module names in `no_weight_decay()`, as is
timm's convention. The rate rises linearly, then falls along a cosine. It is a pure function of the
step, so a resumed run needs no state for it.
"""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # torch takes seconds to import, and --help reads this module
    from torch import nn
    from torch.optim import AdamW


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW, with Muon for matrices where `matrix_lr` is given; warm-up and decay."""

    lr: float = 3e-4
    """Peak learning rate."""
    matrix_lr: float = 0.0
    """Peak learning rate of Muon, on the matrices of linear and convolution layers; 0 means AdamW
    for them too."""
    momentum: float = 0.95
    """Muon's averaging of gradients."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's two moving-average factors."""
    eps: float = 1e-8
    """AdamW's denominator offset."""
    weight_decay: float = 0.1
    """Decoupled weight decay, on matrices only (not on biases, norms and other vectors)."""
    clip: float = 1.0
    """Largest global gradient norm; 0 means no clipping."""
    warmup_steps: int = 0
    """Steps of linear warm-up."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """What follows the warm-up."""
    min_lr_ratio: float = 0.1
    """Where the cosine ends, as a part of lr."""
    lr_multipliers: dict[str, float] = field(default_factory=dict)
    """Factor on lr by beginning of parameter name; the longest match wins, e.g. {"adapter.":
    3.0}."""
    ema_decay: float = 0.0
    """Decay of the moving average of the weights that is previewed and exported; 0 means none."""

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ValueError(f"optim.lr is {self.lr}; it must be positive.")
        if not 0 <= self.min_lr_ratio <= 1:
            raise ValueError(
                f"optim.min_lr_ratio is {self.min_lr_ratio}; it must be between 0 and 1."
            )
        if not 0 < self.momentum < 1:
            raise ValueError(f"optim.momentum is {self.momentum}; it must be in (0, 1).")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"optim.betas is {self.betas}; both must be in [0, 1).")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"optim.ema_decay is {self.ema_decay}; it must be in [0, 1).")
        for name in ("matrix_lr", "weight_decay", "clip", "warmup_steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"optim.{name} is {getattr(self, name)}; it must not be negative.")


def build_optimizer(model: nn.Module, config: OptimConfig) -> AdamW:
    """Fused AdamW, or Muon, over the parameters of `model` that require gradients.

    A table of which only some rows train has no weight decay, which would move the others too.
    Raises ValueError where nothing is trainable or a prefix of `lr_multipliers` matches no
    parameter.
    """
    from torch.optim import AdamW

    from manzano.training.muon import Muon, hidden_matrices
    from manzano.training.rows import trained_rows

    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not trainable:
        raise ValueError(
            f"{type(model).__name__} has no parameter with requires_grad=True: nothing to train."
        )
    names = [name for name, _ in model.named_parameters()]  # of frozen ones too: they may be named
    for prefix in config.lr_multipliers:
        if not any(name.startswith(prefix) for name in names):
            raise ValueError(_unmatched(prefix, names))
    matrices = hidden_matrices(model) if config.matrix_lr else set()
    undecayed = _undecayed(model) | trained_rows(model).keys()
    groups: dict[tuple[float, float, float], list[nn.Parameter]] = {}
    for name, parameter in trainable.items():
        momentum = config.momentum if parameter in matrices else 0.0
        lr = (config.matrix_lr if momentum else config.lr) * _multiplier(name, config)
        decays = parameter.ndim >= 2 and name not in undecayed
        decay = config.weight_decay if decays else 0.0
        groups.setdefault((lr, decay, momentum), []).append(parameter)
    return (Muon if matrices else AdamW)(
        [
            {"params": parameters, "weight_decay": decay, "momentum": momentum, "initial_lr": lr}
            for (lr, decay, momentum), parameters in groups.items()
        ],
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        fused=True,
    )


def _undecayed(model: nn.Module) -> set[str]:
    """Full names of the parameters that modules keep from weight decay."""
    return {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules()
        if hasattr(module, "no_weight_decay")
        for name in module.no_weight_decay()  # pyright: ignore[reportCallIssue]
    }


def set_learning_rate(optimizer: AdamW, config: OptimConfig, step: int, max_steps: int) -> float:
    """Give every group its rate for step `step` (counted from 0); returns the rate without
    multiplier."""
    scale = lr_scale(config, step, max_steps)
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * scale
    return config.lr * scale


def lr_scale(config: OptimConfig, step: int, max_steps: int) -> float:
    """The schedule: the part of lr used in step `step` (counted from 0) of `max_steps`."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return 1.0
    progress = (step - config.warmup_steps) / max(1, max_steps - config.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return config.min_lr_ratio + (1 - config.min_lr_ratio) * cosine


def _multiplier(name: str, config: OptimConfig) -> float:
    matches = [prefix for prefix in config.lr_multipliers if name.startswith(prefix)]
    return config.lr_multipliers[max(matches, key=len)] if matches else 1.0


def _unmatched(prefix: str, names: list[str]) -> str:
    tops = sorted({name.split(".")[0] + "." for name in names})
    near = difflib.get_close_matches(prefix, tops, n=1, cutoff=0.0)
    return (
        f"optim.lr_multipliers names {prefix!r}, which no parameter begins with. "
        f"Did you mean {near[0]!r}? Beginnings: {', '.join(tops)}."
    )

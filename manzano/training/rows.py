"""Tables of which only some rows train: the gradients of the others are zeroed.

AdamW leaves a parameter with zero gradients exactly as it is, if its weights do not decay; so such
tables have no weight decay (`optimizer.build_optimizer`).
"""

import torch
from torch import Tensor, nn

from manzano.training.muon import sharded_like


def trained_rows(model: nn.Module) -> dict[str, Tensor]:
    """The model's `trained_rows`: by name of a parameter (V, D), bool (V,), True for rows that
    train. Empty where all rows of all parameters do."""
    return getattr(model, "trained_rows", {})


@torch.no_grad()
def mask_gradients(model: nn.Module) -> None:
    """Zeroes the gradients of rows that do not train; every table must have gradients."""
    for name, rows in trained_rows(model).items():
        gradient = model.get_parameter(name).grad
        assert gradient is not None
        gradient.mul_(sharded_like(rows[:, None].to(gradient.device, gradient.dtype), gradient))

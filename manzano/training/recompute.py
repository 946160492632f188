"""Activations of blocks computed a second time in the backward pass instead of kept.

Memory then holds what enters each block, and the activations of one; time grows by the forward pass
of the blocks, about a third of a step.
"""

from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint


def recompute(block: nn.Module) -> None:
    """Lets a block keep nothing but its inputs, in place; where no gradient is computed, nothing
    changes. Call it before the block is compiled or sharded."""
    block.forward = partial(checkpoint, block.forward, use_reentrant=False)

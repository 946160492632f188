"""Memory of the CPU kernels' large outputs, kept for the outputs to come.

torch returns every large block to the operating system as soon as nothing uses it, and the next
one's pages are handed out anew, zeroed, one page fault at a time: of a few tens of MiB that takes
longer than the kernel that fills them.
"""

import math
import weakref

import torch
from torch import Tensor

LARGE = 2**20
"""Bytes from which on outputs come from here; smaller ones are torch's."""

KEPT = 2**28
"""Most bytes that are kept while nothing uses them."""

unused: dict[int, Tensor] = {}
"""Blocks of bytes (uint8, 1-D) by their ids, the last to come free at the end."""


def empty(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """`like.new_empty(shape)`; where that is large and on a CPU, in a block that may be kept.

    The block is kept when the tensor, its views and all else that shares its memory are gone.
    """
    size = math.prod(shape) * like.element_size()
    if like.device.type != "cpu" or size < LARGE:
        return like.new_empty(shape)
    block = take(size)
    # The tensor below keeps `lent` alive, and nothing else does: its end is the tensor's.
    lent = block.numpy().data
    weakref.finalize(lent, keep, block).atexit = False
    return torch.frombuffer(lent, dtype=like.dtype, count=math.prod(shape)).view(shape)


def take(size: int) -> Tensor:
    """An unused block of `size` to 2 `size` bytes, or a new one."""
    for key, block in reversed(list(unused.items())):
        # Another thread may take it first: only one of them finds it in `pop`.
        if size <= len(block) <= 2 * size and unused.pop(key, None) is not None:
            return block
    return torch.empty(size, dtype=torch.uint8)


def keep(block: Tensor) -> None:
    """Note that `block` is unused; drop those that are so the longest if they are too many."""
    unused[id(block)] = block
    while sum(map(len, list(unused.values()))) > KEPT:
        unused.pop(list(unused)[0], None)

"""The random generators that training draws from: Python's, NumPy's, torch's and the device's."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def seed(number: int) -> None:
    """Seed all generators."""
    random.seed(number)
    np.random.seed(number % 2**32)
    torch.manual_seed(number)  # every device too


def get() -> dict[str, Any]:
    """The state of all generators; picklable."""
    state = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore(state: dict[str, Any]) -> None:
    """Continue where `get` was called."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


@contextmanager
def preserved() -> Iterator[None]:
    """Go on after the block as if nothing had been drawn in it."""
    state = get()
    try:
        yield
    finally:
        restore(state)


@contextmanager
def seeded(number: int) -> Iterator[None]:
    """Draw from `number` inside the block, and go on undisturbed after it."""
    with preserved():
        seed(number)
        yield

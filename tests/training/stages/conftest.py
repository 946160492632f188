"""What the stages read: a corpus of every task, tokenizers and a VAE."""

from pathlib import Path

import pytest
import torch

from tests.training.stages.real import make_ingredients


@pytest.fixture(scope="session")
def ingredients(tmp_path_factory) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make_ingredients(tmp_path_factory.mktemp("ingredients"))

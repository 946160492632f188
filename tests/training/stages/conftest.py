"""What the stages read: a corpus of every task, tokenizers and a VAE."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.tiny import QWEN3
from tests.training.stages.real import LOADED, configured, make_ingredients, trained


@pytest.fixture(scope="session")
def ingredients(tmp_path_factory) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make_ingredients(tmp_path_factory.mktemp("ingredients"))


@pytest.fixture(scope="session")
def starts(ingredients, tmp_path_factory) -> Path:
    """Finished runs of both stages, and one whose head is not tied."""
    root = tmp_path_factory.mktemp("starts")
    for name in LOADED:
        trained(name, configured(name, ingredients, root / name))
    untied = configured("llm", ingredients, root / "untied")
    trained("llm", replace(untied, llm=QWEN3 | {"tie_word_embeddings": False}))
    return root

"""One tiny Manzano folder for all tests that read one."""

from pathlib import Path

import pytest
import torch

from tests.tiny import tiny_pipeline


@pytest.fixture(scope="session")
def pipeline_folder(tmp_path_factory) -> Path:
    """A whole Manzano folder with random weights: model, processor, decoder, VAE, scheduler."""
    folder = tmp_path_factory.mktemp("manzano")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tiny_pipeline().save_pretrained(folder)
    return folder

"""One tiny Manzano folder for all tests that read one, and a model hub without a network."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from tests.tiny import tiny_pipeline


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """tests/harness, which imports lmms-eval, runs only where it is asked for by its path."""
    folder = Path(__file__).with_name("harness")
    asked = [Path(argument.split("::")[0]).resolve() for argument in config.args]
    here = any(folder in (path, *path.parents) for path in asked)
    return True if collection_path == folder and not here else None


@pytest.fixture(scope="session")
def pipeline_folder(tmp_path_factory) -> Path:
    """A whole Manzano folder with random weights: model, processor, decoder, VAE, scheduler."""
    folder = tmp_path_factory.mktemp("manzano")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tiny_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Callable[[str, Path], None]:
    """`hub(name, folder)`: a model is in the cache of the Hugging Face hub, which is offline."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def publish(name: str, folder: Path) -> None:
        repository = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
        shutil.copytree(folder, repository / "snapshots" / ("0" * 40))
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text("0" * 40)

    return publish

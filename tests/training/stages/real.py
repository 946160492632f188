"""The real stages at tiny size on a tiny corpus, importable by the tests and by child processes."""

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file

from manzano.data_mix.encoders import SequenceBatch, SequenceEncoder
from manzano.data_mix.mixture import MixtureConfig
from manzano.data_mix.schema import Task
from manzano.decoder.dit_air import DiTAir
from manzano.decoder.vae import VAEConfig, build_vae
from manzano.model import ManzanoForConditionalGeneration
from manzano.tokenizer.hybrid import HybridTokenizerConfig
from manzano.training import random_state, run, stages
from manzano.training.config import LoopConfig
from manzano.training.loop import train
from manzano.training.optimizer import OptimConfig
from manzano.training.stages import decoder, llm, load_stage, tokenizer, vae, vision
from manzano.training.stages.data import DataConfig
from tests.data_mix.samples import make_folder, make_sample
from tests.tiny import QWEN3, VISION, text_tokenizer, tiny_vision

LOADED = {"llm": ManzanoForConditionalGeneration, "decoder": DiTAir}
"""The stages that fine-tune, and what loads their exports."""
TASKS: tuple[Task, ...] = ("understanding", "generation", "editing", "text")


def make_ingredients(root: Path) -> Path:
    """Corpus, text tokenizer, vision tokenizer and VAE, as the stages read them."""
    for task in TASKS:
        make_folder(root / "corpus" / task, task, num_train=12)
    text_tokenizer().save_pretrained(root / "text")
    tiny_vision().save(root / "vision")
    build_vae(VAEConfig(block_out_channels=(8, 8, 8), latent_channels=4)).save_pretrained(
        root / "vae"
    )
    return root


def configured(name: str, root: Path, output: Path, *, num_workers: int = 0, **loop):
    """The configuration of a stage over `make_ingredients`."""
    tasks = ("understanding", "text") if name == "tokenizer" else TASKS
    mixture = MixtureConfig(path=str(root / "corpus"), sources={task: 1.0 for task in tasks})
    common = {
        "loop": LoopConfig(
            **{"output": str(output), "max_steps": 2, "log_every": 1, "device": "cpu"} | loop
        ),
        "optim": OptimConfig(lr=1e-3, matrix_lr=2e-3, warmup_steps=1, schedule="constant"),
        "data": DataConfig(
            mixture=mixture,
            batch_size=2,
            num_workers=num_workers,
            shuffle_buffer=8,
            packing_buffer=8,
        ),
    }
    text, rows = {"text_tokenizer": str(root / "text")}, {"row_length": 96}
    vit = {key: VISION[key] for key in ("vit", "vit_kwargs", "image_size")}
    if name == "vision":
        small = {"text_width": 16, "text_depth": 1, "text_heads": 2, "max_caption_tokens": 12}
        return vision.Config(**common, **text, **vit, **small)
    if name == "vae":
        size = VAEConfig(block_out_channels=(8, 8, 8), latent_channels=4)
        return vae.Config(**common, vae=size, image_size=48, crop=24)
    if name == "tokenizer":
        sizes = HybridTokenizerConfig(**VISION | {"discrete_width": 32})
        return tokenizer.Config(**common, **text, **rows, tokenizer=sizes, llm=QWEN3)
    folders = {"tokenizer": str(root / "vision")}
    if name == "llm":
        return llm.Config(**common, **text, **rows, **folders, llm=QWEN3)
    model = {"num_layers": 1, "width": 32, "head_dim": 16}
    return decoder.Config(**common, **folders, vae=str(root / "vae"), model=model, image_size=48)


def trained(name: str, config):
    """The stage after training, as `train.py` would."""
    random_state.seed(config.loop.seed)
    stage = load_stage(name)[1](config)
    train(stage, config)
    return stage


class FixedBatches:
    """Two rows a step, dealt to the ranks: pictures to read, draw and edit; prose alone."""

    def __init__(self, encoder: SequenceEncoder, rank: int, world_size: int):
        self.encoder, self.rank, self.world_size = encoder, rank, world_size
        self.position = rank

    def __iter__(self) -> Iterator[SequenceBatch]:
        while True:
            step, row = divmod(self.position, 2)
            tasks: tuple[Task, ...] = (
                ("text",) if row else ("understanding", "generation", "editing")
            )
            examples = [self.encoder.encode(make_sample(task, step)) for task in tasks]
            self.position += self.world_size
            yield self.encoder.collate([examples])

    def save_state_rank(self) -> int:
        return self.position

    def restore_state_rank(self, state: int) -> None:
        self.position = state


class FixedStage(llm.Stage):
    """The llm stage on batches that do not depend on the number of ranks."""

    def batches(self, *, rank: int, world_size: int):
        encoder = SequenceEncoder(
            self.processor.tokenizer, image_size=48, num_tokens=4, row_length=96, drop_prompt=0.0
        )
        return FixedBatches(encoder, rank, world_size)


def child(config_file: Path, environment: dict[str, str], errors: Path) -> None:
    """`train.py llm` on fixed batches in a process of its own, stderr in a file."""
    os.environ.update(environment)
    with errors.open("w") as file:
        os.dup2(file.fileno(), 2)
    sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    stages.load_stage = lambda name: (llm.Config, FixedStage)
    run("llm", ["--config", str(config_file)])


def tuned(name: str, starts: Path, ingredients: Path, output: Path, *, start="", loop=None, **own):
    """The configuration of a run that goes on from a finished one."""
    empty = {"text_tokenizer": "", "tokenizer": "", "llm": {}} if name == "llm" else {}
    config = configured(name, ingredients, output, **(loop or {}))
    return replace(config, start=str(starts / (start or name) / "export"), **empty, **own)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """All weights of an export."""
    return {k: v for file in sorted(folder.glob("*.safetensors")) for k, v in
            load_file(file).items()}  # fmt: skip

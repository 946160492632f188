"""From a sharded checkpoint to a Hugging Face folder, one output file at a time.

The stage is not run: a model on the meta device tells which parameters there are, and they are read
from where they are on disk. No more than one output file is ever in memory.
"""

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from huggingface_hub import split_state_dict_into_shards_factory
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load

from manzano.card import write_card
from manzano.training import config as configuration
from manzano.training.checkpoint import Checkpoints, quiet
from manzano.training.command_line import from_dict
from manzano.training.distributed import World
from manzano.training.lora import NAME, Adapter, add_product, fingerprint, layers, merged
from manzano.training.stages import load_stage, stage_of
from manzano.training.stages.outlines import OUTLINES, Outline
from manzano.weights import fetch

ONE_PROCESS = World(rank=0, size=1, device=torch.device("cpu"))


def export_checkpoint(
    path: str | Path, output: str | Path, *, shard_size: int | str = "5GB", licence: str = ""
) -> Path:
    """Writes the folder that the run would have exported at this step; returns `output`.

    Args:
        path: a run folder, whose newest checkpoint is taken, or one checkpoint of it.
        output: must not exist yet.
        shard_size: largest file of weights, in bytes or such as "500MB"; a larger tensor gets a
            file of its own.
        licence: of the weights, for the model card.

    Raises:
        ValueError: if there is no checkpoint, its stage has no such export, the folders that the
            run started from are not there, or `output` is.
        RuntimeError: if the checkpoint is damaged.
    """
    checkpoint, output = find_checkpoint(Path(path)), Path(output)
    if output.exists():
        raise ValueError(f"{output} is there already: give a folder that does not exist yet")
    store = Checkpoints(checkpoint.parent, ONE_PROCESS, config={}, keep=1)
    manifest = store.manifest(checkpoint)
    tree = manifest["config"]
    stage = stage_of(tree)
    if stage not in OUTLINES:
        raise ValueError(
            f"this is a checkpoint of the stage {stage}, whose export takes more than its weights: "
            f"give its training command again. Exported from checkpoints: {', '.join(OUTLINES)}"
        )
    config = from_dict(load_stage(stage)[0], tree)
    outline = OUTLINES[stage](config)
    weights = Weights(outline, checkpoint / "state")
    partial = output.with_name(f".{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    write_weights(weights, partial, shard_size)
    outline.write_rest(partial)
    if weights.adapted:
        adapter = Adapter(base=outline.base, mark=fingerprint(weights.base()), also=outline.also)
        state = weights.stored(adapter.names(outline.model))
        adapter.save(outline.model, partial / "adapter", state)
    metrics, step = checkpoint.parent.parent / "metrics.jsonl", manifest["step"]
    write_card(partial, library=outline.library, metrics=metrics, step=step, licence=licence)
    configuration.save(config, partial / "training.yaml")
    os.replace(partial, output)
    return output


def find_checkpoint(path: Path) -> Path:
    """`path` itself, or the newest checkpoint of the run folder `path`."""
    if (path / "manifest.json").is_file():
        return path
    last = Checkpoints(path / "checkpoints", ONE_PROCESS, config={}, keep=1).last
    if last is None:
        raise ValueError(
            f"{path} has no whole checkpoint: give a run folder (loop.output), or one of the "
            "folders in its checkpoints/"
        )
    return last


class Weights:
    """The exported parameters and buffers of a run, read from disk by name."""

    def __init__(self, outline: Outline, state: Path):
        self.outline, self.state = outline, state
        self.adapted = {f"{name}.weight": layer for name, layer in layers(outline.model).items()}
        with merged(outline.model):
            self.expected = tensors_of(outline.model)
        with quiet():
            stored = FileSystemReader(state).read_metadata().state_dict_metadata
        self.sizes = {k: v for k, v in stored.items() if isinstance(v, TensorStorageMetadata)}
        self.folders = {start: Folder(name) for start, name in outline.frozen.items()}

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Those of `expected`: trained ones and averages from the checkpoint, others from where
        the run started, with LoRA merged."""
        names = list(names)
        stored = self.stored([part for name in names for part in self._parts(name)])
        return {name: self._value(name, stored) for name in names}

    def stored(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Parameters of the checkpoint, whole; the moving average where there is one."""
        kinds: dict[str, dict[str, Tensor]] = {"model": {}, "ema": {}}
        for name in names:
            kind = "ema" if f"train.ema.{name}" in self.sizes else "model"
            about = self.sizes[f"train.{kind}.{name}"]
            kinds[kind][name] = torch.empty(about.size, dtype=about.properties.dtype)
        found = kinds["model"] | kinds["ema"]
        if found:
            with quiet():
                load({"train": kinds}, storage_reader=FileSystemReader(self.state), no_dist=True)
        return found

    def base(self) -> Iterator[tuple[str, Tensor]]:
        """All parameters of the model that was adapted, one by one."""
        with merged(self.outline.model):
            names = [name for name, _ in self.outline.model.named_parameters()]
        return ((name, self._frozen(name)) for name in names)

    def _parts(self, name: str) -> list[str]:
        """What of the checkpoint a parameter is made of."""
        if name in self.adapted:
            layer = name.removesuffix(".weight")
            return [f"{layer}.{kind}.{NAME}.weight" for kind in ("lora_A", "lora_B")]
        return [name] if f"train.model.{name}" in self.sizes else []

    def _value(self, name: str, stored: dict[str, Tensor]) -> Tensor:
        parts = [stored.pop(part) for part in self._parts(name)]
        if name in self.adapted:
            a, b = parts
            return add_product(self._frozen(name), a, b, self.adapted[name].scaling[NAME])
        return parts[0] if parts else self._frozen(name)

    def _frozen(self, name: str) -> Tensor:
        """What was not trained, in the precision of training."""
        for start, folder in self.folders.items():
            if name.startswith(start):
                value, expected = folder.read(name.removeprefix(start)), self.expected[name]
                if value.shape != expected.shape:
                    raise ValueError(
                        f"{name} has the shape {tuple(value.shape)} in {folder.name} and "
                        f"{tuple(expected.shape)} in the model: was it another folder in training?"
                    )
                return value.to(expected.dtype)
        raise ValueError(
            f"the checkpoint has no {name}, and nothing else that the run read has it: was it "
            "written by another version of this code?"
        )


class Folder:
    """The safetensors files of a folder or a repository, read tensor by tensor."""

    def __init__(self, name: str):
        self.name = name
        self.files: dict[str, Path] = {}

    def read(self, name: str) -> Tensor:
        """A tensor by name. Raises ValueError where there is none."""
        if not self.files:
            self._find()
        if name not in self.files:
            raise ValueError(f"{self.name}, which the run started from, has no weights {name!r}")
        with safe_open(self.files[name], framework="pt") as file:
            return file.get_tensor(name)

    def _find(self) -> None:
        folder = fetch(self.name, ("*.safetensors",))
        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, framework="pt") as file:
                self.files |= dict.fromkeys(file.keys(), path)


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name; of tied parameters the first."""
    every = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    tied = every - {name for name, _ in model.named_parameters()}
    return {name: value for name, value in model.state_dict().items() if name not in tied}


def write_weights(weights: Weights, directory: Path, shard_size: int | str) -> None:
    """Writes safetensors files, with an index where there are several."""
    name, ending = weights.outline.weights.rsplit(".", 1)
    split = split_state_dict_into_shards_factory(
        weights.expected,
        get_storage_size=lambda tensor: tensor.numel() * tensor.itemsize,
        filename_pattern=f"{name}{{suffix}}.{ending}",
        max_shard_size=shard_size,
    )
    for file, names in split.filename_to_tensors.items():
        save_file(weights.read(names), directory / file, metadata={"format": "pt"})
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        text = json.dumps(index, indent=2, sort_keys=True) + "\n"
        (directory / f"{weights.outline.weights}.index.json").write_text(text, encoding="utf-8")

"""Pretrained weights before they are read: where they lie, and whether the files are whole.

A download that broke off, or a Git LFS pointer in place of a file, otherwise ends in an error of a
library that names neither the file nor the remedy.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from zipfile import is_zipfile

from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open

_LFS = b"version https://git-lfs"
_LOOKS = {
    "language_model.": "a whole Manzano or another vision-language model",
    "continuous_adapter.": "a Manzano vision tokenizer",
    "model.layers.": "a language model (Qwen, Llama and their like)",
    "transformer.h.": "a language model (GPT-2 and its like)",
    "visual.trunk.": "an OpenCLIP model around a timm ViT",
    "visual.transformer.": "an OpenAI CLIP or OpenCLIP model",
    "vision_model.": "a transformers CLIP or SigLIP (timm has the same weights)",
    "embeddings.patch_embeddings.": "a transformers ViT (timm has the same weights)",
    "double_blocks.": "a diffusion transformer in its authors' format",
    "transformer_blocks.": "a diffusion transformer of diffusers",
    "encoder.down_blocks.": "an autoencoder of diffusers",
    "encoder.down.": "an autoencoder in its authors' format, not in that of diffusers",
    "attn.qkv.": "a ViT of timm",
}
"""Parts of parameter names by which an architecture is known; the first that fits."""


def fetch(source: str | Path, files: Sequence[str]) -> Path:
    """A local path as it is; of a model of the Hugging Face hub, the cached folder with `files`.

    Args:
        source: a path, or a hub name such as `timm/vit_large_patch16_siglip_512.v2_webli`.
        files: patterns of the files that are wanted of the hub.

    Raises:
        ValueError: if there is no such path and the hub gives no such model.
    """
    path = Path(source).expanduser()
    if path.exists():
        return path
    try:
        return Path(snapshot_download(str(source), allow_patterns=list(files)))
    except (OSError, ValueError) as error:  # not a name, not found, no access, no network
        raise ValueError(
            f"there is no {path}, and the Hugging Face hub gave no model of this name "
            f"({type(error).__name__}: {str(error).strip().splitlines()[0]}). Correct the path; "
            "or download the model where there is a network and give its folder"
        ) from error


def check_files(path: Path) -> None:
    """Sees that a weight file, or every weight file of a folder, is whole.

    Raises:
        ValueError: for a Git LFS pointer, a truncated safetensors file, a missing shard, a folder
            without weights; the file is named.
    """
    files = [path]
    if path.is_dir():
        for kinds in (("*.safetensors",), ("*.bin", "*.pth", "*.pt")):  # the first is what is read
            files = sorted(file for kind in kinds for file in path.glob(kind))
            indices = sorted(i for kind in kinds for i in path.glob(f"{kind}.index.json"))
            if files or indices:
                break
        for index in indices:
            _require_shards(index)
        if not files:
            held = sorted(file.name for file in path.iterdir())
            raise ValueError(f"there are no weights in {path}, which holds {held[:8]}")
    for file in files:
        _check_file(file)


def _require_shards(index: Path) -> None:
    _refuse_pointer(index)
    shards = set(json.loads(index.read_text())["weight_map"].values())
    if missing := sorted(name for name in shards if not (index.parent / name).is_file()):
        raise ValueError(
            f"{len(missing)} of the {len(shards)} files that {index} names are missing, e.g. "
            f"{missing[0]}: download them too"
        )


def _refuse_pointer(file: Path) -> None:
    with file.open("rb") as opened:
        if opened.read(len(_LFS)) == _LFS:
            raise ValueError(
                f"{file} is a Git LFS pointer, not the file itself: run `git lfs pull` in its "
                "repository, or download the file from the hub"
            )


def _check_file(file: Path) -> None:
    _refuse_pointer(file)
    fault = ""
    if file.suffix == ".safetensors":
        try:
            with safe_open(file, framework="pt"):
                pass
        except SafetensorError as error:
            fault = str(error)
    else:  # torch's files are zip archives, whose directory is at the end
        with file.open("rb") as opened:
            if opened.read(2) == b"PK" and not is_zipfile(file):
                fault = "the archive has no directory"
    if fault:
        raise ValueError(
            f"{file} ({file.stat().st_size} bytes) is damaged or not whole ({fault}): download it "
            "again"
        )


def looks_like(names: Iterable[str]) -> str:
    """What a checkpoint with these parameter names probably is, for error messages."""
    names = list(names)
    for part, what in _LOOKS.items():
        if any(part in name for name in names):
            return what
    return "nothing known here"

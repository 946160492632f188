"""Where a figure comes from: the model, the data, the code, the machine."""

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

PACKAGES = (
    "manzano", "torch", "torchvision", "timm", "transformers", "diffusers",
    "vector-quantize-pytorch", "tokenizers", "pillow", "numpy",
)  # fmt: skip
"""Packages on which a figure may depend."""

NOT_WEIGHTS = ("README.md", "LICENSE")
"""Files of a model folder that change nothing in what the model does."""


def fingerprint(*paths: Path, without: Collection[str] = ()) -> str:
    """SHA-256 of the contents of files, and of names and contents of all files in folders.

    Hidden files do not count: a download leaves some with dates in them (.cache), git others.

    Args:
        without: names of files that do not count.

    Raises:
        FileNotFoundError: if a path does not exist.
    """
    digest = hashlib.sha256()
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"there is no {path}")
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in filter(Path.is_file, files):
            hidden = any(part.startswith(".") for part in file.relative_to(path).parts)
            if hidden or file.name in without:
                continue
            digest.update(f"{file.relative_to(path)} {file.stat().st_size}\n".encode())
            with file.open("rb") as opened:
                while piece := opened.read(1 << 24):  # 16 MiB: weights may be larger than memory
                    digest.update(piece)
    return digest.hexdigest()


def model_record(folder: str | Path) -> dict[str, Any]:
    """A Manzano folder's name, hash (of all but its card) and configuration.

    Raises:
        FileNotFoundError: if it is no such folder.
    """
    folder = Path(folder)
    config = folder / "config.json"
    if not config.is_file():
        raise FileNotFoundError(f"{folder} is no Manzano folder: it has no config.json")
    return {
        "name": model_name(folder),
        "sha256": fingerprint(folder, without=NOT_WEIGHTS),
        "config": json.loads(config.read_text()),
    }


def model_name(folder: str | Path) -> str:
    """Of a model's folder, or where that is called "model" of the one around it."""
    folder = Path(folder).resolve()
    return (folder.parent if folder.name == "model" else folder).name


def environment(device: str = "cpu", *, packages: Collection[str] = ()) -> dict[str, Any]:
    """Versions of Python and packages (and of further ones), commit of this code, hardware."""
    return {
        "python": platform.python_version(),
        "versions": versions((*PACKAGES, *packages)),
        "commit": commit(),
        "hardware": hardware(device),
    }


def versions(packages: Collection[str]) -> Mapping[str, str | None]:
    """The installed version of each package, None for one that is not installed."""

    def version(package: str) -> str | None:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return None

    return {package: version(package) for package in packages}


def commit() -> str | None:
    """The commit of a checkout of this code, "+changes" if files differ; None for an installation
    without its history."""
    package = Path(__file__).resolve().parents[1]

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(
                ("git", "-C", str(package.parent), *words), capture_output=True, text=True
            )
        except FileNotFoundError:  # no git here
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    top = git("rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != package.parent:
        return None
    changed = git("status", "--porcelain", "--untracked-files=no", "--", "manzano")
    return f"{git('rev-parse', 'HEAD')}{'+changes' if changed else ''}"


def hardware(device: str = "cpu") -> str:
    """The accelerator's name, or the processor's with the number of cores that may be used."""
    if device.startswith("cuda"):
        import torch

        return f"{torch.cuda.get_device_name(device)}, {torch.cuda.device_count()} here"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if device.startswith("mps"):
        return f"Apple GPU (mps), {cores} cores"
    return f"{processor()}, {cores} cores"


def processor() -> str:
    """The processor's own name, where the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()

"""Builds a corpus: `manzano data build demo --output DIR`, or `editing` for more kinds of edits.

    DIR/
      <source>/train-*.tar, test-*.tar, .nv-meta/    one folder a source
      text_tokenizer/                                 trained on all training texts
      BUILD.json                                      versions, settings, sha256 of code and shards
      ATTRIBUTION.md                                  whose data this is, and under which licence

The corpus `editing` has no text tokenizer: it goes with the demo's.

Real data that ships inside Python packages, or pictures drawn from it; nothing is downloaded. The
same arguments and package versions give the same bytes. A source that is there is not made again,
unless its code has changed.
"""

import hashlib
import inspect
import json
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from manzano.data_mix.schema import read_fields, shard_paths, write_shards
from manzano.data_mix.sources import (
    charts,
    depth,
    drawing,
    easy_vqa,
    editing,
    glyph_questions,
    inpainting,
    prose,
    reading,
    style,
)
from manzano.data_mix.sources.package_data import package_version

SPLITS = ("train", "test")
SOURCES: dict[str, ModuleType] = {
    source.NAME: source
    for source in (easy_vqa, drawing, editing, glyph_questions, reading, charts, prose)
}


EDITS: dict[str, ModuleType] = {source.NAME: source for source in (inpainting, style, depth)}
"""More kinds of edits than the demo's."""


def build_demo(directory: str | Path, **options: Any) -> dict[str, Any]:
    """Builds whatever of the demo corpus is not there yet; arguments and result of `build`."""
    directory = Path(directory)
    manifest, is_new = build(directory, SOURCES, **options)
    if is_new or not (directory / "text_tokenizer").is_dir():
        _build_text_tokenizer(directory)
    return manifest


def build_editing(directory: str | Path, **options: Any) -> dict[str, Any]:
    """Builds whatever of the corpus of edits is not there yet; arguments and result of `build`."""
    return build(Path(directory), EDITS, **options)[0]


def build(
    directory: Path,
    sources: dict[str, ModuleType],
    *,
    seed: int = 0,
    image_size: int = 72,
    limit: int | None = None,
    workers: int = 2,
) -> tuple[dict[str, Any], bool]:
    """Builds the sources that are not there yet; returns the contents of BUILD.json, and whether
    there were any to build.

    Args:
        directory: Where to; made if need be.
        sources: Modules with NAME, LICENCE, ATTRIBUTION, PACKAGES and `samples`.
        seed: Of all random choices. The splits do not depend on it.
        image_size: Width and height of every picture, in pixels.
        limit: At most so many samples of a split of a source, for a quick look.
        workers: Processes. With more than one, a script that calls this needs the usual
            `if __name__ == "__main__":`.

    Raises:
        ValueError: A package with data is not installed, or an argument is out of range.
    """
    from manzano.data_mix.prepare import prepare

    if image_size < 24 or workers < 1 or (limit is not None and limit < 1):
        raise ValueError(
            f"image_size must be at least 24, workers and limit at least 1; got {image_size}, "
            f"{workers}, {limit}"
        )
    directory.mkdir(parents=True, exist_ok=True)
    settings = {"seed": seed, "image_size": image_size, "limit": limit}
    manifest = _read_manifest(directory)
    missing = [
        name
        for name, source in sources.items()
        if manifest["sources"].get(name) != _describe(directory / name, source, settings)
    ]
    with _progress() as progress:
        bar = progress.add_task("building", total=len(missing) * len(SPLITS))
        jobs = [(directory / name, name, split, settings) for split in SPLITS for name in missing]
        for folder, split in _run(jobs, workers):
            progress.update(bar, advance=1, description=f"built {folder.name} {split}")
        for name in missing:
            prepare(directory / name)
            manifest["sources"][name] = _describe(directory / name, sources[name], settings)
            _write_manifest(directory, manifest)
        progress.update(bar, description="finished")
    _write_attribution(directory, sources)
    return manifest, bool(missing)


def _run(jobs: list[tuple], workers: int) -> Iterator[tuple[Path, str]]:
    """Runs `_build_split` on every job, yielding (folder, split) as they finish."""
    if workers == 1 or not jobs:
        for job in jobs:
            yield _build_split(job)
        return
    context = multiprocessing.get_context(
        "spawn"
    )  # forking beside the progress bar's thread may hang
    with ProcessPoolExecutor(max_workers=workers, mp_context=context) as pool:
        yield from pool.map(_build_split, jobs)


def _build_split(job: tuple[Path, str, str, dict[str, Any]]) -> tuple[Path, str]:
    folder, name, split, settings = job
    samples = (SOURCES | EDITS)[name].samples(
        split, image_size=settings["image_size"], seed=settings["seed"]
    )
    write_shards(islice(samples, settings["limit"]), folder, split)
    return folder, split


def _describe(folder: Path, source: ModuleType, settings: dict[str, Any]) -> dict[str, Any]:
    """What BUILD.json says of a source, from the files that are there."""
    shards = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for split in SPLITS
        for path in sorted(folder.glob(f"{split}-*.tar"))
    }
    return {
        "settings": settings,
        "code": _code(source),
        "packages": {package: package_version(package) for package in source.PACKAGES},
        "sha256": shards,
    }


def _code(source: ModuleType) -> str:
    """SHA-256 of what makes a source: a corpus of an older version is made again."""
    used = [m for m in vars(source).values() if isinstance(m, ModuleType)]
    ours = [m for m in used if m.__name__.startswith(f"{__package__}.")]
    code = "".join(inspect.getsource(module) for module in (source, *ours))
    return hashlib.sha256(code.encode()).hexdigest()


def _read_manifest(directory: Path) -> dict[str, Any]:
    path = directory / "BUILD.json"
    if not path.exists():
        return {"sources": {}}
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"'{path}' is not valid JSON; delete it to build anew: {error}") from error


def _write_manifest(directory: Path, manifest: dict[str, Any]) -> None:
    partial = directory / ".BUILD.json.partial"
    partial.write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")
    os.replace(partial, directory / "BUILD.json")


def training_texts(directory: str | Path) -> Iterator[str]:
    """Every turn and caption of the training splits, in a fixed order."""
    for name in SOURCES:
        for shard in shard_paths(Path(directory) / name, "train"):
            for fields in read_fields(shard):
                record = json.loads(fields["json"])
                yield from (turn["text"] for turn in record["turns"])
                yield record["caption"]


def _build_text_tokenizer(directory: Path) -> None:
    from manzano.data_mix.text_tokenizer import train_text_tokenizer

    train_text_tokenizer(training_texts(directory)).save_pretrained(directory / "text_tokenizer")


def _write_attribution(directory: Path, sources: dict[str, ModuleType]) -> None:
    lines = ["# Attribution", "", "This folder was built from the following works.", ""]
    for name, source in sources.items():
        versions = ", ".join(f"{package} {package_version(package)}" for package in source.PACKAGES)
        built = f" Built with {versions}." if versions else ""
        lines.append(f"- `{name}` ({source.LICENCE}): {source.ATTRIBUTION}{built}")
    (directory / "ATTRIBUTION.md").write_text("\n".join(lines) + "\n")


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description:<32}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    )

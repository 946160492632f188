"""What a sample is, and how samples lie in WebDataset shards.

One schema for all tasks; every source writes it and every reader expects it:

    understanding  images, then user/assistant pairs: each pair is an independent question
    generation     one user turn, `target` is the picture to draw
    editing        images = (reference,), one user turn with the instruction, `target` is the result
                   (both: perhaps an assistant turn after it, said before the picture is drawn);
                   perhaps a mask, white where the reference is painted anew
    text           one assistant turn of prose

In a shard, a sample is the files `{key}.json`, `{key}.image0.png`, ..., `{key}.target.png`,
`{key}.mask.png`; the JSON holds all but the pictures. Shards are ordinary tar files, the same bytes
for the same samples.
"""

import io
import json
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from PIL import Image
from webdataset.writer import ShardWriter

from manzano.data_mix.images import load_image
from manzano.data_mix.masks import hide, mask_faults, read_mask
from manzano.llm.vocabulary import reserved_tokens

Task = Literal["understanding", "generation", "editing", "text"]
Role = Literal["user", "assistant"]
TASKS: tuple[str, ...] = get_args(Task)

KEY = re.compile(r"[A-Za-z0-9_-]+")
_IMAGE_FIELD = re.compile(r"(image\d+|target|mask)\.(png|jpg|jpeg|webp)")
_JSON_FIELDS = ("task", "turns", "num_images", "caption", "source", "licence", "concept", "extra")


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One utterance of a conversation."""

    role: Role
    text: str


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One training or test example, of any task. Images are RGB, of any size."""

    key: str
    """Unique in its folder; letters, digits, `_` and `-`."""
    task: Task
    turns: tuple[Turn, ...]
    images: tuple[Image.Image, ...] = ()
    """Images that are looked at (never the one to be drawn)."""
    target: Image.Image | None = None
    """The image to be drawn, for generation and editing."""
    mask: Image.Image | None = None
    """Where an edit paints anew (white) and where it keeps the reference (black): mode "L", of the
    size of reference and target."""
    caption: str = ""
    """Plain description of the target, or else of the image; "" where there is none."""
    source: str
    licence: str
    concept: str
    """What must not be shared by train and test: the unit of the split."""
    extra: dict[str, Any] = field(default_factory=dict)
    """What a judge needs to know beyond the answer, JSON types only. An edit may name its "kind":
    "instruction" (also where none is named), "style", "inpainting", "outpainting" or "depth"."""

    def shown(self) -> tuple[Image.Image, ...]:
        """`images` as a model sees them: grey where the mask is white."""
        if self.mask is None:
            return self.images
        return tuple(hide(image, self.mask) for image in self.images)

    def pairs(self) -> list[tuple[str, str]]:
        """The independent (question, answer) pairs of an understanding sample."""
        texts = [turn.text for turn in self.turns]
        return list(zip(texts[0::2], texts[1::2], strict=True))


def sample_faults(sample: Sample) -> list[str]:
    """Everything that is wrong with a sample, in words; empty for a good one."""
    faults = []
    if not KEY.fullmatch(sample.key):
        faults.append(f"key {sample.key!r} may hold only letters, digits, '_' and '-'")
    if sample.task not in TASKS:
        return [*faults, f"unknown task {sample.task!r}, the tasks are {', '.join(TASKS)}"]
    for index, turn in enumerate(sample.turns):
        if turn.role not in get_args(Role):
            faults.append(f"turn {index} has role {turn.role!r}, not 'user' or 'assistant'")
        if not turn.text.strip():
            faults.append(f"turn {index} has no text")
        if found := reserved_tokens(turn.text):
            faults.append(f"turn {index} spells special tokens: {', '.join(found)}")
    return faults + _turn_faults(sample) + _picture_faults(sample)


def _turn_faults(sample: Sample) -> list[str]:
    roles = [turn.role for turn in sample.turns]
    if not roles:
        return ["there are no turns"]
    if sample.task == "understanding":
        if "assistant" not in roles:
            return ["understanding needs an answer: there is no assistant turn"]
        if roles != ["user", "assistant"] * (len(roles) // 2):
            return [f"turns must alternate user, assistant; got {', '.join(roles)}"]
        return []
    if sample.task == "text":
        allowed, words = [["assistant"]], "exactly one assistant turn"
    else:
        allowed = [["user"], ["user", "assistant"]]
        words = "one user turn, and at most one assistant turn after it"
    return [] if roles in allowed else [f"{sample.task} takes {words}; got {', '.join(roles)}"]


def _picture_faults(sample: Sample) -> list[str]:
    count, faults = len(sample.images), []
    draws = sample.task in ("generation", "editing")
    if draws and sample.target is None:
        faults.append(f"{sample.task} needs a target image")
    if not draws and sample.target is not None:
        faults.append(f"{sample.task} takes no target image")
    if sample.task == "understanding" and count == 0:
        faults.append("understanding needs at least one image")
    if sample.task == "editing" and count != 1:
        faults.append(f"editing needs exactly one reference image; got {count}")
    if sample.task in ("generation", "text") and count:
        faults.append(f"{sample.task} takes no input image; got {count}")
    if sample.mask is not None:
        pictures = [*sample.images, *([sample.target] if sample.target is not None else [])]
        sizes = {picture.size for picture in pictures}
        if sample.task != "editing":
            faults.append(f"{sample.task} takes no mask: only editing does")
        found = (fault for size in sorted(sizes) for fault in mask_faults(sample.mask, size))
        faults += dict.fromkeys(found)
    return faults


def encode_sample(sample: Sample, files: Mapping[str, bytes] | None = None) -> dict[str, Any]:
    """A sample as the WebDataset dict `{"__key__", "json", "image0.png", ..., "target.png",
    "mask.png"}`.

    Args:
        files: The image files that pictures were read from, by name ("image0", "target"): those in
            PNG, JPEG or WebP are taken over as they are, rather than written anew as PNG.

    Raises:
        ValueError: The sample breaks the schema; all its faults are named.
    """
    if faults := sample_faults(sample):
        raise ValueError(f"sample {sample.key!r}: {'; '.join(faults)}")
    record = {
        "task": sample.task,
        "turns": [{"role": turn.role, "text": turn.text} for turn in sample.turns],
        "num_images": len(sample.images),
        "caption": sample.caption,
        "source": sample.source,
        "licence": sample.licence,
        "concept": sample.concept,
        "extra": sample.extra,
    }
    fields: dict[str, Any] = {"__key__": sample.key}
    fields["json"] = json.dumps(record, sort_keys=True, ensure_ascii=False).encode()
    pictures = {f"image{index}": image for index, image in enumerate(sample.images)}
    if sample.target is not None:
        pictures["target"] = sample.target
    for name, image in pictures.items():
        file = (files or {}).get(name, b"")
        suffix = _suffix(file) if file else None
        fields[f"{name}.{suffix or 'png'}"] = file if suffix else _png(image)
    if sample.mask is not None:
        fields["mask.png"] = _png(sample.mask, "L")
    return fields


def _png(image: Image.Image, mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    image.convert(mode).save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()


def _suffix(file: bytes) -> str | None:
    """What the name of an image file in a shard ends in; None if it may not be in one."""
    with Image.open(io.BytesIO(file)) as image:
        return {"PNG": "png", "JPEG": "jpg", "WEBP": "webp"}.get(image.format or "")


def decode_sample(fields: dict[str, Any]) -> Sample:
    """The inverse of `encode_sample`. JPEG and WebP pictures are read as well as PNG.

    Raises:
        ValueError: A field is missing, the JSON is not valid, or a picture cannot be decoded.
            Whether the sample obeys the schema is not looked at: that is `sample_faults`.
    """
    record = _read_json(fields)
    pictures = {}
    for name, data in fields.items():
        if match := _IMAGE_FIELD.fullmatch(name):
            try:
                read = read_mask if match[1] == "mask" else load_image
                pictures[match[1]] = read(data)
            except ValueError as error:
                raise ValueError(f"field {name}: {error}") from error
    missing = [f"image{i}" for i in range(record["num_images"]) if f"image{i}" not in pictures]
    if missing:
        raise ValueError(f"missing field {', '.join(missing)}, of {record['num_images']} images")
    return Sample(
        key=fields["__key__"],
        task=record["task"],
        turns=tuple(Turn(role=turn["role"], text=turn["text"]) for turn in record["turns"]),
        images=tuple(pictures[f"image{i}"] for i in range(record["num_images"])),
        target=pictures.get("target"),
        mask=pictures.get("mask"),
        caption=record["caption"],
        source=record["source"],
        licence=record["licence"],
        concept=record["concept"],
        extra=record["extra"],
    )


def _read_json(fields: dict[str, Any]) -> dict[str, Any]:
    if "json" not in fields:
        raise ValueError("missing field json")
    try:
        record = json.loads(fields["json"])
    except ValueError as error:
        raise ValueError(f"field json is not valid JSON: {error}") from error
    if not isinstance(record, dict):
        raise ValueError(f"field json must hold an object, got {type(record).__name__}")
    if missing := [name for name in _JSON_FIELDS if name not in record]:
        raise ValueError(f"field json lacks {', '.join(missing)}")
    for name in ("task", "caption", "source", "licence", "concept"):
        if not isinstance(record[name], str):
            raise ValueError(f"{name} in field json must be a string, got {record[name]!r}")
    if not isinstance(record["num_images"], int) or not isinstance(record["extra"], dict):
        raise ValueError("num_images in field json must be an integer and extra an object")
    turns = record["turns"]
    if not isinstance(turns, list) or not all(
        isinstance(turn, dict)
        and isinstance(turn.get("role"), str)
        and isinstance(turn.get("text"), str)
        for turn in turns
    ):
        raise ValueError("turns in field json must be a list of {role, text} objects")
    return record


def write_shards(
    samples: Iterable[Sample | dict[str, Any]],
    directory: str | Path,
    split: str,
    *,
    samples_per_shard: int = 2000,
) -> list[Path]:
    """Writes `{split}-000000.tar`, ... and returns their paths.

    Samples may be given as what `encode_sample` made of them. The bytes depend on them alone.
    Shards are written under temporary names and all renamed at the end, so an interrupted run
    leaves none that could be taken for a whole one; shards of the same split from an earlier run
    are replaced.

    Raises:
        ValueError: There are no samples, a key occurs twice, or a sample breaks the schema.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    for left_over in directory.glob(f".{split}-*.tar.partial"):
        left_over.unlink()
    pattern = str(directory / f".{split}-%06d.tar.partial")
    keys: set[str] = set()
    with ShardWriter(
        pattern, maxcount=samples_per_shard, verbose=0, encoder=False,
        mtime=0, user="manzano", group="manzano", mode=0o644,
    ) as writer:  # fmt: skip
        for sample in samples:
            fields = encode_sample(sample) if isinstance(sample, Sample) else sample
            if fields["__key__"] in keys:
                raise ValueError(f"key {fields['__key__']!r} occurs twice in the {split} split")
            keys.add(fields["__key__"])
            writer.write(fields)
    if not keys:
        raise ValueError(f"there are no samples to write to the {split} split of '{directory}'")
    for old in directory.glob(f"{split}-*.tar"):
        old.unlink()
    partial = sorted(directory.glob(f".{split}-*.tar.partial"))
    return [path.rename(directory / path.name[1 : -len(".partial")]) for path in partial]


def read_fields(shard: str | Path) -> Iterator[dict[str, Any]]:
    """The undecoded samples of one shard, each a dict of `__key__` and the bytes of every field.

    Raises:
        ValueError: The shard is truncated or corrupt.
    """
    fields: dict[str, Any] = {}
    try:
        with tarfile.open(shard) as tar:
            for member in tar:
                if not member.isfile():
                    continue
                folder, _, base = member.name.removeprefix("./").rpartition("/")
                stem, _, name = base.partition(".")
                key = f"{folder}/{stem}" if folder else stem
                if fields and fields["__key__"] != key:
                    yield fields
                    fields = {}
                content = tar.extractfile(member)
                if content is not None:
                    fields |= {"__key__": key, name: content.read()}
            check_end(tar)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise ValueError(f"shard '{shard}' is missing, truncated or corrupt: {error}") from error
    if fields:
        yield fields


def check_end(tar: tarfile.TarFile) -> None:
    """tarfile takes a broken header, or a cut between two files, for the end; it is not."""
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    rest = tar.fileobj.read(-1)
    if len(rest) < 2 * tarfile.BLOCKSIZE or any(rest):
        raise tarfile.ReadError(f"no end mark at byte {tar.offset}")


def shard_paths(directory: str | Path, split: str) -> list[Path]:
    """The shards of a split, in order.

    Raises:
        ValueError: There are none.
    """
    shards = sorted(Path(directory).glob(f"{split}-*.tar"))
    if not shards:
        raise ValueError(f"'{directory}' holds no {split}-*.tar: is it a folder of one source?")
    return shards


def read_samples(directory: str | Path, split: str) -> Iterator[Sample]:
    """Reads a split in the order it was written; the reader that evaluation uses.

    Raises:
        ValueError: A shard or sample cannot be read; names shard, key and fault.
    """
    for shard in shard_paths(directory, split):
        for fields in read_fields(shard):
            try:
                yield decode_sample(fields)
            except ValueError as error:
                raise ValueError(f"shard '{shard}', key {fields['__key__']!r}: {error}") from error

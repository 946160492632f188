"""Makes a source of others' editing triplets: `manzano data convert triplets SOURCE OUTPUT`.

A triplet is a picture, an instruction and the edited picture, perhaps with a mask. Train and test
share no source picture. A triplet that cannot be used is named and left out. The folder appears
under its name only when it is whole: written, indexed for the loader and checked.
"""

import hashlib
import io
import logging
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageChops, ImageOps

from manzano.data_mix.check import SPLITS, check
from manzano.data_mix.images import load_image
from manzano.data_mix.masks import read_mask
from manzano.data_mix.prepare import prepare
from manzano.data_mix.schema import KEY, Sample, Turn, encode_sample, write_shards
from manzano.data_mix.sources.package_data import is_held_out
from manzano.data_mix.triplet_layouts import Columns, Row, choose_columns, read_rows

logger = logging.getLogger(__name__)

_MARGIN = 24
"""Of 255: shades nearer to black, to white or to each other than this count as the same."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is to be known of triplets besides what they hold."""

    name: str
    """The samples' `source`, and how their keys begin: letters, digits, `_` and `-`."""
    licence: str
    kind: str = ""
    """Their `extra["kind"]`; "": "inpainting" where there is a mask, else "instruction"."""
    test_percent: int = 1
    """About so many of the source pictures are held out."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Names by field of `Columns`, in place of the known ones."""

    def __post_init__(self):
        if not KEY.fullmatch(self.name):
            raise ValueError(
                f"the name {self.name!r} may hold only letters, digits, '_' and '-': give --name"
            )
        if not 0 < self.test_percent < 100:
            raise ValueError(f"test_percent must be between 1 and 99, got {self.test_percent}")


@dataclass(kw_only=True)
class Conversion:
    """What became of the triplets."""

    count: Counter[str] = field(default_factory=Counter)
    """Samples written, by split."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Why a triplet was left out, by its place."""


def convert_triplets(
    source: str | Path,
    output: str | Path,
    settings: Settings,
    *,
    on_row: Callable[[str, int], None] = lambda split, done: None,
) -> Conversion:
    """Writes the triplets of a file or folder (see `triplet_layouts`) as a source of their own.

    Image files are copied as they are, where the schema can read them. The source is read twice,
    once a split, so that nothing is held in memory.

    Args:
        output: The source's folder; must not be there.
        on_row: Called with the split that is being written and how many triplets were read for it.

    Raises:
        ValueError: The source cannot be read, the output is there already, a split got nothing.
    """
    source, output = Path(source), Path(output)
    if output.exists():
        raise ValueError(f"'{output}' is there already: delete it, or give another folder")
    first = next(read_rows(source), None)
    if first is None:
        raise ValueError(f"'{source}' holds no triplets")
    columns = choose_columns(first.values, settings.columns)
    partial = output.with_name(f".{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    result = Conversion()
    for split in reversed(SPLITS):  # the smaller one first: it soon shows what is wrong
        encoded = _encoded(source, split, settings, columns, result, on_row)
        begun = next(encoded, None)
        if begun is None:
            raise ValueError(
                f"none of the triplets of '{source}' is in the {split} split, and "
                f"{len(result.skipped)} were left out: see the messages above, or give another "
                f"--test-percent than {settings.test_percent}"
            )
        write_shards(chain([begun], encoded), partial, split)
    prepare(partial)
    if faults := check(partial):
        raise ValueError(f"{len(faults)} fault(s) in '{partial}', the first: {faults[0]}")
    os.replace(partial, output)
    return result


def _encoded(
    source: Path,
    split: str,
    settings: Settings,
    columns: Columns,
    result: Conversion,
    on_row: Callable[[str, int], None],
) -> Iterator[dict[str, Any]]:
    """The split's triplets as `encode_sample` gives them; keeps count of all in `result`."""
    for number, row in enumerate(read_rows(source)):
        try:
            encoded = _encode(row, number, split, settings, columns)
        except ValueError as error:
            if row.place not in result.skipped:
                logger.warning("left out %s: %s", row.place, error)
            result.skipped[row.place] = str(error)
        else:
            if encoded is not None:
                result.count[split] += 1
                yield encoded
        on_row(split, number + 1)


def _encode(
    row: Row, number: int, split: str, settings: Settings, columns: Columns
) -> dict[str, Any] | None:
    """One triplet; None if it belongs to the other split.

    Raises:
        ValueError: It cannot be used.
    """
    before = row.picture(columns.before)
    shared = row.group
    if columns.concept and (shared := row.values.get(columns.concept)) is None:
        raise ValueError(f"there is nothing in '{columns.concept}'")
    concept = f"{settings.name}/{shared or hashlib.sha256(before).hexdigest()[:16]}"
    if is_held_out(concept, percent=settings.test_percent) != (split == "test"):
        return None
    after, picture = row.picture(columns.after), load_image(before)
    mask = read_region(row.picture(columns.mask), picture) if columns.mask else None
    sample = Sample(
        key=f"{settings.name}-{number:08d}",
        task="editing",
        turns=(Turn(role="user", text=str(row.values.get(columns.instruction) or "")),),
        images=(picture,),
        target=load_image(after),
        mask=mask,
        source=settings.name,
        licence=settings.licence,
        concept=concept,
        extra={"kind": settings.kind or ("instruction" if mask is None else "inpainting")},
    )
    files = {"image0": before, "target": after}
    return encode_sample(sample, files=files)


def read_region(data: bytes, before: Image.Image) -> Image.Image:
    """The mask of an edit from any of the ways in which others mark it.

    It is where the file is transparent; or where a black and white file is white; or else, the file
    being the source picture with a part painted over, where it differs from that.

    Raises:
        ValueError: It cannot be read, or is another picture altogether.
    """
    marked = load_image(data)
    alpha = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGBA").getchannel("A")
    if alpha.getextrema()[0] == 0:
        return read_mask(ImageChops.invert(alpha))
    shades = np.asarray(marked)
    if ((shades < _MARGIN) | (shades > 255 - _MARGIN)).mean() > 0.99:
        return read_mask(marked)
    if marked.size != before.size:
        raise ValueError(f"the mask is {marked.size}, its picture {before.size} pixels")
    differs = np.abs(shades.astype(int) - np.asarray(before)).max(axis=-1) > _MARGIN
    if differs.mean() > 0.95:
        raise ValueError("the mask is neither black and white nor the picture painted over")
    return Image.fromarray((differs * 255).astype(np.uint8))

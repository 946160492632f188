"""The test split of a folder of ours, of drawings or of edits, as a suite of pictures."""

from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image

from manzano.data_mix.schema import (
    Sample,
    decode_sample,
    read_fields,
    sample_faults,
    shard_paths,
)
from manzano.eval.pictures.layouts.layout import Item, Layout, file_name
from manzano.eval.provenance import model_name


@dataclass(frozen=True, kw_only=True)
class HeldOut(Layout):
    """Samples to be drawn; their pictures are KEY.png.

    The split stays in memory as its files are, and is decoded a sample at a time.
    """

    limit: int | None = None
    """The first so many samples are read."""

    suite = "held-out"
    expected = "a folder with test-*.tar"
    task: ClassVar[str] = "generation"

    @classmethod
    def recognises(cls, prompts: Path) -> bool:
        return any(prompts.glob("test-*.tar"))

    def data_files(self) -> list[Path]:
        return shard_paths(self.prompts, "test")

    def items(self) -> list[Item]:
        return [
            self._item(place, fields)
            for place, fields in enumerate(islice(read_split(self.prompts), self.limit))
        ]

    def _item(self, place: int, fields: dict[str, Any]) -> Item:
        prompt, problem, masked = "", "", False
        try:
            sample = self._sample(fields)
            prompt, masked = sample.turns[0].text, sample.mask is not None
        except ValueError as error:
            problem = str(error)
        return Item(
            key=fields["__key__"], prompt=prompt, task=self.task, group=self.task, place=place,
            image=partial(self._reference, fields) if self.edits else None,
            mask=partial(self._mask, fields) if masked else None,
            facts={"fields": fields}, problem=problem,
        )  # fmt: skip

    def sample(self, item: Item) -> Sample:
        """The sample of an item.

        Raises:
            ValueError: It cannot be read, breaks the schema, or is of another task.
        """
        return self._sample(item.facts["fields"])

    def _sample(self, fields: dict[str, Any]) -> Sample:
        sample = decode_sample(fields)
        if faults := sample_faults(sample):
            raise ValueError("; ".join(faults))
        if sample.task != self.task:
            raise ValueError(f"a sample of {sample.task} among those of {self.task}")
        return sample

    def _reference(self, fields: dict[str, Any]) -> Image.Image:
        return self._sample(fields).images[0]

    def _mask(self, fields: dict[str, Any]) -> Image.Image:
        mask = self._sample(fields).mask
        assert mask is not None  # an item has a mask where its sample has one
        return mask

    def files(self, item: Item) -> tuple[str, ...]:
        return (file_name(item.key, ".png"),)

    def scorer(self, height: int, width: int) -> str:
        return "# The pictures of this suite are scored here, by the samples' own."


class HeldOutEdits(HeldOut):
    """Samples whose references are edited."""

    task = "editing"
    edits = True


KINDS: dict[str, type[HeldOut]] = {kind.task: kind for kind in (HeldOut, HeldOutEdits)}
"""By the task of the samples."""


def open_held_out(arguments: Namespace) -> HeldOut:
    """The suite of the folder --data.

    Raises:
        ValueError: There is no such folder, none of its samples can be read, or its task is one
            that makes no pictures.
    """
    if arguments.data is None:
        raise ValueError(
            "--suite held-out needs --data DIR, a folder with test-*.tar of drawings or edits"
        )
    return KINDS[task_of(arguments.data)](
        prompts=arguments.data, folder=arguments.output / HeldOut.suite,
        model=model_name(arguments.model), limit=arguments.limit,
    )  # fmt: skip


def task_of(folder: Path) -> str:
    """The task of the first sample that can be read."""
    fault = ""
    for fields in read_split(folder):
        try:
            task = decode_sample(fields).task
        except ValueError as error:
            fault = fault or f"{fields['__key__']}: {error}"
            continue
        if task not in KINDS:
            raise ValueError(
                f"the samples in {folder} are of {task}: --suite held-out takes "
                f"{' or '.join(KINDS)}"
            )
        return task
    raise ValueError(f"no sample of the test split in {folder} can be read; the first: {fault}")


def read_split(folder: Path) -> Iterator[dict[str, Any]]:
    """The undecoded samples of the test split."""
    return chain.from_iterable(map(read_fields, shard_paths(folder, "test")))

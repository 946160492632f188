"""What every benchmark of drawings or edits has: prompts, and a folder that its scorer reads."""

import json
import shlex
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image

from manzano.data_mix.images import ImageSource

LONGEST_NAME = 255
"""Bytes of a file's name on common file systems."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """One prompt, or one picture with what is to be changed in it."""

    key: str
    """Its name in the log and in score files; no other item has it."""
    prompt: str
    task: str
    """Under which name its scores stand in the score file."""
    group: str
    """What the benchmark averages it with: its tag, category, kind of edit."""
    place: int
    """Among the items of its task, from 0."""
    image: Callable[[], ImageSource] | None = None
    """Gives the picture to be edited; None for a drawing."""
    mask: Callable[[], ImageSource] | None = None
    """Gives where the picture may change, white; None: anywhere."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Its record as the benchmark ships it."""
    problem: str = ""
    """Why it cannot be done at all; "" if nothing speaks against it."""


@dataclass(frozen=True, kw_only=True)
class Layout(ABC):
    """One benchmark: reads its prompts, names the files its scorer reads, tells how to score."""

    prompts: Path
    """The benchmark's own prompt file or folder."""
    folder: Path
    """Which its scorer is given."""
    model: str
    """The model's name, where folders have it."""
    images: Path | None = None
    """Where the pictures lie that are to be edited, for a benchmark that ships them apart."""

    suite: ClassVar[str]
    per_prompt: ClassVar[int] = 1
    """Pictures drawn of each prompt."""
    edits: ClassVar[bool] = False
    """Whether pictures are edited, rather than drawn."""
    expected: ClassVar[str]
    """What its prompts are, for people."""

    @property
    def quoted(self) -> str:
        """The folder, as it stands in a command line."""
        return shlex.quote(str(self.folder.resolve()))

    def beside(self, name: str) -> str:
        """A file or folder beside it, as it stands in a command line."""
        return shlex.quote(str(self.folder.resolve().with_name(name)))

    @classmethod
    @abstractmethod
    def recognises(cls, prompts: Path) -> bool:
        """Whether a path holds prompts of this benchmark."""

    @abstractmethod
    def items(self) -> list[Item]:
        """All items, in the benchmark's order.

        Raises:
            ValueError: if the prompts are damaged.
        """

    def data_files(self) -> list[Path]:
        """What decides the items: the files with their words and pictures."""
        return [self.prompts]

    def truth_files(self) -> list[Path]:
        """What pictures are judged by here, besides: they may come after the drawing."""
        return []

    @abstractmethod
    def files(self, item: Item) -> tuple[str, ...]:
        """The files of an item, from `folder` on."""

    def contents(
        self, item: Item, pictures: Sequence[Image.Image], source: Image.Image | None
    ) -> tuple[Image.Image | str, ...]:
        """What goes into `files`: by default a file for each picture.

        Args:
            pictures: `per_prompt` of them.
            source: what was edited; None for a drawing.
        """
        return tuple(pictures)

    def check_size(self, height: int, width: int) -> None:  # noqa: B027
        """Raises ValueError for a size of pictures that the scorer cannot take."""

    @abstractmethod
    def scorer(self, height: int, width: int) -> str:
        """The official scorer's commands for this folder, and what their environment needs."""


def grid(pictures: Sequence[Image.Image]) -> Image.Image:
    """Four pictures of one size as 2 x 2, row by row."""
    width, height = pictures[0].size
    whole = Image.new("RGB", (2 * width, 2 * height))
    for place, picture in enumerate(pictures):
        whole.paste(picture, (place % 2 * width, place // 2 * height))
    return whole


def cells(whole: Image.Image) -> list[Image.Image]:
    """The four pictures of a `grid`."""
    width, height = whole.width // 2, whole.height // 2
    corners = [(x, y) for y in (0, height) for x in (0, width)]
    return [whole.crop((x, y, x + width, y + height)) for x, y in corners]


def file_name(name: str, suffix: str) -> str:
    """`name` and suffix, if they may name a file.

    Raises:
        ValueError: if they would lead elsewhere, or are too long.
    """
    fits = isinstance(name, str) and name and not set(name) & set("/\\\0")
    if not fits or name.startswith("."):
        raise ValueError(f"{name!r} cannot name a file: the prompts are damaged")
    whole = name + suffix
    if len(whole.encode()) > LONGEST_NAME:
        raise ValueError(f"{whole!r} is longer than {LONGEST_NAME} bytes: it cannot name a file")
    return whole


def read_text(path: Path) -> str:
    """A text file.

    Raises:
        ValueError: if it cannot be read as UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")  # some benchmarks ship a byte order mark
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8: {error}") from error


def read_json(path: Path) -> Any:
    """A JSON file.

    Raises:
        ValueError: if it is none.
    """
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error


def read_json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """Each line that is not blank, as it stands and as what it says.

    Raises:
        ValueError: if one is no JSON.
    """
    # Not splitlines: a string in JSON may hold U+2028 and the like as they are.
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            try:
                yield line, json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"line {number} of {path} is no JSON: {error}") from error


def words(value: Any) -> str:
    """A prompt; "" for what is no text, so that drawing refuses it as it does an empty one."""
    return value if isinstance(value, str) else ""


def has(value: Any, *names: str) -> bool:
    """Whether a value is a JSON object with these names."""
    return isinstance(value, dict) and all(name in value for name in names)

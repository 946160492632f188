"""Is the text that was asked for in the picture? Two OCR engines read it, and no model of ours.

rapidocr (PP-OCRv6 through onnxruntime) and EasyOCR (CRAFT and english_g2 in torch) are of different
make and read from weights that ship inside Python packages: nothing is downloaded. A word counts as
drawn if both engines find it, which neither a lucky misreading nor one engine's blind spot decides.
The weights are for English.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from PIL import Image

from manzano.eval.floors import others
from manzano.eval.metrics import levenshtein

Line = tuple[np.ndarray, str]
"""Corners (4, 2) in pixels, and what stands there."""
Reader = Callable[[np.ndarray], list[Line]]
"""From a picture (H, W, 3), uint8, channels in the order blue, green, red."""
Row = dict[str, float]
"""The scores of one picture by name."""

_SIDE = 256
"""A smaller picture is enlarged until its longer side has so many pixels: engines overlook letters
of ten pixels that they read when enlarged."""
_MAX_DISTANCE = 100
"""OneIG-Bench counts edit distances up to here for English."""


def read_text(pictures: Sequence[Image.Image], engine: str) -> list[str]:
    """What an engine reads in each picture, lines from top to bottom; "" where there is no text.

    Args:
        pictures: Of any size and mode.
        engine: One of ENGINES.

    Raises:
        ValueError: There is no such engine, or its package is not installed.
    """
    if engine not in ENGINES:
        raise ValueError(f"The OCR engine must be one of {sorted(ENGINES)}, got {engine!r}.")
    read = ENGINES[engine]()
    return [_in_order(read(_enlarged(picture))) for picture in pictures]


def word_accuracy(read: str, wanted: str) -> float:
    """The share of the wanted words that were read, each as often as it is wanted, in any order.

    Case and punctuation do not count.

    Raises:
        ValueError: No word is wanted.
    """
    return _found(_words(read), wanted)


def agreed_word_accuracy(reads: Sequence[str], wanted: str) -> float:
    """`word_accuracy` of the words that all engines read; `reads` holds one text an engine."""
    agreed, *others = map(_words, reads)
    for other in others:
        agreed &= other
    return _found(agreed, wanted)


def character_similarity(read: str, wanted: str) -> float:
    """1 - edit distance / length of the longer text, without case and repeated spaces."""
    read, wanted = (" ".join(text.lower().split()) for text in (read, wanted))
    longest = max(len(read), len(wanted))
    return 1 - levenshtein(read, wanted) / longest if longest else 1.0


def oneig_text_score(reads: Sequence[str], wanted: Sequence[str]) -> float:
    """OneIG-Bench's text score over a whole set of English texts (arXiv 2506.07977), in [0, 1].

    1 - min(100, ED)(1 - CR)(1 - WAC) / 100 with the mean edit distance ED, the share CR of texts
    read without an error, and the share WAC of all wanted words that were read. Case counts,
    punctuation does not. OneIG reads with Qwen2.5-VL, so its figures are not comparable with these.

    Raises:
        ValueError: The lists are empty or of unequal length.
    """
    if not wanted or len(reads) != len(wanted):
        raise ValueError(
            f"The text score compares each text read with the one asked for: got {len(reads)} read "
            f"and {len(wanted)} asked for."
        )
    pairs = [(_plain(got), _plain(text)) for got, text in zip(reads, wanted, strict=True)]
    distances = [levenshtein(got, text) for got, text in pairs]
    found = sum((Counter(got.split()) & Counter(text.split())).total() for got, text in pairs)
    words = sum(len(text.split()) for _, text in pairs)
    if not words:
        raise ValueError(f"No word was asked for in any of {len(wanted)} texts.")
    distance = min(_MAX_DISTANCE, float(np.mean(distances)))
    complete = distances.count(0) / len(distances)
    return 1 - distance * (1 - complete) * (1 - found / words) / _MAX_DISTANCE


def text_scores(reads: Mapping[str, Sequence[str]], wanted: Sequence[str]) -> list[Row]:
    """Every score of each picture, and its floor: the same reading held against another's text.

    Args:
        reads: By engine, what `read_text` gave for each picture.
        wanted: The text asked for, by picture.

    Returns:
        For each picture `ENGINE_words`, `ENGINE_similarity` and `agreed_words`, and each of them
        again with `floor_` before it (not if all texts are the same: then there is no other).

    Raises:
        ValueError: An engine read more or fewer pictures than there are texts, or a text has no
            word.
    """
    for engine, texts in reads.items():
        if len(texts) != len(wanted):
            raise ValueError(
                f"{engine} read {len(texts)} pictures, and there are {len(wanted)} texts asked for."
            )
    rows = []
    for index, (text, other) in enumerate(zip(wanted, others(wanted), strict=True)):
        read = {engine: texts[index] for engine, texts in reads.items()}
        row = _row(read, text)
        if other is not None:
            row |= {f"floor_{name}": value for name, value in _row(read, other).items()}
        rows.append(row)
    return rows


def _row(read: Mapping[str, str], wanted: str) -> Row:
    row: Row = {}
    for engine, text in read.items():
        row[f"{engine}_words"] = word_accuracy(text, wanted)
        row[f"{engine}_similarity"] = character_similarity(text, wanted)
    return row | {"agreed_words": agreed_word_accuracy(list(read.values()), wanted)}


def _plain(text: str) -> str:
    """Letters, digits and single spaces."""
    return " ".join(re.sub(r"[^\w\s]|_", "", text).split())


def _words(text: str) -> Counter[str]:
    return Counter(_plain(text).lower().split())


def _found(read: Counter[str], wanted: str) -> float:
    words = _words(wanted)
    if not words:
        raise ValueError(f"There is no word to look for in {wanted!r}.")
    return (words & read).total() / words.total()


def _enlarged(picture: Image.Image) -> np.ndarray:
    scale = max(1.0, _SIDE / max(picture.size))
    width, height = (round(side * scale) for side in picture.size)
    large = picture.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(large)[..., ::-1])  # (H, W, 3), blue first


def _in_order(lines: list[Line]) -> str:
    """Row by row; what begins above the middle of a row's first piece belongs to that row."""
    rows: list[list[Line]] = []
    for corners, text in sorted(lines, key=lambda line: line[0][:, 1].mean()):
        if rows and corners[:, 1].min() < rows[-1][0][0][:, 1].mean():
            rows[-1].append((corners, text))
        else:
            rows.append([(corners, text)])
    ordered = [sorted(row, key=lambda line: line[0][:, 0].min()) for row in rows]
    return " ".join(text for row in ordered for _, text in row)


def _imported(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        raise ValueError(
            f"reading text needs the package '{name}', which cannot be imported ({error}): "
            "pip install manzano[judges]"
        ) from error


@cache
def _rapidocr() -> Reader:
    package = _imported("rapidocr")
    folder = Path(str(package.__file__)).parent / "models"
    weights = {
        "Det": "PP-OCRv6_det_small.onnx",
        "Cls": "ch_ppocr_mobile_v2.0_cls_mobile.onnx",
        "Rec": "PP-OCRv6_rec_small.onnx",
    }
    # Paths that are given are never fetched: a missing file is an error.
    paths = {f"{part}.model_path": str(folder / name) for part, name in weights.items()}
    engine = package.RapidOCR(params={"Global.log_level": "critical", **paths})

    def read(picture: np.ndarray) -> list[Line]:
        result = engine(picture)
        if not result.txts:
            return []
        return list(zip(map(np.asarray, result.boxes), result.txts, strict=True))

    return read


@cache
def _easyocr() -> Reader:
    package, folder = _imported("easyocr"), _imported("easyocr_en_models").model_dir()
    engine = package.Reader(
        ["en"],
        gpu=torch.cuda.is_available(),
        model_storage_directory=folder,
        user_network_directory=folder,  # unused, but made in the home directory if not given
        download_enabled=False,
        quantize=False,  # 8-bit weights read differently on a CPU
        verbose=False,
    )

    def read(picture: np.ndarray) -> list[Line]:
        return [(np.asarray(corners), text) for corners, text, _ in engine.readtext(picture)]

    return read


ENGINES: Mapping[str, Callable[[], Reader]] = {"rapidocr": _rapidocr, "easyocr": _easyocr}
"""Loads an engine, once a process, by name."""

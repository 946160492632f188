"""Access to data that ships inside optional packages, with one message when they are missing."""

import hashlib
from importlib import metadata, util
from pathlib import Path


def package_folder(module: str) -> Path:
    """The folder of an installed package, found without importing it.

    Raises:
        ValueError: It is not installed.
    """
    spec = util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ValueError(
            f"the demo data needs the package '{module}', which is not installed: "
            "pip install manzano[demo]"
        )
    return Path(spec.origin).parent


def package_version(distribution: str) -> str:
    """The version of an installed distribution.

    Raises:
        ValueError: It is not installed.
    """
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError as error:
        raise ValueError(
            f"the demo data needs the package '{distribution}', which is not installed: "
            "pip install manzano[demo]"
        ) from error


def is_held_out(name: str, *, percent: int) -> bool:
    """Whether a concept belongs to the test split: a fixed hash, the same on every machine."""
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % 100 < percent

"""A mixture: which sources are read, and how often each.

A weight counts samples, not tokens and not loss terms: of sources with the weights 0.4, 0.4 and
0.2, two samples in five come from the first. A source is repeated as often as its weight asks, in a
new order each time.
"""

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from manzano.data_mix.prepare import is_prepared


@dataclass(frozen=True, kw_only=True)
class MixtureConfig:
    """Folders of shards under one path, each with a weight."""

    path: str
    """Folder that holds a folder for each source."""
    sources: Mapping[str, float]
    """Weight of each source, by its folder as seen from `path` (so "../other/name" is one of
    another corpus); they need not add up to 1."""

    def __post_init__(self):
        if not self.sources:
            raise ValueError("sources is empty; name at least one folder and its weight")
        for name, weight in self.sources.items():
            if not (weight > 0 and math.isfinite(weight)):
                raise ValueError(
                    f"the weight of source '{name}' is {weight}; it must be above 0 (to leave a "
                    "source out, do not name it)"
                )

    def shares(self) -> dict[str, float]:
        """The part of all samples that comes from each source; adds up to 1."""
        total = sum(self.sources.values())
        return {name: weight / total for name, weight in self.sources.items()}

    def check_folders(self) -> None:
        """Looks whether every source can be read.

        Raises:
            ValueError: The path or a source's folder does not exist, or it is not prepared.
        """
        root = Path(self.path)
        if not root.is_dir():
            raise ValueError(
                f"there is no folder '{root}'; make the demo corpus with "
                f"`manzano data build demo --output {root}`"
            )
        there = sorted(folder.name for folder in root.iterdir() if any(folder.glob("*.tar")))
        for name in self.sources:
            if not any((root / name).glob("*.tar")):
                nearest = difflib.get_close_matches(name, there, n=1)
                hint = f"; did you mean '{nearest[0]}'?" if nearest else ""
                raise ValueError(
                    f"there is no source '{name}' in '{root}'{hint} It holds: {', '.join(there)}"
                )
            if not is_prepared(root / name):
                raise ValueError(
                    f"source '{root / name}' is not prepared for loading; call "
                    "manzano.data_mix.prepare.prepare on it, or `energon prepare`"
                )

    def write_metadataset(self, path: str | Path, split: str = "train") -> Path:
        """Writes the mixture as an energon MetadatasetV2, to be read as its "train" split.

        Args:
            path: The YAML file to write.
            split: The split of the sources: "train" or "test".

        Raises:
            ValueError: See `check_folders`.
        """
        self.check_folders()
        blend = [
            {
                "weight": float(weight),
                "path": str((Path(self.path) / name).resolve()),
                "split_part": split,
                "subflavors": {"source": name},
            }
            for name, weight in self.sources.items()
        ]
        metadataset = {
            "__module__": "megatron.energon",
            "__class__": "MetadatasetV2",
            "splits": {"train": {"blend": blend}},
        }
        Path(path).write_text(yaml.safe_dump(metadataset, sort_keys=False))
        return Path(path)

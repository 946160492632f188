"""What the stages' configurations say about data, and the loader made of it."""

from dataclasses import dataclass

from manzano.data_mix.loader import build_loader
from manzano.data_mix.mixture import MixtureConfig


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """A mixture and how it is read."""

    mixture: MixtureConfig
    """Sources and their weights."""
    batch_size: int
    """Samples (or packed rows) per rank in a micro-batch."""
    num_workers: int = 1
    """Loader processes per rank; 0 reads in the training process."""
    shuffle_buffer: int = 1000
    """Samples among which the next one is drawn."""
    packing_buffer: int = 64
    """Samples among which rows are packed (stages that pack)."""

    def __post_init__(self):
        if self.batch_size < 1:
            raise ValueError(f"data.batch_size is {self.batch_size}; it must be at least 1.")


def open_loader(
    data: DataConfig, encoder, *, seed: int, rank: int, world_size: int, packed: bool = False
):
    """The endless, exactly resumable training loader of a mixture."""
    return build_loader(
        data.mixture,
        encoder,
        batch_size=data.batch_size,
        seed=seed,
        num_workers=data.num_workers,
        rank=rank,
        world_size=world_size,
        shuffle_buffer=data.shuffle_buffer,
        packing_buffer=data.packing_buffer if packed else None,
    )

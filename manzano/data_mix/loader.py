"""The training loader: a mixture, read without end, shuffled, packed, and resumable to the sample.

Energon reads, blends, shuffles and keeps the state; an encoder says what a stage makes of samples:

    shards -> raw bytes -> shuffle buffer -> decode, encode -> [packing buffer -> rows] -> collate

Bytes are decoded after the shuffle buffer, which therefore stays small. Random choices of an
encoder (`random`, `numpy.random`, `torch`) are seeded by sample, so a resumed run repeats them.
"""

import logging
import random
import tempfile
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, Protocol, runtime_checkable

import numpy as np
import torch
from megatron.energon import (
    Cooker,
    DefaultTaskEncoder,
    SavableDataLoader,
    SkipSample,
    WorkerConfig,
    edataclass,
    get_savable_loader,
    get_train_dataset,
    stateless,
)
from megatron.energon import Sample as EnergonSample
from megatron.energon.errors import reraise_exception
from megatron.energon.rng import SystemRng

from manzano.data_mix.mixture import MixtureConfig
from manzano.data_mix.packing import pack
from manzano.data_mix.schema import Sample, decode_sample

logger = logging.getLogger(__name__)

SLICE = 100
"""Samples that are read in a row before the reader jumps elsewhere in its shards."""

PASSED_OVER = 10_000
"""Samples of no use in a row, of one worker, after which the mixture is taken to hold no others."""


class Encoder(Protocol):
    """What a stage makes of samples."""

    def encode(self, sample: Sample) -> Any:
        """One example of the stage, or None if it has no use for the sample."""
        ...

    def collate(self, examples: list[Any]) -> Any:
        """A batch, of examples or (when packing) of rows: lists of examples."""
        ...


@runtime_checkable
class PackingEncoder(Protocol):
    """An encoder whose examples share rows of a fixed number of tokens."""

    row_length: int

    def encode(self, sample: Sample) -> Any: ...

    def collate(self, examples: list[list[Any]]) -> Any: ...

    def length(self, example: Any) -> int:
        """Tokens of an example, at most `row_length`."""
        ...


@runtime_checkable
class GroupingEncoder(Protocol):
    """An encoder whose examples share a batch only with others of their group."""

    def encode(self, sample: Sample) -> Any: ...

    def collate(self, examples: list[Any]) -> Any: ...

    def group(self, example: Any) -> Hashable: ...


@edataclass
class _Held(EnergonSample):
    """Anything on its way through energon, with the key by which energon finds it again."""

    value: Any


@stateless
def _hold(fields: dict[str, Any]) -> _Held:
    base = {name: fields[name] for name in ("__key__", "__restore_key__", "__sources__")}
    return _Held(**base, value=dict(fields))


class SampleEncoder(DefaultTaskEncoder):
    """Runs an `Encoder` inside energon."""

    decoder = None  # energon hands over the bytes; `decode_sample` reads them
    cookers = (Cooker(_hold),)

    def __init__(self, encoder: Encoder):
        super().__init__()
        self.encoder = encoder
        self.passed_over = 0

    @stateless
    def encode_sample(self, sample: _Held) -> _Held:
        try:
            decoded = decode_sample(sample.value)
            with _seeded(self._sample_seed()):
                example = self.encoder.encode(decoded)
        except ValueError as error:
            raise ValueError(f"{_place(sample)}: {error}") from error
        if example is None:
            self._pass_over()
        self.passed_over = 0
        return _Held.derive_from(sample, value=example)

    def _pass_over(self) -> NoReturn:
        """Energon would look for a sample of use without end."""
        self.passed_over += 1
        if self.passed_over >= PASSED_OVER:
            raise ValueError(
                f"the last {PASSED_OVER:,} samples were all of no use to the stage (no picture, or "
                "one too small or too long): give the mixture sources that it can use, or lower "
                "min_short_side"
            )
        raise SkipSample

    def _sample_seed(self) -> int:
        config = WorkerConfig.active_worker_config
        assert config is not None
        return SystemRng.get_seed_from_args(config.worker_seed(), self.current_sample_index)

    def select_samples_to_pack(self, samples: list[_Held]) -> list[list[_Held]]:
        assert isinstance(self.encoder, PackingEncoder)
        lengths = [self.encoder.length(sample.value) for sample in samples]
        rows = pack(lengths, self.encoder.row_length)
        return [[samples[index] for index in row] for row in rows]

    @stateless
    def pack_selected_samples(self, samples: list[_Held]) -> _Held:
        return _Held.derive_from(samples[0], value=[sample.value for sample in samples])

    @stateless
    def batch(self, samples: list[_Held]) -> Any:
        return self.encoder.collate([sample.value for sample in samples])


class GroupedSampleEncoder(SampleEncoder):
    """Runs a `GroupingEncoder`: a batch is full when its group has `batch_size` examples."""

    def batch_group_criterion(self, sample: _Held) -> tuple[Hashable, None]:
        assert isinstance(self.encoder, GroupingEncoder)
        return self.encoder.group(sample.value), None


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seeds the CPU's random generators, and puts them back afterwards.

    `torch.manual_seed` would cost more than decoding: before a GPU is in use it notes a traceback
    for each device type, and keeps it.
    """
    before = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.default_generator.set_state(before[2])


def build_loader(
    mixture: MixtureConfig,
    encoder: Encoder,
    *,
    batch_size: int,
    seed: int,
    num_workers: int,
    rank: int = 0,
    world_size: int = 1,
    shuffle_buffer: int,
    packing_buffer: int | None = None,
    split: str = "train",
    skip_faulty: bool = False,
) -> SavableDataLoader:
    """An endless iterable of batches with `save_state_rank()` and `restore_state_rank(state)`.

    A loader made with the same arguments, after `restore_state_rank`, yields the batches that the
    one whose state was saved would have yielded next.

    Close the iterator when done with it (`batches = iter(loader)`, then `batches.close()`): left to
    the garbage collector, the loader waits five seconds for each of its worker processes.

    Args:
        mixture: Sources and their weights.
        encoder: What the stage makes of a sample.
        batch_size: Examples (rows, when packing) in a batch.
        seed: Of the order and of the encoder's random choices.
        num_workers: Loader processes of this rank; 0 loads in this process.
        rank, world_size: Each rank reads its own part.
        shuffle_buffer: Samples held, undecoded, among which the next is chosen.
        packing_buffer: Examples among which rows are packed; None does not pack.
        split: "train" or "test".
        skip_faulty: Log and leave out a sample that cannot be decoded or encoded; else raise.

    Raises:
        ValueError: The mixture cannot be read, a number is out of range, or `packing_buffer` is
            given with an encoder that cannot pack. While iterating: a sample cannot be decoded or
            encoded; names shard and key. Or the encoder has no use for any sample.
    """
    if batch_size < 1 or num_workers < 0 or shuffle_buffer < 1 or not 0 <= rank < world_size:
        raise ValueError(
            "batch_size and shuffle_buffer must be at least 1, num_workers at least 0, rank below "
            f"world_size; got {batch_size}, {shuffle_buffer}, {num_workers}, {rank} of {world_size}"
        )
    if packing_buffer is not None and not isinstance(encoder, PackingEncoder):
        raise ValueError(
            f"{type(encoder).__name__} cannot pack: it lacks row_length or length; leave "
            "packing_buffer out"
        )
    task_encoder = GroupedSampleEncoder if isinstance(encoder, GroupingEncoder) else SampleEncoder
    worker_config = WorkerConfig(
        rank=rank,
        world_size=world_size,
        num_workers=num_workers,
        seed_offset=seed,
        global_error_handler=_log_faulty if skip_faulty else reraise_exception,
    )
    with tempfile.TemporaryDirectory() as folder:
        dataset = get_train_dataset(
            mixture.write_metadataset(Path(folder) / "mixture.yaml", split),
            worker_config=worker_config,
            batch_size=batch_size,
            packing_buffer_size=packing_buffer,
            shuffle_buffer_size=shuffle_buffer,
            max_samples_per_sequence=SLICE,
            task_encoder=task_encoder(encoder),
        )
    loader = get_savable_loader(dataset)
    loader.pin_memory = torch.accelerator.is_available()  # energon asks for it even without one
    return loader


def _log_faulty(error: Exception, sample: Any, sources: Any = None) -> None:
    logger.warning("left out: %s", error)


def _place(sample: _Held) -> str:
    shard = sample.__sources__[0].shard_name if sample.__sources__ else "unknown"
    return f"shard '{shard}', key {sample.__key__!r}"

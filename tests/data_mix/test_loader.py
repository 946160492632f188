import pickle
import random
from collections import Counter
from contextlib import closing

import numpy as np
import pytest
import torch

from manzano.data_mix.encoders import BucketEncoder
from manzano.data_mix.loader import build_loader
from manzano.data_mix.mixture import MixtureConfig
from manzano.data_mix.prepare import prepare
from manzano.data_mix.schema import encode_sample, write_shards
from tests.data_mix.samples import make_folder, make_sample, picture

# Loader processes are forked beside this one's threads, which newer Pythons warn of.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*")


class KeyEncoder:
    """Examples are keys with random numbers; rows of at most 30 "tokens"."""

    row_length = 30

    def encode(self, sample):
        if sample.task == "editing":
            return None
        drawn = random.random(), float(np.random.rand()), float(torch.rand(()))
        return sample.key, drawn

    def collate(self, examples):
        return examples

    def length(self, example):
        return 5 + int(example[0][-1])


class PlainEncoder:
    def encode(self, sample):
        return sample.key

    def collate(self, examples):
        return examples


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp("corpus")
    for task in ("understanding", "generation", "text", "editing"):
        make_folder(root / task, task)
    return root


def loader_of(corpus, encoder=None, sources=None, **changes):
    mixture = MixtureConfig(
        path=str(corpus), sources=sources or {"understanding": 2.0, "generation": 1.0, "text": 1.0}
    )
    options = {"batch_size": 3, "seed": 5, "num_workers": 0, "shuffle_buffer": 10}
    return build_loader(mixture, encoder or KeyEncoder(), **(options | changes))


def take(loader, count):
    with closing(iter(loader)) as batches:
        return [next(batches) for _ in range(count)]


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("packing_buffer", [None, 12])
def test_a_resumed_loader_continues_as_if_never_stopped(corpus, num_workers, packing_buffer):
    options = {"num_workers": num_workers, "packing_buffer": packing_buffer}
    loader = loader_of(corpus, **options)
    with closing(iter(loader)) as batches:
        for _ in range(5):
            next(batches)
        state = loader.save_state_rank()
        expected = [next(batches) for _ in range(8)]
    resumed = loader_of(corpus, **options)
    resumed.restore_state_rank(state)
    assert take(resumed, 8) == expected


def test_the_same_seed_gives_the_same_batches_and_another_others(corpus):
    first = take(loader_of(corpus), 6)
    assert take(loader_of(corpus), 6) == first
    assert take(loader_of(corpus, seed=6), 6) != first


def test_random_choices_of_the_encoder_leave_the_callers_generators_alone(corpus):
    batches = iter(loader_of(corpus))
    read = [next(batches)]  # starting a DataLoader draws a number for its workers

    random.seed(3)
    torch.manual_seed(3)
    expected = random.random(), torch.rand(())
    random.seed(3)
    torch.manual_seed(3)
    read += [next(batches) for _ in range(3)]
    assert (random.random(), torch.rand(())) == expected
    drawn = [tuple(numbers) for batch in read for _, numbers in batch]
    assert len(set(drawn)) == len(drawn)


def test_a_blend_has_the_proportions_asked_for(corpus):
    keys = [key for batch in take(loader_of(corpus, PlainEncoder()), 400) for key in batch]
    counts = Counter(key.split("-")[0] for key in keys)
    for task, share in {"understanding": 0.5, "generation": 0.25, "text": 0.25}.items():
        assert abs(counts[task] / len(keys) - share) < 0.04


def test_every_sample_comes_once_before_any_comes_twice(corpus):
    loader = loader_of(corpus, PlainEncoder(), {"text": 1.0}, batch_size=1, shuffle_buffer=1)
    keys = [key for batch in take(loader, 24) for key in batch]
    assert sorted(keys) == [f"text-{index:04d}" for index in range(24)]


def test_two_ranks_read_different_samples(corpus):
    parts = [
        loader_of(
            corpus, PlainEncoder(), {"text": 1.0},
            rank=rank, world_size=2, batch_size=1, shuffle_buffer=1,
        )
        for rank in range(2)
    ]  # fmt: skip
    keys = [{key for batch in take(part, 12) for key in batch} for part in parts]
    assert len(keys[0] | keys[1]) == 24


def test_rows_are_full_but_never_too_long(corpus):
    encoder = KeyEncoder()
    for batch in take(loader_of(corpus, packing_buffer=12), 10):
        for row in batch:
            assert sum(map(encoder.length, row)) <= encoder.row_length


def test_a_sample_the_encoder_has_no_use_for_is_passed_over(corpus):
    sources = {"text": 1.0, "editing": 1.0}
    keys = [key for batch in take(loader_of(corpus, sources=sources), 10) for key, _ in batch]
    assert all(key.startswith("text") for key in keys)


def test_the_test_split_is_read_when_asked_for(corpus):
    loader = loader_of(corpus, PlainEncoder(), {"text": 1.0}, split="test")
    keys = {key for batch in take(loader, 8) for key in batch}
    assert keys == {f"text-{index:04d}" for index in range(24, 28)}


@pytest.fixture
def faulty(tmp_path):
    folder = make_folder(tmp_path / "faulty", num_train=6)
    shard = folder / "train-000000.tar"
    png = encode_sample(make_sample(index=1))["image0.png"]
    shard.write_bytes(shard.read_bytes().replace(png, b"\0" * len(png)))
    return tmp_path


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_corrupt_picture_stops_the_loader_with_shard_and_key(faulty, num_workers):
    loader = loader_of(faulty, PlainEncoder(), {"faulty": 1.0}, num_workers=num_workers)
    with pytest.raises(ValueError, match=r"train-000000\.tar.*understanding-0001.*image0\.png"):
        take(loader, 6)


def test_a_corrupt_picture_is_left_out_and_logged_when_asked_to(faulty, caplog):
    loader = loader_of(faulty, PlainEncoder(), {"faulty": 1.0}, skip_faulty=True)
    keys = {key for batch in take(loader, 6) for key in batch}
    assert keys == {f"understanding-{index:04d}" for index in (0, 2, 3, 4, 5)}
    assert "understanding-0001" in caplog.text


def test_an_encoder_that_cannot_pack_is_refused(corpus):
    with pytest.raises(ValueError, match="PlainEncoder cannot pack"):
        loader_of(corpus, PlainEncoder(), packing_buffer=8)
    with pytest.raises(ValueError, match="batch_size and shuffle_buffer"):
        loader_of(corpus, batch_size=0)


SHAPES = ((64, 64), (120, 60), (60, 120), (64, 60), (90, 30), (800, 8))
"""Width and height; the last is too long for any bucket."""


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes") / "drawing"
    samples = [
        make_sample("generation", index, target=picture(index, SHAPES[index % len(SHAPES)]))
        for index in range(48)
    ]
    write_shards(samples, folder, "train", samples_per_shard=24)
    write_shards([make_sample("generation", 99)], folder, "test")
    prepare(folder)
    return folder.parent


def bucket_loader(shapes, **changes):
    encoder = BucketEncoder(32, step=8, tokenizer_size=24)
    return loader_of(shapes, encoder, {"drawing": 1.0}, **changes)


def equal(one, other) -> bool:
    return torch.equal(one.pixels, other.pixels) and torch.equal(one.seen, other.seen)


@pytest.mark.parametrize(("num_workers", "read"), [(0, 1), (0, 7), (1, 7)])
def test_a_resumed_loader_goes_on_with_half_full_buckets(shapes, num_workers, read):
    loader = bucket_loader(shapes, num_workers=num_workers)
    with closing(iter(loader)) as batches:
        for _ in range(read):
            next(batches)
        state = pickle.loads(pickle.dumps(loader.save_state_rank()))
        expected = [next(batches) for _ in range(12)]
    assert len({batch.pixels.shape for batch in expected}) == 4
    resumed = bucket_loader(shapes, num_workers=num_workers)
    resumed.restore_state_rank(state)
    found = take(resumed, 12)
    assert all(equal(*pair) for pair in zip(found, expected, strict=True))


def test_buckets_pass_over_no_picture_that_has_one(shapes):
    """All pictures have colours of their own; two rounds of 40 pictures, three to a batch."""
    batches = take(bucket_loader(shapes, shuffle_buffer=1), 28)
    assert {tuple(batch.pixels.shape) for batch in batches} == {
        (3, 3, 32, 32), (3, 3, 24, 48), (3, 3, 48, 24), (3, 3, 16, 56)
    }  # fmt: skip
    seen = {tuple(p[:, 0, 0].tolist()) for batch in batches for p in batch.pixels}
    assert len(seen) == 40


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_mixture_without_a_sample_of_use_is_an_error_and_not_an_endless_search(
    shapes, num_workers, monkeypatch
):
    monkeypatch.setattr("manzano.data_mix.loader.PASSED_OVER", 100)
    encoder = BucketEncoder(32, step=8, min_short_side=65)
    empty = loader_of(shapes, encoder, {"drawing": 1.0}, num_workers=num_workers)
    with pytest.raises(ValueError, match="the last 100 samples were all of no use"):
        take(empty, 1)

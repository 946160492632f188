import json
import shutil

import pytest

from manzano.data_mix.check import check
from manzano.data_mix.prepare import prepare
from manzano.data_mix.schema import Sample, Turn, encode_sample, write_shards
from tests.data_mix.samples import make_folder, make_sample, picture


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "source", num_train=6)


def faults(folder):
    return [(fault.key, fault.fault) for fault in check(folder)]


def spoil(folder, index: int, old: bytes, new: bytes):
    """Replaces bytes of one training sample by as many others, so that the tar stays sound."""
    assert len(old) == len(new)
    shard = folder / f"train-00000{index // 3}.tar"
    data = shard.read_bytes()
    assert data.count(old) == 1
    shard.write_bytes(data.replace(old, new))


def test_a_good_folder_has_no_faults(folder):
    assert check(folder) == []
    assert check(folder.parent) == []


def test_progress_counts_the_shards(folder):
    seen = []
    check(folder, on_shard=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_every_bad_sample_is_reported_not_only_the_first(folder):
    for index in (0, 2, 4):
        png = encode_sample(make_sample(index=index))["image0.png"]
        spoil(folder, index, png, b"\0" * len(png))
    found = faults(folder)
    assert [key for key, _ in found] == [f"understanding-000{index}" for index in (0, 2, 4)]
    assert all("field image0.png" in fault for _, fault in found)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('"understanding"', '"understandinG"', "unknown task"),
        ('"turns"', '"turnz"', "lacks turns"),
        ('"user"', '"usr_"', "has role 'usr_'"),
        ('"question 1?"', '"           "', "turn 0 has no text"),
        ('"num_images": 1', '"num_images": 2', "missing field image1"),
        (
            '"caption": "picture 1"',
            '"caption":          11',
            "caption in field json must be a string",
        ),
        ('{"caption"', '?"caption"', "not valid JSON"),
    ],
)
def test_a_fault_in_the_json_is_found(folder, old, new, expected):
    record = encode_sample(make_sample(index=1))["json"]
    spoil(folder, 1, record, record.replace(old.encode(), new.encode()))
    found = faults(folder)
    assert {key for key, _ in found} == {"understanding-0001"}
    assert any(expected in fault for _, fault in found)


def test_missing_answer_and_missing_target_are_found(folder):
    record = json.loads(encode_sample(make_sample(index=1))["json"])
    assert record["turns"][1]["role"] == "assistant"
    raw = encode_sample(make_sample(index=1))["json"]
    spoil(folder, 1, raw, raw.replace(b'"assistant"', b'"user"     '))
    raw = encode_sample(make_sample(index=2))["json"]
    spoil(folder, 2, raw, raw.replace(b'"understanding"', b'"generation"   '))
    found = faults(folder)
    assert (
        "understanding-0001",
        "understanding needs an answer: there is no assistant turn",
    ) in found
    assert ("understanding-0002", "generation needs a target image") in found


@pytest.mark.parametrize("keep", [100, 1024, 2560])
def test_a_truncated_shard_is_found_and_the_others_are_still_read(folder, keep):
    shard = folder / "train-000000.tar"
    shard.write_bytes(shard.read_bytes()[:keep])
    png = encode_sample(make_sample(index=4))["image0.png"]
    spoil(folder, 4, png, b"\0" * len(png))
    found = faults(folder)
    assert any("truncated or corrupt" in fault for _, fault in found)
    assert any(key == "understanding-0004" for key, _ in found)


def test_a_shard_of_noise_is_found(folder):
    (folder / "train-000001.tar").write_bytes(b"no tar" * 1000)
    assert any("train-000001.tar" in fault and "corrupt" in fault for _, fault in faults(folder))


def test_a_missing_shard_a_missing_split_and_a_missing_index_are_found(folder):
    (folder / "train-000001.tar").unlink()
    (folder / "test-000000.tar").unlink()
    found = [(fault.shard.split("/")[-1], fault.fault) for fault in check(folder)]
    assert ("train-000001.tar", "is in the index but missing") in found
    assert ("source", "there is no test-*.tar") in found
    shutil.rmtree(folder / ".nv-meta")
    assert any("no .nv-meta index" in fault for _, fault in faults(folder))


def test_an_index_that_is_out_of_date_is_found(folder):
    write_shards([make_sample(index=index) for index in range(5)], folder, "train")
    assert any("has 5 samples, 3 by the index" in fault for _, fault in faults(folder))


def test_a_key_that_occurs_in_two_shards_is_found(folder):
    write_shards([make_sample(index=0, concept="other")], folder, "test")
    assert ("understanding-0000", "key occurs twice, also in train-000000.tar") in faults(folder)


def test_a_concept_shared_by_train_and_test_is_found(folder):
    write_shards([make_sample(index=9, concept="understanding/0")], folder, "test")
    prepare(folder)
    assert faults(folder) == [
        ("understanding-0009", "concept 'understanding/0' is in the train split too")
    ]


def test_a_folder_that_is_none_or_holds_nothing_is_a_fault(tmp_path):
    assert [fault.fault for fault in check(tmp_path / "none")] == ["there is no such folder"]
    assert [fault.fault for fault in check(tmp_path)] == ["holds no train-*.tar and no test-*.tar"]


def test_a_fault_reads_as_one_line():
    sample = Sample(
        key="a", task="text", turns=(Turn(role="assistant", text="x"),), images=(picture(),),
        source="s", licence="l", concept="c",
    )  # fmt: skip
    with pytest.raises(ValueError, match="sample 'a': text takes no input image; got 1"):
        encode_sample(sample)

import hashlib
import tarfile

import pytest
from PIL import Image

from manzano.data_mix.schema import (
    TASKS,
    Sample,
    Turn,
    decode_sample,
    encode_sample,
    read_fields,
    read_samples,
    sample_faults,
    write_shards,
)
from tests.data_mix.samples import hole, make_sample, picture


def test_what_is_written_is_read(tmp_path):
    samples = [make_sample(task, index) for task in TASKS for index in range(5)]  # type: ignore[arg-type]
    shards = write_shards(samples, tmp_path, "train", samples_per_shard=7)
    assert [shard.name for shard in shards] == [f"train-00000{i}.tar" for i in range(3)]
    assert list(read_samples(tmp_path, "train")) == samples


def test_the_same_samples_give_the_same_bytes(tmp_path):
    def write(folder):
        samples = [make_sample("editing", index) for index in range(5)]
        return [shard.read_bytes() for shard in write_shards(samples, tmp_path / folder, "test")]

    assert write("first") == write("second")


def test_text_in_any_script_survives(tmp_path):
    turns = (Turn(role="assistant", text='Zeichen: äöü 漢字 "quoted" \n 🍎'),)
    sample = make_sample("text", turns=turns, caption="ü")
    write_shards([sample], tmp_path, "train")
    assert list(read_samples(tmp_path, "train")) == [sample]


def test_an_interrupted_write_leaves_the_old_shards_and_no_new_ones(tmp_path):
    write_shards([make_sample()], tmp_path, "train")
    before = (tmp_path / "train-000000.tar").read_bytes()

    def breaks_off():
        yield make_sample(index=1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shards(breaks_off(), tmp_path, "train")
    assert [path.name for path in tmp_path.glob("*.tar")] == ["train-000000.tar"]
    assert (tmp_path / "train-000000.tar").read_bytes() == before


def test_a_shorter_rewrite_leaves_no_shard_of_the_longer_one(tmp_path):
    samples = [make_sample(index=index) for index in range(6)]
    write_shards(samples, tmp_path, "train", samples_per_shard=2)
    write_shards(samples[:2], tmp_path, "train", samples_per_shard=2)
    assert list(read_samples(tmp_path, "train")) == samples[:2]


def test_a_repeated_key_and_an_empty_split_are_refused(tmp_path):
    with pytest.raises(ValueError, match="'understanding-0000' occurs twice"):
        write_shards([make_sample(), make_sample()], tmp_path, "train")
    with pytest.raises(ValueError, match="no samples"):
        write_shards([], tmp_path, "train")


@pytest.mark.parametrize(
    ("task", "changes", "fault"),
    [
        ("understanding", {"task": "reasoning"}, "unknown task 'reasoning'"),
        ("understanding", {"turns": ()}, "no turns"),
        ("understanding", {"turns": (Turn(role="user", text="q"),)}, "no assistant turn"),
        (
            "understanding",
            {"turns": (Turn(role="assistant", text="a"), Turn(role="user", text="q"))},
            "must alternate",
        ),
        (
            "understanding",
            {"turns": (Turn(role="user", text=" "), Turn(role="assistant", text="a"))},
            "turn 0 has no text",
        ),
        ("understanding", {"images": ()}, "at least one image"),
        ("understanding", {"target": picture()}, "takes no target"),
        ("generation", {"target": None}, "needs a target"),
        ("generation", {"images": (picture(),)}, "takes no input image"),
        ("editing", {"images": ()}, "exactly one reference image"),
        ("text", {"turns": (Turn(role="user", text="q"),)}, "exactly one assistant turn"),
        ("editing", {"turns": (Turn(role="assistant", text="a"),)}, "at most one assistant turn"),
        (
            "generation",
            {"turns": tuple(Turn(role=r, text="t") for r in ("user", "assistant", "user"))},
            "at most one assistant turn",
        ),
        ("text", {"key": "a.b"}, "may hold only letters"),
        ("understanding", {"mask": hole()}, "understanding takes no mask"),
        ("editing", {"mask": hole((6, 8))}, "6 x 8 pixels and its picture 8 x 6"),
        ("editing", {"mask": hole(), "target": picture(1, (9, 6))}, "its picture 9 x 6"),
        ("editing", {"mask": hole(), "images": (picture(0, (9, 6)),)}, "its picture 9 x 6"),
        ("editing", {"mask": hole().convert("RGB")}, 'mode "RGB", not "L"'),
        ("editing", {"mask": Image.new("L", (8, 6))}, "nothing in the mask is white"),
    ],
)
def test_a_fault_is_named_and_refused(task, changes, fault):
    sample = make_sample(task, **changes)
    assert any(fault in found for found in sample_faults(sample))
    with pytest.raises(ValueError, match=fault):
        encode_sample(sample)


def test_pairs_are_the_questions_with_their_answers():
    turns = [("user", "a?"), ("assistant", "b"), ("user", "c?"), ("assistant", "d")]
    sample = make_sample(turns=tuple(Turn(role=role, text=text) for role, text in turns))  # type: ignore[arg-type]
    assert sample.pairs() == [("a?", "b"), ("c?", "d")]


@pytest.mark.parametrize("keep", [300, 1536, 2560])
def test_a_cut_shard_is_refused_with_its_name(tmp_path, keep):
    (shard,) = write_shards([make_sample(index=i) for i in range(3)], tmp_path, "train")
    shard.write_bytes(shard.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"train-000000\.tar.*truncated or corrupt"):
        list(read_samples(tmp_path, "train"))


def test_a_corrupt_picture_is_named_by_shard_key_and_field(tmp_path):
    (shard,) = write_shards([make_sample()], tmp_path, "train")
    png = encode_sample(make_sample())["image0.png"]
    shard.write_bytes(shard.read_bytes().replace(png, b"\0" * len(png)))
    with pytest.raises(ValueError, match=r"000000\.tar.*'understanding-0000'.*field image0\.png"):
        list(read_samples(tmp_path, "train"))


def test_shards_are_plain_tar_files_in_the_webdataset_convention(tmp_path):
    (shard,) = write_shards([make_sample("editing")], tmp_path, "train")
    with tarfile.open(shard) as tar:
        names = tar.getnames()
    assert names == [f"editing-0000.{field}" for field in ("image0.png", "json", "target.png")]


def test_jpeg_pictures_of_others_are_read(tmp_path):
    sample = make_sample(images=(Image.new("RGB", (16, 16), (200, 40, 40)),))
    (shard,) = write_shards([sample], tmp_path, "train")
    sample.images[0].save(tmp_path / "picture.jpg", quality=95)
    other = tmp_path / "other-000000.tar"
    with tarfile.open(shard) as source, tarfile.open(other, "w") as tar:
        info = source.getmember(f"{sample.key}.json")
        tar.addfile(info, source.extractfile(info))
        tar.add(tmp_path / "picture.jpg", arcname=f"{sample.key}.image0.jpg")
    (read,) = read_samples(tmp_path, "other")
    red, green, _ = read.images[0].getpixel((8, 8))  # type: ignore[misc]
    assert isinstance(read, Sample)
    assert abs(red - 200) < 4
    assert abs(green - 40) < 4


def test_a_mask_is_written_beside_the_pictures_and_hides_the_reference(tmp_path):
    sample = make_sample("editing", 3, mask=hole())
    (shard,) = write_shards([sample], tmp_path, "train")
    with tarfile.open(shard) as tar:
        assert f"{sample.key}.mask.png" in tar.getnames()
    (read,) = read_samples(tmp_path, "train")
    assert read == sample
    assert read.mask.mode == "L"
    (shown,) = read.shown()
    assert shown.getpixel((2, 1)) == shown.getpixel((5, 3)) == (127, 127, 127)
    assert shown.getpixel((1, 1)) == shown.getpixel((6, 3)) == sample.images[0].getpixel((0, 0))
    assert read.images == sample.images


def test_a_mask_of_others_is_read_as_black_and_white():
    fields = encode_sample(make_sample("editing", mask=hole().point(lambda value: value * 3 // 4)))
    assert decode_sample(fields).mask == hole()


def test_without_a_mask_nothing_is_hidden_and_shards_are_what_they_were(tmp_path):
    sample = make_sample("editing")
    assert sample.shown() is sample.images
    fields = encode_sample(sample)
    assert list(fields) == ["__key__", "json", "image0.png", "target.png"]
    digest = hashlib.sha256(fields["json"]).hexdigest()
    assert digest == "805e60630c97a167e765e37067155eae095890d19725f7068fa11bf9e6762d2e"


@pytest.mark.parametrize("words", ["<image> what is it?", "a <1:2> picture", "the end<|end|>"])
def test_words_that_would_be_read_as_special_tokens_are_a_fault(words):
    turns = (Turn(role="user", text=words), Turn(role="assistant", text="a heart"))
    (fault,) = sample_faults(make_sample("understanding", turns=turns))
    assert fault.startswith("turn 0 spells special tokens: <")


@pytest.mark.parametrize("folder", ["", "./", "v1.0/", "./a/"])
def test_a_key_is_what_stands_before_the_first_dot_of_the_file_name(tmp_path, folder):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        directory = tarfile.TarInfo(folder or "empty")
        directory.type = tarfile.DIRTYPE
        tar.addfile(directory)
        for name in ("0001.before.png", "0001.txt", "0002.txt"):
            tar.addfile(tarfile.TarInfo(folder + name))
    found = list(read_fields(tmp_path / "x.tar"))
    place = folder.removeprefix("./")
    assert [fields["__key__"] for fields in found] == [f"{place}0001", f"{place}0002"]
    assert [sorted(fields)[1:] for fields in found] == [["before.png", "txt"], ["txt"]]

"""Editing triplets of others become a source: every layout, what is left out, what is kept."""

import io
import json
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from manzano.cli import main
from manzano.data_mix.check import check
from manzano.data_mix.encoders import PictureEncoder
from manzano.data_mix.loader import build_loader
from manzano.data_mix.mixture import MixtureConfig
from manzano.data_mix.schema import read_fields, read_samples
from manzano.data_mix.triplets import Settings, convert_triplets, read_region
from tests.data_mix.samples import hole, picture

COUNT = 40
SETTINGS = Settings(name="edits", licence="CC-BY-4.0", test_percent=25)


def file_of(image: Image.Image, format: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=format)
    return buffer.getvalue()


def triplet(index: int) -> tuple[bytes, str, bytes]:
    """Two triplets a source picture."""
    return (
        file_of(picture(index // 2)),
        f"edit {index}",
        file_of(picture(index + 100), "PNG"),
    )


def write_parquet(folder, names=("original_image", "edit_prompt", "edited_image"), triplets=None):
    triplets = triplets or [triplet(index) for index in range(COUNT)]
    rows = [
        {names[0]: {"bytes": a, "path": None}, names[1]: b, names[2]: {"bytes": c, "path": "c.png"}}
        for a, b, c in triplets
    ]
    folder.mkdir()
    half = len(rows) // 2
    for number, part in enumerate((rows[:half], rows[half:])):
        pq.write_table(pa.Table.from_pylist(part), folder / f"part-{number}.parquet")
    return folder


def write_pix2pix(folder):
    for index in range(COUNT):
        prompt = folder / f"{index // 2:07d}"
        prompt.mkdir(parents=True, exist_ok=True)
        # The real ones have an instruction a folder; here it must tell the seeds apart.
        for which, data in zip("01", triplet(index)[::2], strict=True):
            (prompt / f"{index}_{which}.jpg").write_bytes(data)
        (prompt / "prompt.json").write_text(json.dumps({"edit": f"edit {index // 2}"}))
    return folder


def write_jsonl(folder):
    folder.mkdir()
    lines = []
    for index in range(COUNT):
        before, instruction, after = triplet(index)
        (folder / f"{index}-a.jpg").write_bytes(before)
        (folder / f"{index}-b.png").write_bytes(after)
        line = {"before": f"{index}-a.jpg", "instruction": instruction, "after": f"{index}-b.png"}
        lines.append(json.dumps(line))
    (folder / "edits.jsonl").write_text("\n".join(lines))
    return folder / "edits.jsonl"


def write_tar(folder):
    folder.mkdir()
    with tarfile.open(folder / "edits.tar", "w") as tar:
        for index in range(COUNT):
            before, instruction, after = triplet(index)
            parts = {"before.jpg": before, "after.png": after, "txt": instruction.encode()}
            for name, data in parts.items():
                info = tarfile.TarInfo(f"{index:04d}.{name}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return folder


def samples_of(folder):
    return {split: list(read_samples(folder, split)) for split in ("train", "test")}


@pytest.mark.parametrize("write", [write_parquet, write_pix2pix, write_jsonl, write_tar])
def test_every_layout_becomes_a_sound_source(tmp_path, write):
    source, output = write(tmp_path / "theirs"), tmp_path / "edits"
    made = convert_triplets(source, output, SETTINGS)
    assert made.skipped == {}
    assert check(output) == []
    found = samples_of(output)
    assert made.count == {split: len(samples) for split, samples in found.items()}
    assert sum(made.count.values()) == COUNT
    every = sorted(found["train"] + found["test"], key=lambda sample: sample.key)
    assert [int(sample.key[-8:]) for sample in every] == list(range(COUNT))
    assert {(s.source, s.licence, s.extra["kind"]) for s in every} == {
        ("edits", "CC-BY-4.0", "instruction")
    }
    if write is not write_pix2pix:  # which goes by the names of its seeds
        for index, sample in enumerate(every):
            before, instruction, after = triplet(index)
            assert sample.turns[0].text == instruction
            assert sample.images[0] == Image.open(io.BytesIO(before)).convert("RGB")
            assert sample.target == Image.open(io.BytesIO(after)).convert("RGB")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_triplets_of_one_source_picture_are_in_one_split(tmp_path):
    convert_triplets(write_parquet(tmp_path / "theirs"), tmp_path / "edits", SETTINGS)
    numbers = {
        split: {int(sample.key[-8:]) // 2 for sample in samples}
        for split, samples in samples_of(tmp_path / "edits").items()
    }
    assert not numbers["train"] & numbers["test"]
    assert len(numbers["train"]) + len(numbers["test"]) == COUNT // 2


def test_image_files_are_copied_as_they_are(tmp_path):
    convert_triplets(write_tar(tmp_path / "theirs"), tmp_path / "edits", SETTINGS)
    for fields in read_fields(tmp_path / "edits" / "train-000000.tar"):
        before, _, after = triplet(int(fields["__key__"][-8:]))
        assert (fields["image0.jpg"], fields["target.png"]) == (before, after)


def test_the_loader_reads_what_was_converted(tmp_path):
    convert_triplets(write_jsonl(tmp_path / "theirs"), tmp_path / "edits", SETTINGS)
    loader = build_loader(
        MixtureConfig(path=str(tmp_path), sources={"edits": 1.0}),
        PictureEncoder(48, references=True),
        batch_size=4, seed=0, num_workers=0, shuffle_buffer=4,
    )  # fmt: skip
    batch = next(iter(loader))
    assert batch.has_reference.all()
    assert not torch.equal(batch.pixels, batch.reference)


def test_what_cannot_be_used_is_named_and_left_out(tmp_path, caplog):
    triplets = [triplet(index) for index in range(COUNT)]
    triplets[3] = (triplets[3][0], "edit 3", b"no picture")
    triplets[5] = (triplets[5][0][:60], "edit 5", triplets[5][2])
    triplets[7] = (triplets[7][0], "  ", triplets[7][2])
    triplets[9] = (b"", "edit 9", triplets[9][2])
    source = write_parquet(tmp_path / "theirs", triplets=triplets)
    made = convert_triplets(source, tmp_path / "edits", SETTINGS)
    assert sum(made.count.values()) == COUNT - 4
    places = [f"part-0.parquet row {number}" for number in (3, 5, 7, 9)]
    assert sorted(made.skipped) == places
    assert [place for place in places if caplog.text.count(f"left out {place}: ") == 1] == places
    assert "is not an image" in made.skipped[places[0]]
    assert "has no text" in made.skipped[places[2]]


def test_columns_are_named_at_the_command_line(tmp_path, capsys):
    source = write_parquet(tmp_path / "theirs", names=("a", "b", "c"))
    convert = ["data", "convert", "triplets", str(source), str(tmp_path / "edits")]
    convert += ["--licence", "MIT", "--test-percent", "25"]
    assert main(convert) == 2
    assert "the columns are a, b, c, and none of these sets" in capsys.readouterr().err
    assert main([*convert, "--before", "a", "--instruction", "b", "--after", "c"]) == 0
    assert f"{tmp_path / 'edits'}: " in capsys.readouterr().out
    assert {sample.licence for sample in read_samples(tmp_path / "edits", "test")} == {"MIT"}
    assert main(convert) == 2
    assert "is there already" in capsys.readouterr().err


def test_seeds_json_chooses_pairs_and_a_missing_prompt_is_named(tmp_path):
    source = write_pix2pix(tmp_path / "theirs")
    (source / "0000004" / "prompt.json").unlink()
    chosen = [(f"{i:07d}", [str(2 * i)]) for i in range(COUNT // 2)]
    (source / "seeds.json").write_text(json.dumps(chosen))
    made = convert_triplets(source, tmp_path / "edits", SETTINGS)
    assert sum(made.count.values()) == COUNT // 2 - 1
    assert list(made.skipped) == ["0000004/8"]


def test_metadata_chooses_pairs_where_there_is_no_list(tmp_path):
    source = write_pix2pix(tmp_path / "theirs")
    (source / "0000001" / "metadata.jsonl").write_text('{"seed": 3, "clip_sim_dir": 0.3}\n')
    made = convert_triplets(source, tmp_path / "edits", SETTINGS)
    assert sum(made.count.values()) == COUNT - 1


def test_masks_come_along_where_their_column_is_named(tmp_path):
    source = write_tar(tmp_path / "theirs")
    with tarfile.open(source / "edits.tar") as tar:
        members = [(m, tar.extractfile(m).read()) for m in tar]  # type: ignore[union-attr]
    with tarfile.open(source / "edits.tar", "w") as tar:
        for member, data in members:
            tar.addfile(member, io.BytesIO(data))
            if member.name.endswith(".txt"):
                mask = file_of(hole(), "PNG")
                info = tarfile.TarInfo(member.name.replace("txt", "mask.png"))
                info.size = len(mask)
                tar.addfile(info, io.BytesIO(mask))
    settings = Settings(name="edits", licence="MIT", test_percent=25, columns={"mask": "mask"})
    convert_triplets(source, tmp_path / "edits", settings)
    for sample in read_samples(tmp_path / "edits", "train"):
        assert sample.mask == hole()
        assert sample.extra == {"kind": "inpainting"}


def marked(how: str) -> bytes:
    """The hole of `hole()`, marked on a picture of noise in one of the ways."""
    image = noise()
    if how == "black and white":
        return file_of(hole(), "PNG")
    if how == "transparent":
        image.putalpha(hole().point([255] * 255 + [0]))
    else:
        image.paste((255, 255, 255), (2, 1, 6, 4))
    return file_of(image, "PNG")


def noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 200, (6, 8, 3), dtype=np.uint8))


@pytest.mark.parametrize("how", ["black and white", "transparent", "painted over"])
def test_a_region_is_read_however_it_is_marked(how):
    assert read_region(marked(how), noise()) == hole()


def test_a_region_marked_on_another_picture_is_refused():
    with pytest.raises(ValueError, match="neither black and white nor"):
        read_region(marked("painted over"), picture(100))
    with pytest.raises(ValueError, match=r"the mask is \(8, 6\)"):
        read_region(marked("painted over"), picture(0, (9, 6)))


def test_a_conversion_that_breaks_off_leaves_no_folder_and_the_next_one_is_whole(tmp_path):
    source, output = write_jsonl(tmp_path / "theirs"), tmp_path / "edits"

    def stop(split, done):
        if split == "train" and done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert_triplets(source, output, SETTINGS, on_row=stop)
    assert not output.exists()
    made = convert_triplets(source, output, SETTINGS)
    assert sum(made.count.values()) == COUNT
    assert check(output) == []


def test_a_source_without_triplets_and_a_split_without_any_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no triplets: give a folder with .parquet"):
        convert_triplets(tmp_path / "empty", tmp_path / "edits", SETTINGS)
    one = write_parquet(tmp_path / "theirs", triplets=[triplet(0), triplet(1)])
    with pytest.raises(ValueError, match="none of the triplets .* give another --test-percent"):
        convert_triplets(one, tmp_path / "edits", SETTINGS)
    assert not (tmp_path / "edits").exists()


def test_a_damaged_parquet_file_is_named(tmp_path):
    source = write_parquet(tmp_path / "theirs")
    file = source / "part-0.parquet"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"part-0\.parquet' is truncated or corrupt"):
        convert_triplets(source, tmp_path / "edits", SETTINGS)

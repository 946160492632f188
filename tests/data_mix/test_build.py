import hashlib
import json

import pytest

from manzano.data_mix import build
from manzano.data_mix.build import (
    EDITS,
    SOURCES,
    SPLITS,
    build_demo,
    build_editing,
    training_texts,
)
from manzano.data_mix.check import check
from manzano.data_mix.schema import read_samples
from manzano.data_mix.sources import package_data


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """All sources, four samples of each split."""
    folder = tmp_path_factory.mktemp("demo")
    build_demo(folder, limit=4, workers=1)
    return folder


def hashes(folder):
    paths = [*folder.glob("*/*.tar"), *folder.glob("text_tokenizer/*")]
    return {p.relative_to(folder): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}


def test_the_corpus_is_sound(demo):
    assert check(demo) == []
    for name in SOURCES:
        for split in SPLITS:
            samples = list(read_samples(demo / name, split))
            assert len(samples) == 4
            assert all(image.size == (72, 72) for s in samples for image in s.images)


def test_the_corpus_of_edits_is_sound_and_has_no_text_tokenizer(tmp_path):
    build_editing(tmp_path, limit=4, workers=1)
    assert check(tmp_path) == []
    folders = sorted(path.name for path in tmp_path.iterdir() if path.is_dir())
    assert folders == sorted(EDITS)
    assert set(json.loads((tmp_path / "BUILD.json").read_text())["sources"]) == set(EDITS)
    before = hashes(tmp_path)
    build_editing(tmp_path, limit=4, workers=1)
    assert hashes(tmp_path) == before


def test_two_processes_build_the_same_bytes_as_one(demo, tmp_path):
    build_demo(tmp_path, limit=4, workers=2)
    assert hashes(tmp_path) == hashes(demo)


def test_what_is_there_is_not_built_again(demo, monkeypatch):
    before = hashes(demo)
    monkeypatch.setattr(build, "write_shards", None)  # would raise if it were called
    build_demo(demo, limit=4, workers=1)
    assert hashes(demo) == before


def test_a_damaged_source_is_built_again(demo):
    before = hashes(demo)
    (demo / "drawing" / "train-000000.tar").write_bytes(b"")
    build_demo(demo, limit=4, workers=1)
    assert hashes(demo) == before


def test_the_manifest_lists_settings_versions_and_hashes(demo):
    manifest = json.loads((demo / "BUILD.json").read_text())
    assert set(manifest["sources"]) == set(SOURCES)
    record = manifest["sources"]["easy_vqa"]
    assert record["settings"] == {"seed": 0, "image_size": 72, "limit": 4}
    assert record["packages"] == {"easy-vqa": "1.0"}
    data = (demo / "easy_vqa" / "test-000000.tar").read_bytes()
    assert record["sha256"]["test-000000.tar"] == hashlib.sha256(data).hexdigest()


def test_every_source_is_attributed(demo):
    text = (demo / "ATTRIBUTION.md").read_text()
    for name, source in SOURCES.items():
        assert f"`{name}` ({source.LICENCE})" in text


def test_the_tokenizer_is_trained_on_training_texts_alone(demo):
    texts = set(training_texts(demo))
    train = next(read_samples(demo / "prose", "train")).turns[0].text
    test = next(read_samples(demo / "prose", "test")).turns[0].text
    assert train in texts
    assert test not in texts


def test_a_missing_package_is_answered_with_the_command_that_installs_it():
    with pytest.raises(ValueError, match=r"'no_such'.*pip install manzano\[demo\]"):
        package_data.package_folder("no_such")
    with pytest.raises(ValueError, match=r"pip install manzano\[demo\]"):
        package_data.package_version("no-such")


def test_arguments_out_of_range_are_refused(tmp_path):
    for bad in ({"image_size": 8}, {"workers": 0}, {"limit": 0}):
        with pytest.raises(ValueError, match="at least"):
            build_demo(tmp_path, **bad)

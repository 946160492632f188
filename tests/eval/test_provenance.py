"""Where figures come from: hashes of what they depend on, versions, the commit."""

import shutil

import pytest

from manzano.eval.provenance import commit, environment, fingerprint, model_record
from tests.tiny import tiny_pipeline


def test_a_fingerprint_tells_contents_and_names_apart(tmp_path):
    (tmp_path / "a").mkdir()
    file = tmp_path / "a" / "x"
    file.write_text("1")
    first = fingerprint(tmp_path / "a")
    file.write_text("2")
    second = fingerprint(tmp_path / "a")
    file.rename(tmp_path / "a" / "y")
    assert len({first, second, fingerprint(tmp_path / "a"), fingerprint(tmp_path / "a" / "y")}) == 4


def test_a_fingerprint_of_what_is_missing_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        fingerprint(tmp_path / "nowhere")


def test_a_model_is_known_by_its_weights_and_not_by_its_card(tmp_path):
    tiny_pipeline().save_pretrained(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    (tmp_path / "two" / "README.md").write_text("a card")
    (tmp_path / "two" / ".cache").mkdir()
    (tmp_path / "two" / ".cache" / "model.safetensors.metadata").write_text("loaded at noon")
    one, two = model_record(tmp_path / "one"), model_record(tmp_path / "two")
    assert one["sha256"] == two["sha256"] and one["name"] == "one"
    assert one["config"]["model_type"] == "manzano"
    (tmp_path / "two" / "vae" / "config.json").write_text("{}")
    assert model_record(tmp_path / "two")["sha256"] != one["sha256"]


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no Manzano folder"):
        model_record(tmp_path)


def test_the_environment_names_versions_and_hardware():
    found = environment(packages=["no-such-package"])
    assert found["versions"]["torch"] and found["versions"]["no-such-package"] is None
    assert "core" in found["hardware"]
    assert found["commit"] == commit()

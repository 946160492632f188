import pytest
import yaml

from manzano.data_mix.mixture import MixtureConfig
from manzano.data_mix.schema import write_shards
from tests.data_mix.samples import make_folder, make_sample


def test_weights_become_shares():
    mixture = MixtureConfig(path=".", sources={"a": 2, "b": 6})
    assert mixture.shares() == {"a": 0.25, "b": 0.75}


@pytest.mark.parametrize("weight", [0.0, -1.0, float("inf"), float("nan")])
def test_a_weight_must_be_positive(weight):
    with pytest.raises(ValueError, match="weight of source 'a'"):
        MixtureConfig(path=".", sources={"a": weight})


def test_an_empty_mixture_is_refused():
    with pytest.raises(ValueError, match="sources is empty"):
        MixtureConfig(path=".", sources={})


def test_an_unknown_source_is_answered_with_the_nearest(tmp_path):
    make_folder(tmp_path / "drawing")
    mixture = MixtureConfig(path=str(tmp_path), sources={"drawings": 1.0})
    with pytest.raises(ValueError, match="did you mean 'drawing'"):
        mixture.check_folders()


def test_a_missing_path_and_an_unprepared_folder_are_named(tmp_path):
    with pytest.raises(ValueError, match="manzano data build demo"):
        MixtureConfig(path=str(tmp_path / "none"), sources={"a": 1.0}).check_folders()
    write_shards([make_sample()], tmp_path / "a", "train")
    with pytest.raises(ValueError, match="is not prepared"):
        MixtureConfig(path=str(tmp_path), sources={"a": 1.0}).check_folders()


def test_the_metadataset_names_folders_weights_and_split(tmp_path):
    make_folder(tmp_path / "a")
    mixture = MixtureConfig(path=str(tmp_path), sources={"a": 0.4})
    written = yaml.safe_load(mixture.write_metadataset(tmp_path / "m.yaml", "test").read_text())
    (entry,) = written["splits"]["train"]["blend"]
    assert (entry["weight"], entry["path"], entry["split_part"]) == (
        0.4,
        str(tmp_path / "a"),
        "test",
    )

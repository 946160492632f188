"""Every stage runs through the one loop, and the next one reads what it exports."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from manzano.data_mix.mixture import MixtureConfig
from manzano.data_mix.prepare import prepare
from manzano.data_mix.schema import write_shards
from manzano.decoder.dit_air import DiTAir
from manzano.decoder.vae import load_vae
from manzano.model import ManzanoForConditionalGeneration
from manzano.processing import ManzanoProcessor
from manzano.tokenizer.hybrid import HybridTokenizer
from manzano.training.stages import STAGES, load_stage
from tests.data_mix.samples import make_sample
from tests.tiny import drawing
from tests.training.stages.real import configured, trained


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_trains_logs_finite_losses_and_exports(name, ingredients, tmp_path, figures):
    stage = trained(name, configured(name, ingredients, tmp_path))
    lines = figures(tmp_path)
    assert [line["step"] for line in lines] == [1, 2]
    assert all(torch.tensor([line["loss"] for line in lines]).isfinite())
    export = tmp_path / "export"
    if name == "vision":
        state = load_file(export / "vit.safetensors")
        own = stage.model.vit.state_dict()
        assert state.keys() == own.keys()
        assert all(torch.equal(state[key], own[key]) for key in own)
    else:
        load = {
            "vae": load_vae,
            "tokenizer": HybridTokenizer.load,
            "llm": ManzanoForConditionalGeneration.from_pretrained,
            "decoder": DiTAir.from_pretrained,
        }[name]
        own = stage.model.vision if name == "tokenizer" else stage.model
        loaded = load(export).state_dict()
        assert all(torch.equal(loaded[key], value) for key, value in own.state_dict().items())


@pytest.mark.parametrize("name", ["vae", "decoder"])
def test_previews_are_pictures(name, ingredients, tmp_path):
    trained(name, configured(name, ingredients, tmp_path, preview_every=2))
    pictures = list((tmp_path / "previews" / "step-000002").glob("*.png"))
    assert 1 <= len(pictures) <= 2  # the decoder's edits and drawings apart


def test_the_llm_previews_answers_and_goes_on_from_a_manzano_folder(ingredients, tmp_path):
    source = str(ingredients / "corpus" / "understanding")
    config = configured("llm", ingredients, tmp_path / "first", preview_every=2)
    trained("llm", replace(config, preview_source=source))
    file = tmp_path / "first" / "previews" / "step-000002" / "answers-000002.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [set(line) for line in lines] == [{"key", "question", "answer", "said"}] * 4

    start = {"start": str(tmp_path / "first" / "export"), "image_weight": 0.25, "row_length": 128}
    empty = {"text_tokenizer": "", "tokenizer": "", "llm": {}}
    second = configured("llm", ingredients, tmp_path / "second")
    trained("llm", replace(second, **start, **empty))
    export = Path(second.loop.output) / "export"
    model = ManzanoForConditionalGeneration.from_pretrained(export)
    assert model.config.image_weight == 0.25
    assert ManzanoProcessor.from_pretrained(export).max_length == 128


@pytest.mark.parametrize("name", ["tokenizer", "llm"])
def test_a_stage_splits_large_pictures_where_it_is_told_to(name, ingredients, tmp_path):
    sample = make_sample("understanding", images=(drawing(1, (96, 96)),))
    for split in ("train", "test"):
        write_shards([replace(sample, key=split)], tmp_path / "pages", split)
    prepare(tmp_path / "pages")
    config = configured(name, ingredients, tmp_path / "run", max_steps=1)
    mixture = MixtureConfig(path=str(tmp_path), sources={"pages": 1.0})
    config = replace(config, data=replace(config.data, mixture=mixture, batch_size=1))
    blocks = {}
    for max_tiles in (1, 4):
        stage = load_stage(name)[1](replace(config, max_tiles=max_tiles))
        batch = next(iter(stage.batches(rank=0, world_size=1)))
        owners = batch.image_sequence.tolist()
        blocks[max_tiles] = [owners.count(owner) for owner in set(owners)]
        assert name == "tokenizer" or stage.processor.max_tiles == max_tiles
    assert set(blocks[1]) == {1}
    assert set(blocks[4]) == {5}
    with pytest.raises(ValueError, match="max_tiles must be 1 .* got 0"):
        load_stage(name)[1](replace(config, max_tiles=0)).batches(rank=0, world_size=1)

"""Ids learned from pixels, and the dual encoder that is made of them."""

from dataclasses import replace

import pytest
import torch

from manzano.data_mix.encoders import PictureEncoder
from manzano.tokenizer.hybrid import HybridTokenizer, HybridTokenizerConfig
from manzano.training import random_state
from manzano.training.stages import pixels
from tests.data_mix.samples import make_sample
from tests.tiny import VISION, tiny_vision
from tests.training.stages.real import configured, trained


@pytest.fixture
def config(ingredients, tmp_path) -> pixels.Config:
    reading = configured("tokenizer", ingredients, tmp_path / "pixels")
    return pixels.Config(
        loop=reading.loop, optim=reading.optim, data=reading.data,
        tokenizer=HybridTokenizerConfig(**VISION), depth=1,
    )  # fmt: skip


def test_pictures_are_learned_through_their_ids(config):
    random_state.seed(0)
    stage, encoder = pixels.Stage(config), PictureEncoder(48)
    samples = [make_sample("understanding", number) for number in range(4)]
    batch = encoder.collate([e for s in samples if (e := encoder.encode(s)) is not None])
    totals = {name: torch.tensor(n) for name, n in stage.targets(batch).items()}
    optimizer = torch.optim.AdamW(stage.model.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        loss, metrics = stage.loss(batch, totals)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    painted, ids = stage.model(batch.pixels)
    assert painted.shape == batch.pixels.shape
    assert 0 <= int(ids.min()) <= int(ids.max()) < 36
    assert 1 <= float(metrics["code_perplexity"]) <= 16
    assert losses[-1] < 0.2 * losses[0]


def test_a_dual_encoder_reads_as_one_tokenizer_and_writes_the_ids_of_the_pixels(config, tmp_path):
    stage = trained("pixels", config)
    reading = tiny_vision()
    reading.save(tmp_path / "reading")
    dual = pixels.dual_tokenizer(tmp_path / "reading", tmp_path / "pixels" / "export").eval()
    pictures = torch.rand(3, 3, 48, 48) * 2 - 1
    stage.model.eval()
    assert torch.equal(dual.continuous(pictures), reading.continuous(pictures))
    assert torch.equal(dual.discrete(pictures), stage.model(pictures)[1])
    dual.save(tmp_path / "dual")
    loaded = HybridTokenizer.load(tmp_path / "dual").eval()
    assert torch.equal(loaded.discrete(pictures), dual.discrete(pictures))


def test_halves_of_different_sizes_are_refused(config, tmp_path):
    trained("pixels", config)
    tiny_vision(levels=(5, 4, 3, 3)).save(tmp_path / "reading")
    with pytest.raises(RuntimeError, match=r"size mismatch for discrete_adapter"):
        pixels.dual_tokenizer(tmp_path / "reading", tmp_path / "pixels" / "export")


def test_a_discrete_tokenizer_learns_from_what_its_codes_let_be_read(ingredients, tmp_path):
    config = configured("tokenizer", ingredients, tmp_path)
    sizes = replace(config.tokenizer, kind="discrete")
    config = replace(config, tokenizer=sizes, discrete_probability=0.0)
    random_state.seed(0)
    before = HybridTokenizer(sizes).state_dict()
    vision = trained("tokenizer", config).model.vision
    changed = {k for k, v in vision.state_dict().items() if not torch.equal(v, before[k])}
    assert {name.split(".")[0] for name in changed} >= {"vit", "continuous_adapter"}
    assert "discrete_adapter.reduce.weight" in changed


def test_the_tokenizer_stage_refuses_to_train_a_dual_encoder_in_one_piece(ingredients, tmp_path):
    config = configured("tokenizer", ingredients, tmp_path)
    with pytest.raises(ValueError, match="kind dual is not trained in one piece"):
        replace(config, tokenizer=replace(config.tokenizer, kind="dual"))

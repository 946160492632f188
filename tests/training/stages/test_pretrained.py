"""Every stage starts from published weights: SigLIP's ViT, Qwen3, the VAEs of FLUX and SD."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from manzano.decoder.vae import encode, load_vae
from manzano.llm.vocabulary import SIZE_TOKENS, SPECIAL_TOKENS
from manzano.tokenizer.hybrid import HybridTokenizerConfig
from manzano.training import random_state
from manzano.training.stages import decoder, llm, tokenizer, vision
from tests.checkpoints import FLUX, SD, save_qwen3, save_siglip, save_vae
from tests.tiny import VISION
from tests.training.stages.real import configured, trained

SIGLIP = {
    "vit": "vit_base_patch16_siglip_224.v2_webli",
    "vit_kwargs": {"patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2},
}


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("published")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_siglip(root / "siglip")
        save_qwen3(root / "qwen3", sharded=True)
        for name, settings in (("flux", FLUX), ("sd", SD)):
            save_vae(root / name, settings)
    return root


def of_qwen3(config, published, **changes):
    folder = str(published / "qwen3")
    return replace(config, text_tokenizer=folder, llm={"pretrained": folder}, **changes)


def test_the_tokenizer_stage_trains_siglip_under_qwen3_and_the_llm_stage_goes_on(
    ingredients, published, tmp_path, caplog
):
    caplog.set_level("INFO", "manzano")
    sizes = HybridTokenizerConfig(**VISION | SIGLIP | {"discrete_width": 32})
    config = of_qwen3(
        configured("tokenizer", ingredients, tmp_path / "tokenizer"), published,
        tokenizer=sizes, vit_weights=str(published / "siglip"),
    )  # fmt: skip
    trained("tokenizer", config)
    assert "resized pos_embed: (1, 64, 16) -> (1, 36, 16)" in caplog.text
    assert "resized token tables: (300,) -> (266,)" in caplog.text

    export = tmp_path / "tokenizer" / "export"
    config = replace(
        configured("llm", ingredients, tmp_path / "llm"), tokenizer=str(export),
        text_tokenizer=str(published / "qwen3"), llm={"pretrained": str(export / "llm")},
    )  # fmt: skip
    stage = trained("llm", config)
    assert stage.model.vocabulary.size == 278 + 36
    assert (
        "new text rows 266 to 277, image rows 278 to 313" in caplog.text
    )  # special tokens' rows are trained
    assert not any(p.is_meta for p in stage.model.state_dict().values())


def test_text_logits_of_qwen3_are_the_same_in_the_unified_model(ingredients, published, tmp_path):
    random_state.seed(0)
    stage = llm.Stage(of_qwen3(configured("llm", ingredients, tmp_path), published))
    before = AutoModelForCausalLM.from_pretrained(published / "qwen3").eval()
    text = AutoTokenizer.from_pretrained(published / "qwen3")
    ids = text("a red heart", return_tensors="pt").input_ids
    with torch.no_grad():
        after = stage.model.eval()(input_ids=ids).logits
        assert torch.equal(after[..., : len(text)], before(ids).logits[..., : len(text)])
    rows = stage.model.get_input_embeddings().weight
    assert len(rows) == len(text) + len(SPECIAL_TOKENS) + len(SIZE_TOKENS) + 36
    assert len(rows.unique(dim=0)) == len(rows)


def test_the_vision_stage_goes_on_from_siglip(ingredients, published, tmp_path):
    config = configured("vision", ingredients, tmp_path)
    random_state.seed(0)
    stage = vision.Stage(replace(config, **SIGLIP, vit_weights=str(published / "siglip")))
    alone = tokenizer.HybridTokenizer(HybridTokenizerConfig(**VISION | SIGLIP)).vit
    tokenizer.load_vit(alone, str(published / "siglip"))
    for name, value in alone.state_dict().items():
        assert torch.equal(stage.model.vit.state_dict()[name], value)


@pytest.mark.parametrize(("name", "channels"), [("flux", 16), ("sd", 4)])
def test_the_decoder_stage_paints_latents_of_published_vaes(
    ingredients, published, tmp_path, name, channels
):
    config = configured("decoder", ingredients, tmp_path)
    stage = decoder.Stage(replace(config, vae=str(published / name)))
    assert stage.model.config["in_channels"] == channels
    pixels = torch.rand(1, 3, 48, 48) * 2 - 1
    assert torch.equal(stage.latents(pixels), encode(load_vae(published / name / "vae"), pixels))


def test_a_start_that_lacks_a_weight_is_refused(ingredients, tmp_path):
    config = configured("decoder", ingredients, tmp_path / "small")
    decoder.Stage(config).export(tmp_path / "start")
    started = decoder.Stage(replace(config, start=str(tmp_path / "start")))
    file = tmp_path / "start" / "diffusion_pytorch_model.safetensors"
    weights = started.model.state_dict()
    weights.pop("patch_embedder.weight")
    save_file(weights, file)
    with pytest.raises(ValueError, match="do not fit this decoder: 1 weights are missing"):
        decoder.Stage(replace(config, start=str(tmp_path / "start")))

"""Language models by configuration, and pretrained ones with rows added."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    MambaConfig,
    PreTrainedModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from manzano.data_mix.text_tokenizer import train_text_tokenizer
from manzano.llm.backbone import build_language_model, language_config
from manzano.llm.image_rows import init_image_rows
from manzano.llm.vocabulary import joint_vocabulary
from tests.checkpoints import plain_tokenizer, save_qwen3
from tests.tiny import QWEN3, text_tokenizer


def test_settings_reach_the_configuration_of_the_model():
    config = language_config(QWEN3)
    assert (config.model_type, config.hidden_size, config.num_hidden_layers) == ("qwen3", 32, 2)


def test_an_unknown_setting_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match="qwen3 has no setting 'hiden_size'; did you mean 'hidden"):
        language_config({"model_type": "qwen3", "hiden_size": 32})


def test_a_configuration_without_model_type_is_refused():
    with pytest.raises(ValueError, match=r"needs model_type \(e.g. qwen3\).*'hidden_size'"):
        language_config({"hidden_size": 32})


def before_and_after(folder: Path, image_size: int = 36):
    """The model as it was saved, the one that the stages make of it, and the joint vocabulary."""
    text = AutoTokenizer.from_pretrained(folder)
    vocabulary = joint_vocabulary(text, image_size)
    after = build_language_model({"pretrained": str(folder)}, text, vocabulary).eval()
    return AutoModelForCausalLM.from_pretrained(folder).eval(), after, vocabulary


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("sharded", [True, False])
def test_text_logits_are_the_same_before_and_after_the_vocabulary_grows(tmp_path, tied, sharded):
    folder = save_qwen3(tmp_path, sharded=sharded, tie_word_embeddings=tied)
    assert (folder / "model.safetensors.index.json").exists() == sharded
    before, after, vocabulary = before_and_after(folder)
    assert (vocabulary.text_size, after.config.vocab_size) == (278, 314)
    ids = torch.arange(258)[None]
    with torch.no_grad():
        assert torch.equal(after(ids).logits[..., :258], before(ids).logits[..., :258])
    tables = after.get_input_embeddings().weight, after.get_output_embeddings().weight
    assert all(table.shape == (314, 32) for table in tables)
    assert (tables[0] is tables[1]) == tied


def test_a_tied_head_that_was_saved_nevertheless_is_no_leftover(tmp_path):
    state = load_file(save_qwen3(tmp_path, tie_word_embeddings=True) / "model.safetensors")
    state["lm_head.weight"] = state["model.embed_tokens.weight"].clone()
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    _, after, _ = before_and_after(tmp_path)
    assert after.get_output_embeddings().weight is after.get_input_embeddings().weight


@pytest.mark.parametrize("rows", [258, 262, 300])
def test_rows_of_new_tokens_are_drawn_like_the_known_ones_never_left_over(tmp_path, rows, caplog):
    caplog.set_level("INFO", "manzano")
    folder = save_qwen3(tmp_path, rows=rows)
    state = load_file(folder / "model.safetensors")
    state["model.embed_tokens.weight"][258:] = 100.0  # rows that only fill the table up
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    _, after, vocabulary = before_and_after(folder)
    init_image_rows(after, (4, 3, 3), vocabulary)
    table = after.get_input_embeddings().weight.detach()
    known, drawn = table[:258], table[258:278]
    torch.testing.assert_close(drawn.std(), known.std(), rtol=0.15, atol=0)
    assert table.abs().max() < 3
    assert len(drawn.unique(dim=0)) == 20
    assert f"resized token tables: ({rows},) -> (314,)" in caplog.text
    assert "new text rows 258 to 277, image rows 278 to 313" in caplog.text
    assert ("dropped rows 258" in caplog.text) == (rows > 258)


def test_rows_of_special_tokens_that_were_trained_stay(tmp_path):
    text = plain_tokenizer()
    vocabulary = joint_vocabulary(text, image_size=0)
    before = build_language_model({**QWEN3, "tie_word_embeddings": False}, text, vocabulary)
    before.save_pretrained(tmp_path)
    settings, larger = {"pretrained": str(tmp_path)}, joint_vocabulary(text, image_size=36)
    for saved in (False, True):  # with a tokenizer beside the weights and without
        if saved:
            text.save_pretrained(tmp_path)
        after = build_language_model(settings, text, larger)
        for rows in ("get_input_embeddings", "get_output_embeddings"):
            assert torch.equal(getattr(after, rows)().weight[:266], getattr(before, rows)().weight)


def test_a_name_of_the_hub_is_loaded_from_its_cache(tmp_path, hub):
    folder = save_qwen3(tmp_path / "saved")
    hub("Qwen/Qwen3-tiny", folder)
    text = AutoTokenizer.from_pretrained("Qwen/Qwen3-tiny")
    model = build_language_model({"pretrained": "Qwen/Qwen3-tiny"}, text, joint_vocabulary(text, 9))
    saved = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    assert torch.equal(model.get_input_embeddings().weight[:258], saved[:258])


def test_weights_in_bf16_are_trained_in_fp32(tmp_path):
    save_qwen3(tmp_path)
    AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16).save_pretrained(tmp_path)
    _, after, _ = before_and_after(tmp_path)
    assert {p.dtype for p in after.parameters()} == {torch.float32}
    assert after.config.dtype == torch.float32


def test_the_tokenizer_of_another_model_is_refused(tmp_path):
    settings = {"pretrained": str(save_qwen3(tmp_path))}
    ours = text_tokenizer()  # the same bytes, at other ids
    with pytest.raises(ValueError, match=r"not the tokenizer of llm.pretrained .* 258 tokens"):
        build_language_model(settings, ours, joint_vocabulary(ours, 36))
    larger = train_text_tokenizer(["red heart red heart"] * 9, 400)
    save_qwen3(tmp_path, rows=200)
    with pytest.raises(ValueError, match=r"has 200 rows for the 2\d\d tokens of text_tokenizer"):
        build_language_model(settings, larger, joint_vocabulary(larger, 36))


def test_missing_and_left_over_weights_are_named(tmp_path):
    state = load_file(save_qwen3(tmp_path) / "model.safetensors")
    state["visual.trunk.norm.weight"] = state.pop("model.layers.1.mlp.up_proj.weight")
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ValueError, match=r"1 weights are missing \(model.layers.1.mlp.up_proj.weight\), 1 are left"
    ):
        before_and_after(tmp_path)


def test_what_is_no_causal_language_model_is_refused(tmp_path):
    text = plain_tokenizer()
    vocabulary = joint_vocabulary(text, 36)

    def build(model: PreTrainedModel):
        model.save_pretrained(tmp_path)
        build_language_model({"pretrained": str(tmp_path)}, text, vocabulary)

    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    with pytest.raises(ValueError, match="gives no causal language model: Unrecognized config"):
        build(SiglipVisionModel(SiglipVisionConfig(**small, intermediate_size=16)))
    mamba = MambaConfig(hidden_size=16, num_hidden_layers=1, state_size=2, vocab_size=300)
    with pytest.raises(ValueError, match="MambaForCausalLM, whose forward takes no position_ids"):
        build(AutoModelForCausalLM.from_config(mamba))
    with pytest.raises(ValueError, match="gives no causal language model"):
        build_language_model({"pretrained": "runs/of/nobody"}, text, vocabulary)


def test_settings_beside_a_pretrained_name_are_refused():
    text = text_tokenizer()
    with pytest.raises(
        ValueError, match=r"brings its own settings along: remove \['hidden_size'\]"
    ):
        settings = {"pretrained": "somewhere", "hidden_size": 32}
        build_language_model(settings, text, joint_vocabulary(text, 36))

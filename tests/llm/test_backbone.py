"""Language models by configuration, and pretrained ones with rows added."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from manzano.llm.backbone import language_config, load_pretrained
from tests.tiny import QWEN3


def test_settings_reach_the_configuration_of_the_model():
    config = language_config(QWEN3)
    assert (config.model_type, config.hidden_size, config.num_hidden_layers) == ("qwen3", 32, 2)


def test_an_unknown_setting_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match="qwen3 has no setting 'hiden_size'; did you mean 'hidden"):
        language_config({"model_type": "qwen3", "hiden_size": 32})


def test_a_configuration_without_model_type_is_refused():
    with pytest.raises(ValueError, match=r"needs model_type \(e.g. qwen3\).*'hidden_size'"):
        language_config({"hidden_size": 32})


def test_a_pretrained_model_keeps_its_text_rows_and_gains_image_rows(tmp_path):
    config = language_config(QWEN3 | {"vocab_size": 264, "tie_word_embeddings": False})
    before = AutoModelForCausalLM.from_config(config)
    before.save_pretrained(tmp_path)
    model = load_pretrained({"pretrained": str(tmp_path)}, 300)
    assert model is not None
    for rows in ("get_input_embeddings", "get_output_embeddings"):
        old, new = getattr(before, rows)().weight, getattr(model, rows)().weight
        assert new.shape == (300, 32)
        assert torch.equal(new[:264], old)
    assert model.config.vocab_size == 300


def test_settings_beside_a_pretrained_name_are_refused():
    with pytest.raises(
        ValueError, match=r"brings its own settings along: remove \['hidden_size'\]"
    ):
        load_pretrained({"pretrained": "somewhere", "hidden_size": 32}, 300)
    assert load_pretrained(QWEN3, 300) is None

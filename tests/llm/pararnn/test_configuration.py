"""ParaRNNConfig and the paper's sizes."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from manzano.llm.backbone import language_config
from manzano.llm.pararnn.configuration import ParaRNNConfig
from manzano.llm.pararnn.modeling import ParaRNNForCausalLM
from manzano.llm.pararnn.presets import SIZES, preset
from tests.llm.pararnn.language_models import HYBRID, PARARNN

PAPER = {"400m": 406e6, "1b": 1.42e9, "2.9b": 2.90e9, "7b": 6.76e9}


@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize("size", SIZES)
def test_a_preset_has_the_number_of_parameters_of_the_paper(size, cell):
    with torch.device("meta"):
        model = ParaRNNForCausalLM(preset(size, cell))
    number = sum(p.numel() for p in model.parameters())
    assert abs(number / PAPER[size] - 1) < 0.01


def test_a_size_that_the_paper_has_not_is_refused():
    with pytest.raises(ValueError, match="400m, 1b, 2.9b, 7b; got '3b'"):
        preset("3b")


def test_the_backbone_finds_the_model_type_and_its_settings():
    config = language_config(PARARNN | HYBRID)
    assert type(config) is ParaRNNConfig
    assert config.layer_types == HYBRID["layer_types"]
    assert config.head_dim == 8
    with pytest.raises(ValueError, match="pararnn has no setting 'num_head'; did you mean 'num_he"):
        language_config(PARARNN | {"num_head": 2})


def test_a_configuration_survives_its_file(tmp_path):
    config = language_config(PARARNN | HYBRID | {"cell": "lstm", "recurrent_bound": None})
    config.save_pretrained(tmp_path)
    again = ParaRNNConfig.from_pretrained(tmp_path)
    assert again.to_dict() == config.to_dict()
    assert again.recurrent_bound is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cell": "elman"}, "cell is one of gru, lstm, got 'elman'"),
        ({"num_heads": 3}, "num_heads 3 must divide hidden_size 32"),
        ({"conv_kernel": 0}, "conv_kernel must be at least 1, got 0"),
        ({"layer_types": ["pararnn"]}, "names 1 layers, num_hidden_layers is 3"),
        (
            {"layer_types": ["pararnn", "conv", "conv"]},
            r"holds \['conv'\]; a layer is 'pararnn'",
        ),
        ({"num_attention_heads": 5}, "num_attention_heads 5 must divide hidden_size 32"),
    ],
)
def test_settings_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        ParaRNNConfig(**(PARARNN | HYBRID | change))


def test_branches_begin_smaller_the_deeper_they_are():
    """Of 1 / sqrt(inputs), the last layer of a branch has 1 / sqrt(2 (layer + 1))."""
    sizes = {"hidden_size": 512, "num_hidden_layers": 8, "vocab_size": 10}
    model = AutoModelForCausalLM.from_config(language_config(PARARNN | sizes))
    for index in (0, 7):
        layer = model.model.layers[index]
        linears = (layer.mixer.in_proj, layer.mixer.out_proj)
        first, last = (float(512**0.5 * linear.weight.detach().std()) for linear in linears)
        assert first == pytest.approx(1, rel=0.05)
        assert last == pytest.approx((2 * index + 2) ** -0.5, rel=0.05)
        assert torch.equal(layer.residual_scale, torch.ones(512))


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_gates_begin_as_open_as_asked_and_stay_as_trained(cell, tmp_path):
    """A whole number too, as a YAML file has it: `keep_bias: 3`."""
    settings = PARARNN | {"cell": cell, "vocab_size": 10, "keep_bias": 3, "recurrent_bound": 1}
    model = AutoModelForCausalLM.from_config(language_config(settings))
    towards_keeping = {"gru": -3, "lstm": 3}[cell]
    for layer in model.model.layers:
        wanted = torch.zeros(3, 32)
        wanted[0] = towards_keeping
        assert torch.equal(layer.mixer.cell.bias, wanted)
    with torch.no_grad():
        model.model.layers[1].mixer.cell.bias.fill_(0.25)
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert again.config.keep_bias == 3
    for name, value in again.state_dict().items():
        assert torch.equal(value, model.state_dict()[name])

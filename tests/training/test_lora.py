"""LoRA: what it leaves alone, what merging gives, and on which base an adapter may be put."""

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn

from manzano.decoder.dit_air import DiTAir
from manzano.model import ManzanoForConditionalGeneration
from manzano.training.lora import Adapter, LoraConfig, add_lora, layers, load_adapter, merged
from tests.tiny import QWEN3, tiny_manzano

PARARNN = {
    "model_type": "pararnn", "hidden_size": 32, "num_hidden_layers": 2, "num_heads": 4,
    "intermediate_size": 48, "cell": "gru",
}  # fmt: skip
ALSO = ["vision.continuous_adapter"]


def painter() -> DiTAir:
    model = DiTAir(num_layers=2, width=32, head_dim=16, in_channels=4, condition_width=20)
    for parameter in model.parameters():  # its gates begin at zero, and would hide everything
        nn.init.normal_(parameter, std=0.2)
    return model


def manzano(llm: dict) -> ManzanoForConditionalGeneration:
    model = tiny_manzano(llm)
    model._no_split_modules = list(model.language_model._no_split_modules)
    return model


MODELS = {"qwen3": lambda: manzano(QWEN3), "pararnn": lambda: manzano(PARARNN), "decoder": painter}
LINEAR = {"qwen3": 2 * 7, "pararnn": 2 * 5, "decoder": 2 * 4}
"""Linear layers of the blocks."""
every_model = pytest.mark.parametrize("name", MODELS)


def adapted(model: nn.Module) -> nn.Module:
    """With an adapter that does something."""
    add_lora(model, LoraConfig(rank=4, alpha=8))
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.1)
    return model


@torch.no_grad()
def output(model: nn.Module) -> Tensor:
    torch.manual_seed(2)
    if not hasattr(model, "vision"):
        noisy, condition = torch.randn(2, 4, 4, 4), torch.randn(2, 4, 20)
        return model(noisy, torch.rand(2), condition, condition_grid=(2, 2))
    ids, pixels = torch.randint(5, 200, (2, 9)), torch.rand(1, 3, 48, 48)
    ids[0, 2:6] = 0  # placeholders are looked up below
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    ids[0, 2:6] = base.vocabulary.image
    return model(input_ids=ids, pixel_values=pixels).logits


@every_model
def test_all_linear_layers_of_the_blocks_are_adapted_and_nothing_else_trains(name):
    torch.manual_seed(0)
    model = MODELS[name]()
    before = output(model)
    add_lora(model, LoraConfig(rank=4))
    assert torch.equal(output(model), before)
    assert len(layers(model)) == LINEAR[name]
    trained = {n.split(".lora_")[0] for n, p in model.named_parameters() if p.requires_grad}
    assert trained == layers(model).keys()


@every_model
def test_merged_equals_unmerged_and_leaves_no_trace(name):
    torch.manual_seed(0)
    model = MODELS[name]()
    shapes = {n: p.shape for n, p in model.named_parameters()}
    before = output(model)
    state = adapted(model).state_dict()
    unmerged = output(model)
    assert not torch.allclose(unmerged, before, atol=0.1)
    with merged(model):
        assert {n: p.shape for n, p in model.named_parameters()} == shapes
        torch.testing.assert_close(output(model), unmerged, rtol=1e-4, atol=1e-4)
    assert torch.equal(output(model), unmerged)
    after = model.state_dict()
    assert list(after) == list(state)
    assert all(torch.equal(after[n], value) for n, value in state.items())


@every_model
def test_a_saved_adapter_goes_on_its_base_and_on_no_other(name, tmp_path):
    torch.manual_seed(0)
    model = MODELS[name]()
    model.save_pretrained(tmp_path / "base")
    adapter = Adapter.of(model, "the base", also=ALSO if name != "decoder" else [])
    adapted(model)
    for module in adapter.also:
        for parameter in model.get_submodule(module).parameters():
            nn.init.normal_(parameter)
    adapter.save(model, tmp_path / "adapter")
    wanted = output(model)

    base = type(model).from_pretrained(tmp_path / "base")
    load_adapter(base, tmp_path / "adapter")
    assert torch.equal(output(base), wanted)
    peft_model = PeftModel.from_pretrained(
        type(model).from_pretrained(tmp_path / "base"), str(tmp_path / "adapter")
    )
    assert torch.equal(output(peft_model), wanted)
    other = MODELS[name]()
    with pytest.raises(ValueError, match="belongs to 'the base', and this model has other"):
        load_adapter(other, tmp_path / "adapter")
    assert not layers(other)


def test_impossible_numbers_are_refused():
    for wrong in ({"rank": -1}, {"rank": 4, "alpha": 0.0}):
        with pytest.raises(ValueError, match=r"the rank must be 0 or more and alpha positive"):
            LoraConfig(**wrong)

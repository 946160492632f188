import json

import pytest
import torch

from manzano.decoder.dit_air import DIT_AIR, PRESETS, DiTAir, patchify, unpatchify

GROUPED = {"num_kv_heads": 1, "mlp": "swiglu"}
"""The switches of the decoders named by their size, for the two heads of `build`."""


def build(**overrides) -> DiTAir:
    """A tiny DiTAir without zero-initialised weights, so that its output is not zero."""
    torch.manual_seed(0)
    sizes = {"num_layers": 2, "width": 32, "head_dim": 16, "in_channels": 4, "condition_width": 8}
    model = DiTAir(**{**sizes, **overrides}).eval()
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def inputs(batch_size: int = 3, size: tuple[int, int] = (8, 8)) -> dict:
    generator = torch.Generator().manual_seed(1)
    return {
        "noisy_latents": torch.randn(batch_size, 4, *size, generator=generator),
        "timestep": torch.rand(batch_size, generator=generator),
        "condition": torch.randn(batch_size, 9, 8, generator=generator),
        "condition_grid": (3, 3),
        "reference_latents": torch.randn(batch_size, 4, *size, generator=generator),
    }


@pytest.mark.parametrize("name", PRESETS)
def test_block_and_modulation_matrices_count_what_the_formula_says(name):
    """(12 + 12 N) d^2 as published, (12 + 15 N) d^2 in the decoders named by their size."""
    with torch.device("meta"):
        model = DiTAir(**PRESETS[name], in_channels=16, condition_width=2048)
    depth, width, head_dim = (PRESETS[name][key] for key in ("num_layers", "width", "head_dim"))
    assert width == 64 * depth and head_dim == 64

    heads = [*model.condition_modulation.parameters(), *model.image_modulation.parameters()]
    block = list(model.blocks.parameters())
    matrices = [p for p in (*heads, *block) if p.ndim == 2]
    per_layer = 12 if name in DIT_AIR else 15
    assert sum(p.numel() for p in matrices) == (12 + per_layer * depth) * width**2
    assert sum(p.numel() for p in block if p.ndim == 1) == depth * 2 * head_dim  # QK-norm gains
    assert sum(p.numel() for p in heads if p.ndim == 1) == 12 * width  # biases


@pytest.mark.parametrize(("name", "paper"), [("0.9B", 0.9e9), ("1.75B", 1.75e9), ("3.52B", 3.52e9)])
def test_the_sizes_of_the_paper_are_met_within_two_percent(name, paper):
    """Manzano, Sec. 4.2.3; with 16 latent channels and a tokenizer trained at width 1024."""
    with torch.device("meta"):
        model = DiTAir(**PRESETS[name], in_channels=16, condition_width=1024)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(paper, rel=0.02)


def test_grouped_heads_equal_full_attention_whose_keys_and_values_repeat():
    grouped = build(width=64, num_kv_heads=2, mlp="swiglu")  # 4 heads
    full = build(width=64, mlp="swiglu")
    weights = grouped.state_dict()
    for name in [name for name in weights if name.endswith("qkv.weight")]:
        q, k, v = weights[name].unflatten(0, (8, 16)).split([4, 2, 2])  # (heads, K, D)
        k, v = k.repeat_interleave(2, 0), v.repeat_interleave(2, 0)
        weights[name] = torch.cat([q, k, v]).flatten(0, 1)
    full.load_state_dict(weights)
    batch = inputs()
    mask = torch.tensor([True, False, True])
    torch.testing.assert_close(grouped(**batch), full(**batch))
    torch.testing.assert_close(
        grouped(**batch, reference_mask=mask), full(**batch, reference_mask=mask)
    )


def test_swiglu_gates_one_half_by_the_silu_of_the_other():
    mlp, x = build(mlp="swiglu").blocks[0].mlp, torch.randn(2, 5, 32)
    value, gate = mlp[0].proj.weight.chunk(2)  # each (4 D, D)
    expected = (x @ value.T * torch.nn.functional.silu(x @ gate.T)) @ mlp[1].weight.T
    torch.testing.assert_close(mlp(x), expected)


def test_a_new_model_predicts_no_flow_and_its_blocks_are_identities():
    model = DiTAir(
        num_layers=2, width=32, head_dim=16, in_channels=4, condition_width=8, patch_size=1
    )
    assert not model(**inputs()).any()
    x, rope = torch.randn(1, 4, 32), (torch.ones(4, 16), torch.zeros(4, 16))
    modulation = model.image_modulation(torch.randn(1, 32)).view(6, 1, 1, 32).expand(-1, -1, 4, -1)
    assert torch.equal(model.blocks[0](x, modulation, rope, None), x)


def test_unpatchify_inverts_patchify():
    latents = torch.randn(2, 3, 8, 12)
    assert torch.equal(unpatchify(patchify(latents, 2), (4, 6), 2), latents)


def test_a_dropped_reference_equals_no_reference():
    model, batch = build(), inputs()
    keep = torch.tensor([True, False, True])
    mixed = model(**batch, reference_mask=keep)
    whole = model(**batch)
    without = model(**{**batch, "reference_latents": None})
    torch.testing.assert_close(mixed[keep], whole[keep])
    torch.testing.assert_close(mixed[~keep], without[~keep])
    assert not torch.allclose(whole, without)


def test_a_dropped_condition_equals_any_other_dropped_condition():
    model, batch = build(), inputs()
    keep = torch.tensor([True, False, True])
    dropped = model(**batch, condition_mask=keep)
    other = model(**{**batch, "condition": batch["condition"] + 1}, condition_mask=keep)
    assert torch.equal(dropped[1], other[1])
    assert not torch.allclose(dropped[0], other[0])
    torch.testing.assert_close(dropped[keep], model(**batch)[keep])


def test_a_batch_equals_its_samples_one_by_one():
    model, batch = build(), inputs()
    single = [
        model(**{k: v[i : i + 1] if torch.is_tensor(v) else v for k, v in batch.items()})
        for i in range(3)
    ]
    torch.testing.assert_close(model(**batch), torch.cat(single))


@pytest.mark.parametrize("size", [(2, 2), (8, 4), (6, 14)])
def test_one_model_serves_every_latent_size(size):
    model = build()
    batch = inputs(size=size)
    assert model(**batch).shape == (3, 4, *size)
    reference = torch.randn(3, 4, 10, 6)  # of another size than the target
    assert model(**{**batch, "reference_latents": reference}).shape == (3, 4, *size)


def test_the_reference_is_seen_at_the_time_of_data():
    model = build()
    seen = []
    model.image_modulation.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    batch = {**inputs(), "timestep": torch.ones(3)}
    model(**batch)
    at_data = seen[0]
    model(**{**batch, "timestep": torch.zeros(3)})
    assert torch.equal(seen[1], at_data)  # noisy latents at t = 1
    assert torch.equal(seen[2], at_data)  # reference, though the noisy latents are at t = 0
    assert not torch.equal(seen[3], at_data)


def test_scaled_positions_are_counted_ones_at_the_first_size_and_others_at_another():
    counted, scaled = build(), build(rope_size=8)
    assert torch.equal(scaled(**inputs()), counted(**inputs()))
    larger = inputs(size=(16, 16))
    assert not torch.allclose(scaled(**larger), counted(**larger))


def test_a_folder_without_the_newer_settings_is_read_as_before(tmp_path):
    model = build()
    model.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    del settings["rope_size"], settings["sample_size"]
    (tmp_path / "config.json").write_text(json.dumps(settings))
    loaded = DiTAir.from_pretrained(tmp_path)
    assert torch.equal(loaded(**inputs()), model(**inputs()))
    assert loaded.config["sample_size"] is None


@pytest.mark.parametrize("switches", [{}, GROUPED])
def test_saved_and_loaded_is_bitwise_the_same(tmp_path, switches):
    model, batch = build(patch_size=1, rope_theta=100.0, **switches), inputs()
    model.save_pretrained(tmp_path)
    loaded = DiTAir.from_pretrained(tmp_path)
    assert dict(loaded.config)["rope_theta"] == 100.0
    assert torch.equal(loaded(**batch), model(**batch))


@pytest.mark.parametrize("switches", [{}, GROUPED])
def test_gradient_checkpointing_changes_no_gradient(switches):
    model, batch = build(**switches).train(), inputs()

    def gradients() -> list[torch.Tensor]:
        model.zero_grad()
        model(**batch, condition_mask=torch.tensor([True, True, False])).square().sum().backward()
        return [p.grad.clone() for p in model.parameters()]

    plain = gradients()
    model.enable_gradient_checkpointing()
    assert all(torch.equal(a, b) for a, b in zip(plain, gradients(), strict=True))
    assert all(gradient.any() for gradient in plain)


def test_bfloat16_weights_and_autocast_stay_near_float32():
    expected = build()(**inputs())
    cast = build().bfloat16()(**inputs())
    with torch.autocast("cpu", torch.bfloat16):
        autocast = build()(**inputs())
    for result in (cast, autocast):
        assert result.dtype == torch.bfloat16
        assert (result.float() - expected).norm() < 0.05 * expected.norm()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"condition_grid": (2, 3)}, "condition_grid"),
        ({"noisy_latents": torch.zeros(3, 4, 7, 8)}, "patches of 2"),
        ({"noisy_latents": torch.zeros(3, 5, 8, 8)}, "4 channels, got 5"),
        ({"reference_latents": None, "reference_mask": torch.ones(3).bool()}, "pass both"),
    ],
)
def test_wrong_inputs_are_explained(change, words):
    with pytest.raises(ValueError, match=words):
        build()(**{**inputs(), **change})


def test_wrong_head_dim_is_explained():
    with pytest.raises(ValueError, match="divisible by 16"):
        build(head_dim=8)


@pytest.mark.parametrize(
    ("change", "words"),
    [({"num_kv_heads": 3}, "divide the 2 heads, got 3"), ({"mlp": "relu"}, "'swiglu', got 'relu'")],
)
def test_wrong_switches_are_explained(change, words):
    with pytest.raises(ValueError, match=words):
        build(**change)

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from manzano.decoder.dit_air import DiTAir
from manzano.decoder.flow import resolution_shift
from manzano.decoder.sampling import guidance_passes, guided_flow, sample
from manzano.decoder.vae import VAEConfig, build_vae, decode, pixels_per_latent


def build() -> DiTAir:
    torch.manual_seed(0)
    model = DiTAir(
        num_layers=1, width=32, head_dim=16, in_channels=4, condition_width=8, patch_size=1
    ).eval()
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)
    return model


class Oracle(DiTAir):
    """Knows that x0 is all `target`, and so the flow (x0 - x_t) / (1 - t)."""

    target = 0.7

    def forward(self, noisy_latents, timestep, condition, **_):
        return (self.target - noisy_latents) / (1 - timestep)[:, None, None, None]


SHAPE = {"height": 4, "width": 5, "condition_grid": (3, 3)}


def draw(seed: int = 0, batch_size: int = 2, **options) -> torch.Tensor:
    condition = torch.randn(batch_size, 9, 8, generator=torch.Generator().manual_seed(5))
    options = {"generator": torch.Generator().manual_seed(seed), "num_steps": 4, **options}
    return sample(build(), FlowMatchEulerDiscreteScheduler(), condition, **SHAPE, **options)


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("num_steps", [1, 7])
def test_the_true_flow_leads_exactly_to_the_data(shift, num_steps):
    oracle = Oracle(num_layers=1, width=16, head_dim=16, in_channels=4, condition_width=8)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    latents = sample(oracle, scheduler, torch.zeros(2, 9, 8), **SHAPE, num_steps=num_steps)
    torch.testing.assert_close(latents, torch.full((2, 4, 4, 5), 0.7), atol=1e-6, rtol=0)


def test_sampling_is_fixed_by_the_generator():
    assert torch.equal(draw(0), draw(0)) and not torch.equal(draw(0), draw(1))


def test_a_batch_equals_its_samples_drawn_with_their_own_generators():
    seeds = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    batch = draw(generator=seeds)
    first = draw(generator=torch.Generator().manual_seed(3))
    condition = torch.randn(2, 9, 8, generator=torch.Generator().manual_seed(5))
    single = sample(
        build(),
        FlowMatchEulerDiscreteScheduler(),
        condition[1:],
        **SHAPE,
        num_steps=4,
        generator=torch.Generator().manual_seed(4),
    )
    torch.testing.assert_close(batch[:1], first[:1])
    torch.testing.assert_close(batch[1:], single)


@pytest.mark.parametrize(
    ("scales", "passes"),
    [
        ((1.0, None), [(True, False, 1.0)]),
        ((3.0, None), [(True, False, 3.0), (False, False, -2.0)]),
        ((1.0, 1.0), [(True, True, 1.0)]),
        ((3.0, 1.0), [(True, True, 3.0), (False, True, -2.0)]),
        ((2.0, 2.0), [(True, True, 2.0), (False, False, -1.0)]),
        ((4.0, 2.0), [(True, True, 4.0), (False, True, -2.0), (False, False, -1.0)]),
    ],
)
def test_passes_of_weight_zero_are_left_out(scales, passes):
    assert guidance_passes(*scales) == passes


def flows(model, batch, reference, guidance_scale, reference_guidance_scale):
    return guided_flow(
        model,
        **batch,
        reference_latents=reference,
        guidance_scale=guidance_scale,
        reference_guidance_scale=reference_guidance_scale,
    )


def test_guidance_is_omnigen2s_formula_and_scale_one_the_plain_conditional():
    model = build()
    batch = {
        "noisy_latents": torch.randn(2, 4, 4, 5),
        "timestep": torch.tensor([0.2, 0.9]),
        "condition": torch.randn(2, 9, 8),
        "condition_grid": (3, 3),
    }
    reference, dropped = torch.randn(2, 4, 4, 5), torch.zeros(2).bool()
    with torch.no_grad():
        full = model(**batch, reference_latents=reference)
        text = model(**batch)
        image = model(**batch, reference_latents=reference, condition_mask=dropped)
        none = model(**batch, condition_mask=dropped)

        torch.testing.assert_close(flows(model, batch, None, 1.0, 1.0), text)
        torch.testing.assert_close(flows(model, batch, reference, 1.0, 1.0), full)
        torch.testing.assert_close(flows(model, batch, None, 3.0, 1.0), none + 3 * (text - none))
        torch.testing.assert_close(
            flows(model, batch, reference, 4.0, 2.0),
            none + 2 * (image - none) + 4 * (full - image),
        )


def test_no_steps_are_refused():
    with pytest.raises(ValueError, match="num_steps 0"):
        draw(num_steps=0)


def test_a_mask_keeps_what_is_known_and_leaves_the_rest_to_the_flow():
    oracle = Oracle(num_layers=1, width=16, head_dim=16, in_channels=4, condition_width=8)
    known = torch.randn(2, 4, 4, 5)
    mask = torch.rand(2, 1, 4, 5) < 0.5
    latents = sample(
        oracle, FlowMatchEulerDiscreteScheduler(shift=2.0), torch.zeros(2, 9, 8), **SHAPE,
        num_steps=6, known_latents=known, paint_mask=mask,
    )  # fmt: skip
    expected = torch.where(mask, torch.tensor(0.7), known)
    torch.testing.assert_close(latents, expected, atol=1e-6, rtol=0)


def test_a_mask_over_everything_is_no_mask_and_a_strength_of_one_starts_from_noise():
    known = torch.randn(2, 4, 4, 5)
    everywhere = torch.ones(2, 1, 4, 5, dtype=torch.bool)
    assert torch.equal(draw(known_latents=known, paint_mask=everywhere), draw())
    assert torch.equal(draw(known_latents=known, strength=1.0), draw())


class Standing(DiTAir):
    """Sees no way to go: the latents stay where they begin."""

    def forward(self, noisy_latents, timestep, condition, **_):
        return torch.zeros_like(noisy_latents)


@pytest.mark.parametrize(("strength", "made"), [(0.01, 1), (0.25, 2), (0.5, 4), (0.9, 7)])
def test_less_strength_begins_later_on_the_way_from_noise_to_what_is_known(strength, made):
    model = Standing(num_layers=1, width=16, head_dim=16, in_channels=4, condition_width=8)
    known, seed, steps = torch.randn(2, 4, 4, 5), torch.Generator().manual_seed(0), []
    latents = sample(
        model, FlowMatchEulerDiscreteScheduler(), torch.zeros(2, 9, 8), **SHAPE, num_steps=8,
        known_latents=known, strength=strength, generator=seed, on_step=lambda: steps.append(1),
    )  # fmt: skip
    noise = torch.randn(2, 4, 4, 5, generator=torch.Generator().manual_seed(0))
    time = 1 - made / 8
    torch.testing.assert_close(latents, time * known + (1 - time) * noise)
    assert len(steps) == made


@pytest.mark.parametrize("options", [{"strength": 0.5}, {"paint_mask": torch.ones(2, 1, 4, 5) > 0}])
def test_what_is_painted_anew_must_be_known(options):
    with pytest.raises(ValueError, match="needs a picture that is known"):
        draw(**options)
    with pytest.raises(ValueError, match="at most 1, got 0"):
        draw(strength=0.0)


@pytest.mark.parametrize(("height", "width"), [(2048, 2048), (512, 1536)])
def test_pictures_of_any_size_are_drawn_and_decoded(height, width):
    """32 pixels to a latent, as in DC-AE, so that a CPU does it in seconds."""
    vae = build_vae(VAEConfig(block_out_channels=(4, 4, 4, 4, 4, 4), norm_num_groups=4))
    model = DiTAir(num_layers=1, width=16, head_dim=16, in_channels=8, condition_width=8)
    factor = pixels_per_latent(vae)
    latents = sample(
        model, FlowMatchEulerDiscreteScheduler(shift=resolution_shift(height, width)),
        torch.randn(1, 9, 8), height=height // factor, width=width // factor,
        condition_grid=(3, 3), guidance_scale=1.0, num_steps=2,
    )  # fmt: skip
    assert latents.shape == (1, 8, height // 32, width // 32)
    pixels = decode(vae, latents)
    assert pixels.shape == (1, 3, height, width) and pixels.isfinite().all()

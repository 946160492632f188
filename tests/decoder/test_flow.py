import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from manzano.decoder.flow import flow_matching_loss, interpolate, resolution_shift, sample_times


def test_the_path_starts_at_noise_and_ends_at_data():
    latents, noise = torch.randn(2, 3, 4, 5, 5)
    assert torch.equal(interpolate(latents, noise, torch.zeros(3)), noise)
    assert torch.equal(interpolate(latents, noise, torch.ones(3)), latents)


def test_the_path_is_that_of_the_scheduler():
    scheduler = FlowMatchEulerDiscreteScheduler()
    latents, noise = torch.randn(2, 3, 4, 5, 5)
    timesteps = scheduler.timesteps[[0, 333, 999]]
    expected = scheduler.scale_noise(latents, timesteps, noise)
    torch.testing.assert_close(interpolate(latents, noise, 1 - timesteps / 1000), expected)


def test_times_are_logit_normal():
    times = sample_times(20_000, generator=torch.Generator().manual_seed(0))
    assert times.logit().mean().item() == pytest.approx(0.0, abs=0.03)
    assert times.logit().std().item() == pytest.approx(1.0, abs=0.03)


def test_times_shift_as_the_scheduler_shifts():
    plain = sample_times(4, generator=torch.Generator().manual_seed(0))
    shifted = sample_times(4, shift=3.0, generator=torch.Generator().manual_seed(0))
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(sigmas=(1 - plain).tolist())
    torch.testing.assert_close(1 - shifted, scheduler.sigmas[:-1])


def test_only_images_above_256_pixels_are_shifted():
    sides = ((72, 72), (256, 256), (512, 512), (512, 2048), (2048, 2048))
    assert [resolution_shift(*side) for side in sides] == [1, 1, 2, 4, 8]


class Oracle(torch.nn.Module):
    """Knows x0 and so the flow (x0 - x_t) / (1 - t)."""

    def __init__(self, latents: torch.Tensor) -> None:
        super().__init__()
        self.latents = latents

    def forward(self, noisy_latents, timestep, condition, **_) -> torch.Tensor:
        return (self.latents - noisy_latents) / (1 - timestep)[:, None, None, None]


def test_the_true_flow_has_no_loss_and_another_has_its_squared_error():
    latents = torch.randn(64, 4, 3, 3)
    arguments = {"condition": torch.zeros(64, 1, 1), "condition_grid": (1, 1)}
    loss = flow_matching_loss(Oracle(latents), latents, **arguments)
    assert loss.shape == (64,)
    torch.testing.assert_close(loss, torch.zeros(64), atol=1e-8, rtol=0)

    class Zero(torch.nn.Module):
        def forward(self, noisy_latents, *_, **__):
            return torch.zeros_like(noisy_latents)

    loss = flow_matching_loss(Zero(), torch.full((64, 4, 16, 16), 2.0), **arguments)
    assert loss.mean().item() == pytest.approx(5.0, rel=0.02)  # 2^2 of data + 1 of noise


def test_the_loss_is_fixed_by_the_generator():
    latents, model = torch.randn(2, 4, 3, 3), Oracle(torch.zeros(2, 4, 3, 3))

    def loss(seed: int) -> torch.Tensor:
        return flow_matching_loss(
            model,
            latents,
            torch.zeros(2, 1, 1),
            condition_grid=(1, 1),
            generator=torch.Generator().manual_seed(seed),
        )

    assert torch.equal(loss(0), loss(0)) and not torch.equal(loss(0), loss(1))

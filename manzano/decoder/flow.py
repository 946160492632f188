"""Flow matching on the straight path from noise to data (DiT-Air 3.2; Manzano 3.2).

    x_t = (1 - t) noise + t x0,        flow = dx/dt = x0 - noise,        t = 0 noise, t = 1 data

diffusers counts the other way: its sigma is 1 - t (times 1000 as a "timestep") and its velocity is
noise - x0. So x_t equals `FlowMatchEulerDiscreteScheduler.scale_noise`, and a step of that
scheduler takes minus the flow.
"""

from __future__ import annotations

import torch
from diffusers.training_utils import compute_density_for_timestep_sampling
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn


def interpolate(latents: Tensor, noise: Tensor, time: Tensor) -> Tensor:
    """The point x_t of the path at time (B,), for latents and noise (B, C, h, w)."""
    time = time[:, None, None, None]
    return (1 - time) * noise + time * latents


def resolution_shift(height: int, width: int) -> float:
    """The shift towards noise for an image of this size in pixels, against one of 256 x 256.

    A larger image survives more noise: SD3 5.3.2 multiplies the odds of sigma by the ratio of the
    sides, here the geometric mean side over 256. Images up to 256 x 256 are not shifted.
    """
    return max(1.0, (height * width) ** 0.5 / 256)


def sample_times(
    batch_size: int, *, shift: float = 1.0, generator: torch.Generator | None = None
) -> Tensor:
    """Training times (batch_size,), fp32: logit-normal(0, 1), then shifted towards the noise as the
    scheduler shifts its own schedule. On the device of the generator (CPU without one)."""
    if shift <= 0:
        raise ValueError(f"the shift of times must be above 0, got {shift}")
    device = torch.device("cpu") if generator is None else generator.device
    sigma = compute_density_for_timestep_sampling(
        "logit_normal",
        batch_size,
        logit_mean=0.0,
        logit_std=1.0,
        device=device,
        generator=generator,
    )
    return 1 - shift * sigma / (1 + (shift - 1) * sigma)


def flow_matching_loss(
    model: nn.Module,
    latents: Tensor,
    condition: Tensor,
    *,
    condition_grid: tuple[int, int],
    reference_latents: Tensor | None = None,
    condition_mask: Tensor | None = None,
    reference_mask: Tensor | None = None,
    shift: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Mean squared error of the predicted flow for each sample, (B,) fp32.

    `model` is a `DiTAir`, whose `forward` explains the arguments; `latents` (B, C, h, w) are the
    scaled latents of the target image. Time and noise are drawn from `generator`.
    """
    time = sample_times(len(latents), shift=shift, generator=generator).to(latents.device)
    noise = randn_tensor(latents.shape, generator, latents.device, latents.dtype)
    flow = model(
        interpolate(latents, noise, time.to(latents.dtype)),
        time,
        condition,
        condition_grid=condition_grid,
        reference_latents=reference_latents,
        condition_mask=condition_mask,
        reference_mask=reference_mask,
    )
    return (flow.float() - (latents - noise).float()).square().mean(dim=(1, 2, 3))

"""Drawing latents: Euler steps along the predicted flow, guided by condition and reference.

A picture that is known can be painted anew in part: where a mask keeps it, the latents are put back
after every step onto its own path from the same noise; and a strength below 1 begins on that path.

Guidance is OmniGen2's for two conditions, u + s_img (r - u) + s_txt (f - r), with u unconditional,
r the reference only and f both. It is a weighted sum of three flows; those of weight zero are not
computed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from manzano.decoder.dit_air import DiTAir
from manzano.decoder.flow import interpolate


def guidance_passes(
    guidance_scale: float, reference_guidance_scale: float | None
) -> list[tuple[bool, bool, float]]:
    """(keep the condition, keep the reference, weight) of every pass with a weight other than zero.

    `reference_guidance_scale` is None where there is no reference, and r is u.
    """
    if reference_guidance_scale is None:
        passes = [(True, False, guidance_scale), (False, False, 1 - guidance_scale)]
    else:
        passes = [
            (True, True, guidance_scale),
            (False, True, reference_guidance_scale - guidance_scale),
            (False, False, 1 - reference_guidance_scale),
        ]
    return [entry for entry in passes if entry[2] != 0]


def guided_flow(
    model: DiTAir,
    noisy_latents: Tensor,
    timestep: Tensor,
    condition: Tensor,
    *,
    condition_grid: tuple[int, int],
    reference_latents: Tensor | None,
    guidance_scale: float,
    reference_guidance_scale: float,
) -> Tensor:
    """The guided flow (B, C, h, w), all passes in one batch. Arguments as `DiTAir.forward`."""
    has_reference = reference_latents is not None
    passes = guidance_passes(guidance_scale, reference_guidance_scale if has_reference else None)
    hides_reference = not all(keep for _, keep, _ in passes)
    copies, batch_size = len(passes), len(noisy_latents)
    keep_condition, keep_reference, weights = (
        torch.tensor(column, device=noisy_latents.device) for column in zip(*passes, strict=True)
    )
    flow = model(
        noisy_latents.repeat(copies, 1, 1, 1),
        timestep.repeat(copies),
        condition.repeat(copies, 1, 1),
        condition_grid=condition_grid,
        reference_latents=reference_latents.repeat(copies, 1, 1, 1) if has_reference else None,
        condition_mask=keep_condition.repeat_interleave(batch_size),
        reference_mask=keep_reference.repeat_interleave(batch_size)
        if has_reference and hides_reference
        else None,
    )
    return torch.einsum(
        "s, s b c h w -> b c h w", weights, flow.unflatten(0, (copies, batch_size)).float()
    )


def steps_made(num_steps: int, strength: float) -> int:
    """How many of `num_steps` are made at that strength: at least the last."""
    return max(1, round(strength * num_steps))


@torch.no_grad()
def sample(
    model: DiTAir,
    scheduler: FlowMatchEulerDiscreteScheduler,
    condition: Tensor,
    *,
    height: int,
    width: int,
    condition_grid: tuple[int, int],
    reference_latents: Tensor | None = None,
    known_latents: Tensor | None = None,
    paint_mask: Tensor | None = None,
    strength: float = 1.0,
    guidance_scale: float = 3.0,
    reference_guidance_scale: float = 1.0,
    num_steps: int = 50,
    generator: torch.Generator | list[torch.Generator] | None = None,
    on_step: Callable[[], None] | None = None,
) -> Tensor:
    """Latents (B, C, height, width), fp32, for condition (B, N, condition_width).

    For images above 256 x 256 call `scheduler.set_shift(resolution_shift(...))` first, as in
    training.

    Args:
        height, width: in latents.
        known_latents: (B, C, height, width) of the picture that is painted anew; needed with a
            mask, or a strength below 1.
        paint_mask: (B, 1, height, width) bool, False where the known latents are kept.
        strength: share of the steps that are made, the last ones; 1 starts from noise alone.
        guidance_scale, reference_guidance_scale: 1 is no guidance and costs no further pass.
        generator: one for the whole batch, or B of them, one for each sample.
        on_step: called after each step, for a progress bar.

    Raises:
        ValueError: for no steps, a strength that is not above 0 and at most 1, or a mask or a
            strength without known latents.
    """
    if num_steps < 1:
        raise ValueError(f"Sampling takes at least one step, got num_steps {num_steps}.")
    if not 0 < strength <= 1:
        raise ValueError(f"strength must be above 0 and at most 1, got {strength}")
    if known_latents is None and (paint_mask is not None or strength < 1):
        raise ValueError("a mask or a strength below 1 needs a picture that is known")
    shape = (len(condition), model.in_channels, height, width)
    noise = randn_tensor(shape, generator, condition.device, torch.float32)
    scheduler.set_timesteps(
        sigmas=np.linspace(1, 1 / num_steps, num_steps).tolist(), device=condition.device
    )
    times = 1 - torch.as_tensor(scheduler.sigmas)  # (num_steps + 1,)
    first = num_steps - steps_made(num_steps, strength)
    scheduler.set_begin_index(first)

    def known_at(time: Tensor) -> Tensor:
        assert known_latents is not None  # looked at above
        return interpolate(known_latents, noise, time.expand(len(noise)))

    latents = noise if first == 0 else known_at(times[first])
    for step in range(first, num_steps):
        flow = guided_flow(
            model,
            latents,
            times[step].expand(len(condition)),
            condition,
            condition_grid=condition_grid,
            reference_latents=reference_latents,
            guidance_scale=guidance_scale,
            reference_guidance_scale=reference_guidance_scale,
        )
        timestep = scheduler.timesteps[step]  # pyright: ignore
        latents = scheduler.step(-flow, timestep, latents, return_dict=False)[0]  # pyright: ignore
        if paint_mask is not None:
            latents = torch.where(paint_mask, latents, known_at(times[step + 1]))
        if on_step is not None:
            on_step()
    return latents

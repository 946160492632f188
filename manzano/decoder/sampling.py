"""Drawing latents: Euler steps along the predicted flow, guided by condition and reference.

Guidance is OmniGen2's for two conditions, u + s_img (r - u) + s_txt (f - r), with u unconditional,
r the reference only and f both. It is a weighted sum of three flows; those of weight zero are not
computed.
"""

from __future__ import annotations

import numpy as np
import torch
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from diffusers.utils.torch_utils import randn_tensor
from rich.progress import track
from torch import Tensor

from manzano.decoder.dit_air import DiTAir


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
    guidance_scale: float = 3.0,
    reference_guidance_scale: float = 1.0,
    num_steps: int = 50,
    generator: torch.Generator | list[torch.Generator] | None = None,
    progress: bool = False,
) -> Tensor:
    """Latents (B, C, height, width), fp32, for condition (B, N, condition_width).

    `height` and `width` count latents. A scale of 1 is no guidance and costs no further pass. One
    generator draws for the whole batch, a list of B generators one for each sample. For images
    above 256 x 256 call `scheduler.set_shift(resolution_shift(...))` first, as in training.
    """
    if num_steps < 1:
        raise ValueError(f"Sampling takes at least one step, got num_steps {num_steps}.")
    shape = (len(condition), model.in_channels, height, width)
    latents = randn_tensor(shape, generator, condition.device, torch.float32)
    scheduler.set_timesteps(
        sigmas=np.linspace(1, 1 / num_steps, num_steps).tolist(), device=condition.device
    )
    times = 1 - torch.as_tensor(scheduler.sigmas)  # (num_steps + 1,)
    for step in track(range(num_steps), description="Drawing", disable=not progress):
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
    return latents

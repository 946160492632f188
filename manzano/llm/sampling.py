"""Sampling image ids: a fixed-length block, logits of image ids only, classifier-free guidance.

The unguided rows ride in the same batch as the guided ones, so each id costs one forward pass, and
the key-value cache makes that pass one token long.
"""

from collections.abc import Callable, Sequence

import torch
from einops import repeat
from torch import Tensor
from transformers import Cache, LogitsProcessor, PreTrainedModel, StaticCache
from transformers.generation import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from manzano.llm.pararnn.configuration import RECURRENT


class RestrictToRange(LogitsProcessor):
    """Leaves only the ids low <= id < high: text ids when writing, image ids when drawing."""

    def __init__(self, low: int, high: int):
        self.low, self.high = low, high

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        restricted = torch.full_like(scores, -float("inf"))
        restricted[:, self.low : self.high] = scores[:, self.low : self.high]
        return restricted


def warpers(temperature: float, top_k: int | None, top_p: float | None) -> list[LogitsProcessor]:
    """transformers' logits warpers for the settings that are not None."""
    chain: list[LogitsProcessor] = [TemperatureLogitsWarper(temperature)]
    if top_k is not None:
        chain.append(TopKLogitsWarper(top_k))
    if top_p is not None:
        chain.append(TopPLogitsWarper(top_p))
    return chain


def draw(logits: Tensor, chain: list[LogitsProcessor], chance: Tensor) -> Tensor:
    """One id per row of logits (B, V): the likeliest if the chain is empty, else a sample.

    Args:
        chance: (B,) uniform in [0, 1): where in its distribution each row's sample lies.
    """
    if not chain:
        return logits.argmax(-1)
    for warper in chain:
        logits = warper(None, logits)  # type: ignore[arg-type]  (these read no input_ids)
    exact = torch.float32 if logits.device.type == "mps" else torch.float64  # Apple's have no fp64
    total = logits.to(exact).softmax(-1).cumsum(-1)  # (B, V)
    place = chance.to(total)[:, None] * total[:, -1:]
    ids = torch.searchsorted(total, place, right=True).squeeze(1)
    return ids.clamp(max=logits.shape[-1] - 1)  # rounding may reach the end


def chances(
    rows: int, length: int, generator: torch.Generator | Sequence[torch.Generator] | None
) -> Tensor:
    """(rows, length) uniform in [0, 1), on the CPU, whatever device they serve: one seed, one
    picture. Of several generators each draws its own row, as it would alone."""
    if generator is None or isinstance(generator, torch.Generator):
        return torch.rand(rows, length, generator=generator)
    if len(generator) != rows:
        raise ValueError(f"{len(generator)} generators were given for {rows} pictures: one each")
    return torch.stack([torch.rand(length, generator=own) for own in generator])


def preallocated_cache(language_model: PreTrainedModel, length: int) -> Cache | None:
    """Room for `length` keys and values, filled in place; None for a model with recurrent layers,
    whose own cache does not grow."""
    config = language_model.config
    if RECURRENT in (getattr(config, "layer_types", None) or []):
        return None
    return StaticCache(config=config, max_cache_len=length)


@torch.no_grad()
def sample_image_ids(
    language_model: PreTrainedModel,
    inputs_embeds: Tensor,
    attention_mask: Tensor,
    *,
    num_tokens: int,
    image_offset: int,
    image_size: int,
    guidance_scale: float = 1.0,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    use_cache: bool = True,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    on_step: Callable[[], None] | None = None,
) -> Tensor:
    """Samples `num_tokens` image ids for each prompt.

    Args:
        inputs_embeds: (B, T, D) prompts that end where ids begin; with guidance (2B, T, D), the
            second half being prompts for a picture of nothing. Left-padded.
        attention_mask: (B or 2B, T), 0 at padding.
        guidance_scale: s in u + s (c - u); 1 takes c alone and expects B rows.
        temperature: 0 takes the likeliest id.
        generator: one for all pictures, or B of them: then each picture is the one that its
            generator gives alone.
        on_step: called after each id, for a progress bar.

    Returns:
        ids (B, num_tokens) int64 in [0, image_size).
    """
    guided = guidance_scale != 1.0
    chain = warpers(temperature, top_k, top_p) if temperature > 0 else []
    embedding = language_model.get_input_embeddings()
    embeds, mask, ids = inputs_embeds, attention_mask, []
    rows, length = mask.shape
    chance = chances(rows // 2 if guided else rows, num_tokens, generator).to(embeds.device)
    cache = preallocated_cache(language_model, length + num_tokens) if use_cache else None
    positions = (mask.cumsum(-1) - 1).clamp(min=0)  # (B, T)
    for step in range(num_tokens):
        out = language_model(
            inputs_embeds=embeds, attention_mask=mask, position_ids=positions,
            past_key_values=cache, use_cache=use_cache, logits_to_keep=1,
        )  # fmt: skip
        logits = out.logits[:, -1, image_offset : image_offset + image_size].float()  # (B or 2B, V)
        if guided:
            conditional, unconditional = logits.chunk(2)
            logits = unconditional + guidance_scale * (conditional - unconditional)
        ids.append(draw(logits, chain, chance[:, step]))
        new = repeat(ids[-1] + image_offset, "b -> (k b) 1", k=2 if guided else 1)
        mask = torch.cat([mask, mask.new_ones(rows, 1)], dim=1)
        last = positions[:, -1:] + 1
        if use_cache:
            embeds, positions, cache = embedding(new), last, out.past_key_values
        else:
            embeds = torch.cat([embeds, embedding(new)], dim=1)
            positions = torch.cat([positions, last], dim=1)
        if on_step is not None:
            on_step()
    return torch.stack(ids, dim=1)

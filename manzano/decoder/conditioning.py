"""From discrete image ids to the condition tokens of the decoder (Manzano 3.2, Fig. 4 right).

ids -> embeddings of the frozen discrete adapter (`HybridTokenizer.embed_ids`) -> RMSNorm + Linear,
trained here. The decoder never sees a hidden state of the LLM, so either can be replaced without
the other.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class ConditionEmbedder(nn.Module):
    """Discrete-adapter embeddings (B, N, condition_width) -> condition tokens (B, N, width).

    A sample whose `keep` is False gets the learned null token at every position: the unconditional
    model of classifier-free guidance.
    """

    def __init__(self, condition_width: int, width: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(condition_width, eps=1e-6)
        self.linear = nn.Linear(condition_width, width)
        self.null_token = nn.Parameter(torch.zeros(width))

    def forward(self, condition: Tensor, keep: Tensor | None = None) -> Tensor:
        tokens = self.linear(self.norm(condition.to(self.norm.weight.dtype)))  # (B, N, D)
        if keep is None:
            return tokens
        return torch.where(keep[:, None, None], tokens, self.null_token.to(tokens.dtype))


def keep_mask(
    batch_size: int, drop_rate: float, *, generator: torch.Generator | None = None
) -> Tensor:
    """Bool (batch_size,), False with probability `drop_rate`: samples to train without."""
    return torch.rand(batch_size, generator=generator) >= drop_rate


def corrupt_ids(
    ids: Tensor, levels: Sequence[int], rate: float, *, generator: torch.Generator | None = None
) -> Tensor:
    """Move one random FSQ digit of a fraction `rate` of the ids by one step up or down.

    In training the ids come from the target image itself, in use from the LLM, which errs. FSQ
    digits are ordered, so a neighbouring digit is the mild and likely error. A digit at the end of
    its range moves inward.

    `ids`: any shape, int64, digit i = ids // (levels[0] * ... * levels[i-1]) % levels[i]. On the
    device of the ids, as must be `generator`. Returns ids of the same shape.
    """
    if not 0.0 <= rate <= 1.0:
        raise ValueError(f"The corruption rate is a probability between 0 and 1, got {rate}.")
    sizes = torch.tensor(levels, device=ids.device)
    strides = torch.cat([sizes.new_ones(1), sizes.cumprod(dim=0)[:-1]])

    def random() -> Tensor:
        return torch.rand(ids.shape, generator=generator, device=ids.device)

    axis = (random() * len(levels)).long()
    digit = ids // strides[axis] % sizes[axis]
    step = torch.where(random() < 0.5, -1, 1)
    step = torch.where(digit == 0, 1, torch.where(digit == sizes[axis] - 1, -1, step))
    return torch.where(random() < rate, ids + step * strides[axis], ids)

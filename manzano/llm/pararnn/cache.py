"""The cache of a recurrent layer: its state and the inputs its convolution still needs.

Its size does not depend on how many tokens were read.
"""

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from manzano.llm.pararnn.configuration import RECURRENT


class RecurrentCacheLayer(CacheLayerMixin):
    """One layer's part of a transformers cache.

    `DynamicCache(config=...)`, and so `generate`, makes one for each layer of type "pararnn".

    history: (B, K - 1, D) the last inputs of the convolution, oldest first; None before any.
    state: (B, S, D) the cell's state.
    """

    _layer_type = RECURRENT
    is_sliding = False
    supports_early_init = False

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.history: Tensor | None = None
        self.state: Tensor | None = None
        self.length = 0

    def store(self, history: Tensor, state: Tensor, new_tokens: int) -> None:
        """Replaces what was there; `new_tokens` is how many each row has read since."""
        self.history, self.state = history, state
        self.length += new_tokens
        self.is_initialized = True

    def get_seq_length(self) -> int:
        return self.length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def get_max_length(self) -> int:
        return -1

    def reset(self) -> None:
        self.history = self.state = None
        self.length, self.is_initialized = 0, False

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keeps the rows `indices`, in that order."""
        if self.history is not None and self.state is not None:
            self.history = self.history.index_select(0, indices.to(self.history.device))
            self.state = self.state.index_select(0, indices.to(self.state.device))

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self.batch_select_indices(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeats every row `repeats` times."""
        if self.state is not None:
            rows = torch.arange(len(self.state)).repeat_interleave(repeats)
            self.batch_select_indices(rows)

    def offload(self) -> None:
        """Nothing: so little stays where it is."""

    def prefetch(self) -> None:
        """Nothing, see `offload`."""

    def crop(self, tokens_to_remove: int) -> None:
        if tokens_to_remove:
            raise ValueError(
                "a recurrent state cannot be taken back by some tokens: read the prompt again"
            )

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        raise NotImplementedError("a recurrent layer has no keys and values: see `store`")

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs):
        raise NotImplementedError("a recurrent layer has no keys and values: see `store`")


def recurrent_layer(cache: Cache, index: int) -> RecurrentCacheLayer:
    """The part of `cache` that belongs to recurrent layer `index`.

    Raises:
        ValueError: for a cache that was made for another model.
    """
    layer = cache.layers[index] if index < len(cache.layers) else None
    if not isinstance(layer, RecurrentCacheLayer):
        raise ValueError(
            f"past_key_values has {type(layer).__name__} where layer {index} needs "
            "RecurrentCacheLayer: make it by DynamicCache(config=model.config)"
        )
    return layer

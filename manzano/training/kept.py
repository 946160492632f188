"""What frozen networks make of pictures, computed once a picture instead of once a step."""

from collections.abc import Callable
from hashlib import blake2b

import torch
from torch import Tensor


class Kept:
    """A frozen function of single pictures that remembers its values by the pictures' content.

    Pictures are given to it one by one, for in a batch of another size a value may be rounded
    otherwise: so a resumed run, which has kept nothing yet, goes on exactly as it would have.

    Args:
        function: pixels (B, 3, H, W) -> a tensor (B, ...).
        limit: values kept, on the device that they were computed on; what comes later is computed
            each time. 0: the function as it is, whole batches and all.

    Raises:
        ValueError: for a negative limit.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], limit: int):
        if limit < 0:
            raise ValueError(f"{limit} values cannot be kept: give 0 to keep none, or how many")
        self.function, self.limit = function, limit
        self.values: dict[tuple, Tensor] = {}

    def __call__(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, ...)."""
        if not self.limit:
            return self.function(pixels)
        keys = [
            (picture.shape, blake2b(picture, digest_size=16).digest())  # plain colour has no shape
            for picture in pixels.cpu().numpy()
        ]
        pictures = pixels.split(1)
        return torch.cat([self._value(*pair) for pair in zip(keys, pictures, strict=True)])

    def _value(self, key: tuple, picture: Tensor) -> Tensor:
        value = self.values.get(key)
        if value is None:
            value = self.function(picture)
            if len(self.values) < self.limit:
                self.values[key] = value
        return value

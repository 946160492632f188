"""An exponential moving average of the trainable weights, for previews and the exported
artefact."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim.swa_utils import get_ema_multi_avg_fn


class MovingAverage:
    """Averages of the parameters of `model` that require gradients, sharded as they are.

    The decay of step t (from 0) is min(decay, (1 + t) / (10 + t)): a short run is not held back by
    its start.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.average = {name: p.detach().clone() for name, p in named.items()}
        self._parameters = [_local(p) for p in named.values()]
        self._averages = [_local(a) for a in self.average.values()]

    def update(self, step: int) -> None:
        """Take in the weights after optimizer step `step` (counted from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        get_ema_multi_avg_fn(decay)(self._averages, self._parameters, step)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the averages into the model, and the trained weights back afterwards."""
        trained = [p.clone() for p in self._parameters]
        _copy(self._averages, self._parameters)
        try:
            yield
        finally:
            _copy(trained, self._parameters)


def _copy(sources: list[Tensor], targets: list[Tensor]) -> None:
    for source, target in zip(sources, targets, strict=True):
        target.copy_(source)


def _local(tensor: Tensor) -> Tensor:
    """This rank's part of a parameter, sharing its memory."""
    detached = tensor.detach()
    return detached.to_local() if isinstance(detached, DTensor) else detached

"""Muon: momentum whose every singular value is made 1, for matrices; AdamW for all else.

Directions that the gradient seldom shows move as fast as those it always shows, so small details,
such as a shape beside a colour or a letter, are learned in a fraction of the steps (docs/log.md).
Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/; the factor that puts its rate on
AdamW's scale is of Liu et al. 2025 (arXiv 2502.16982, Sec. 2.2).

torch and timm have Muon too, always in bfloat16: without such instructions a CPU takes 35 times as
long for it (measured with oneDNN held to AVX2), some two seconds a step at the demo's sizes.
"""

from collections import defaultdict

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import AdamW

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Jordan's quintic: steep at 0, so that five iterations suffice."""
ITERATIONS = 5


class Muon(AdamW):
    """AdamW whose parameter groups with `momentum` above 0 follow Muon instead.

    A convolution's weight counts as one matrix (out, in * height * width). Sharded matrices are
    gathered first: every rank then does the whole of the work.
    """

    @torch.no_grad()
    def step(self, closure=None):
        """One step of both; the gradients of the matrices are used up."""
        if closure is not None:
            raise ValueError("Muon takes no closure: call backward() before step().")
        for group in self.param_groups:
            if group["momentum"]:
                self._step_matrices(group)
                for parameter in group["params"]:
                    parameter.grad = None  # AdamW passes over it
        return super().step()

    def _step_matrices(self, group: dict) -> None:
        alike: dict[tuple[int, ...], list[nn.Parameter]] = defaultdict(list)
        for parameter in group["params"]:
            if parameter.grad is not None:
                alike[tuple(parameter.shape)].append(parameter)
        for parameters in alike.values():
            smooth = [whole(self._momentum(p, group["momentum"])).flatten(1) for p in parameters]
            updates = orthogonalize(torch.stack(smooth))  # (matrices, out, in)
            rate = group["lr"] * 0.2 * max(updates.shape[-2:]) ** 0.5
            for parameter, update in zip(parameters, updates, strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                update = update.to(parameter.dtype).reshape(parameter.shape)
                parameter.sub_(sharded_like(update, parameter), alpha=rate)

    def _momentum(self, parameter: nn.Parameter, factor: float) -> Tensor:
        """Nesterov's: the average of gradients, looked at one step ahead."""
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        if not state:
            # AdamW wants a step count wherever there is state
            state["step"] = torch.zeros((), device=parameter.device)
            state["momentum"] = torch.zeros_like(parameter)
        state["step"] += 1
        average = state["momentum"].lerp_(gradient, 1 - factor)
        return gradient.lerp(average, factor)


def orthogonalize(matrices: Tensor) -> Tensor:
    """(K, out, in) -> (K, out, in), singular values near 1, by Newton-Schulz iterations.

    In bfloat16 on a GPU, whose accuracy is enough here; in float32 on a CPU.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x.to(torch.bfloat16 if x.is_cuda else torch.float32)
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def whole(tensor: Tensor) -> Tensor:
    """All of a sharded tensor; others as they are."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def sharded_like(tensor: Tensor, like: Tensor) -> Tensor:
    """This rank's part of a whole tensor that all ranks hold."""
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)


def hidden_matrices(model: nn.Module) -> set[Tensor]:
    """The weights of linear and convolution layers, but those that are tables of words as well.

    Muon is meant for what maps features to features; a row of an embedding or of an output layer
    stands for one word and sees few gradients.
    """
    layers = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d)
    modules = list(model.named_modules())
    tables = {module.weight for _, module in modules if isinstance(module, nn.Embedding)}
    heads = {module.weight for name, module in modules if name.endswith("lm_head")}
    return {module.weight for _, module in modules if isinstance(module, layers)} - tables - heads

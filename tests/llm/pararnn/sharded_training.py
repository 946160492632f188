"""A small model of both layers, trained by as many processes as torchrun's variables say.

python -m tests.llm.pararnn.sharded_training FILE      writes losses and weights to FILE
"""

import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from manzano.llm.pararnn import ParaGRU, ParaLSTM
from manzano.training import distributed
from manzano.training.distributed import World

STEPS, ROWS, LENGTH, WIDTH = 3, 4, 20, 8


class Block(nn.Module):
    """A layer that carries the residual."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layer(x)[0]


class Model(nn.Module):
    _no_split_modules = ("Block",)

    def __init__(self):
        super().__init__()
        layers = (ParaGRU(WIDTH, WIDTH, num_heads=2), ParaLSTM(WIDTH, WIDTH, num_heads=4))
        self.blocks = nn.Sequential(*map(Block, layers))
        self.head = nn.Linear(WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(x))


def train(world: World) -> dict[str, Tensor]:
    """Losses and final weights, whole, after a few steps; each rank sees its share of the rows."""
    torch.manual_seed(0)
    model = Model()
    with torch.no_grad():  # some recurrent parameters beyond their bound
        for block in model.blocks:
            block.layer.recurrent.mul_(2)
    distributed.parallelize(model, world, bf16=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    share = slice(world.rank * ROWS // world.size, (world.rank + 1) * ROWS // world.size)
    losses = []
    for _ in range(STEPS):
        x = torch.randn(ROWS, LENGTH, WIDTH)
        target = x.cumsum(1).mean(-1, keepdim=True).sin()
        loss = (model(x[share]) - target[share]).square().mean()
        loss.backward()
        losses.append(loss.detach())
        optimizer.step()
        optimizer.zero_grad()
    results = {"losses": torch.stack(losses)}
    for name, parameter in model.named_parameters():
        whole = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
        results[name] = whole.detach()
    return results


if __name__ == "__main__":
    world = distributed.setup("cpu")
    torch.save(train(world), Path(sys.argv[1]))
    distributed.shut_down()

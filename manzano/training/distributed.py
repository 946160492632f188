"""One process or many: ranks from torchrun, FSDP2 sharding, and whole weights when they are needed.

Without torchrun there is no process group and the model stays a plain module. Note that torchrun
sets OMP_NUM_THREADS=1 unless told otherwise; `loop.threads` overrides it.
"""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor


@dataclass(frozen=True)
class World:
    """Who this process is among how many, and the device it computes on."""

    rank: int
    size: int
    device: torch.device

    def sum(self, numbers: Sequence[int]) -> list[int]:
        """Add up whole numbers over all ranks, on the host: the device is not waited for."""
        if self.size == 1:
            return list(numbers)
        total = torch.tensor(numbers, dtype=torch.int64)
        dist.all_reduce(total)
        return total.tolist()

    def barrier(self) -> None:
        """Wait until every rank is here."""
        self.sum([0])


def setup(device: str = "auto") -> World:
    """Join the process group of torchrun, if there is one, and choose the device.

    Collectives on CPU tensors go through gloo, those on CUDA tensors through nccl.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    size = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    if device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        chosen = torch.device("cuda", torch.cuda.current_device())
    else:
        chosen = torch.device(device)
    if size > 1 and not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
        # The ranks of a node wait for each other's turns at building the model.
        dist.init_process_group(backend, timeout=timedelta(hours=2))
    return World(rank=rank, size=size, device=chosen)


def shut_down() -> None:
    """Leave the process group, if there is one; without this a rank may abort at exit."""
    if dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def turn() -> Iterator[None]:
    """Wait until no other rank of this node is in here: for what takes much memory, but not long.

    No collective may be called inside: the other ranks are waiting. A rank that dies gives its turn
    back.
    """
    if int(os.environ.get("LOCAL_WORLD_SIZE", "1")) == 1:
        yield
        return
    import fcntl  # where there are several ranks there is POSIX

    name = f"manzano-{os.getuid()}-{os.environ['MASTER_PORT']}.lock"
    with (Path(tempfile.gettempdir()) / name).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # until the file is closed
        yield


def blocks(model: nn.Module, *, frozen: bool = False) -> list[nn.Module]:
    """The submodules to shard, compile and recompute as units: those of a class that
    `_no_split_modules` names.

    Transformers and Diffusers models name their blocks so. Blocks without a trainable parameter are
    left out unless `frozen`.
    """
    names = {name for m in model.modules() for name in getattr(m, "_no_split_modules", None) or ()}
    return [
        module
        for module in model.modules()
        if module is not model
        and type(module).__name__ in names
        and (frozen or any(p.requires_grad for p in module.parameters()))
    ]


def parallelize(model: nn.Module, world: World, *, bf16: bool) -> None:
    """Move the model to the device and, of several ranks, shard its trainable parameters, in place.

    Block by block, so that the device never holds all of them whole. Frozen parameters stay whole
    on every rank, so that a frozen part may run on one rank and not on another; but those in a
    block that trains in part, as under LoRA, are sharded with it, since it runs on all of them.
    Gradients are averaged over ranks: scale the loss by `world.size` where a sum is meant.
    """
    if world.size == 1:
        model.to(world.device)
        return
    assert dist.group.WORLD is not None
    mesh = DeviceMesh.from_group(dist.group.WORLD, world.device.type)  # no collective: see `turn`
    inside = {p for block in blocks(model) for p in block.parameters()}
    frozen = {p for p in model.parameters() if not p.requires_grad} - inside
    policy = MixedPrecisionPolicy(cast_forward_inputs=False)
    if bf16:
        policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    for module in [*reversed(blocks(model)), model]:  # inner modules first
        fully_shard(module, mesh=mesh, mp_policy=policy, ignored_params=frozen)
    for tensor in (*frozen, *model.buffers()):
        tensor.data = tensor.data.to(world.device)


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """Hold every parameter whole on every rank, so that one rank alone can run forward passes."""
    sharded = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for module in sharded:
        module.unshard()
    try:
        with _passing_as_plain(model):
            yield
    finally:
        for module in sharded:
            module.reshard()


@contextmanager
def whole_weights(model: nn.Module, world: World) -> Iterator[None]:
    """On rank 0, give a sharded model whole weights on the CPU, fit to be written to disk.

    The other ranks' parameters are empty meanwhile.
    """
    replaced: list[tuple[nn.Module, str, nn.Parameter]] = []
    whole: dict[nn.Parameter, nn.Parameter] = {}  # a tied weight stays tied
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if not isinstance(parameter, DTensor):
                continue
            if parameter not in whole:
                full = parameter.full_tensor().detach()  # collective
                mine = full.to("cpu", copy=True) if world.rank == 0 else full.new_empty(0)
                whole[parameter] = nn.Parameter(mine)
            replaced.append((module, name, parameter))
            module._parameters[name] = whole[parameter]
    try:
        with _passing_as_plain(model):
            yield
    finally:
        for module, name, parameter in replaced:
            module._parameters[name] = parameter


@contextmanager
def _passing_as_plain(model: nn.Module) -> Iterator[None]:
    """Hide meanwhile what `fully_shard` leaves on modules.

    A subclass of the module's class, whose name Transformers would write into config.json; an
    attribute, on which its `generate` would wait for the other ranks at every token; and hooks,
    which would note one rank's forward passes: in its next backward pass it would fetch blocks in
    another order than the others, and all would wait for ever.
    """
    sharded = [module for module in model.modules() if isinstance(module, FSDPModule)]
    classes = [type(module) for module in sharded]
    marked = [m for m in model.modules() if m.__dict__.get("_is_fsdp_managed_module")]
    tables = [t for m in sharded for t in (m._forward_pre_hooks, m._forward_hooks)]
    hooks = [dict(table) for table in tables]
    for table in tables:
        for key in [k for k, hook in table.items() if _is_sharding(hook)]:
            del table[key]
    for module, cls in zip(sharded, classes, strict=True):
        module.__class__ = cls.__bases__[1]  # (FSDPModule, the original)
    for module in marked:
        module.__dict__["_is_fsdp_managed_module"] = False
    try:
        yield
    finally:
        for module, cls in zip(sharded, classes, strict=True):
            module.__class__ = cls
        for table, whole in zip(tables, hooks, strict=True):  # in their order
            table.clear()
            table.update(whole)
        for module in marked:
            module.__dict__["_is_fsdp_managed_module"] = True


def _is_sharding(hook: object) -> bool:
    return type(getattr(hook, "__self__", None)).__module__.startswith("torch.distributed.fsdp")

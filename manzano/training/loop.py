"""The one training loop: every stage runs through it, on one process or many, from the start or
from a checkpoint.

Given again after a kill, the same call goes on exactly where the last whole checkpoint was:
weights, optimizer, schedule, random generators, data and log.
"""

import logging
import math
import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from manzano.training import config as configuration
from manzano.training import distributed, random_state
from manzano.training.checkpoint import Checkpoints, TrainState
from manzano.training.config import TrainConfig
from manzano.training.distributed import World
from manzano.training.ema import MovingAverage
from manzano.training.guard import check_first_step
from manzano.training.interrupt import Interrupted, StopRequest
from manzano.training.logging import RunLog
from manzano.training.metrics import Window
from manzano.training.optimizer import build_optimizer, set_learning_rate
from manzano.training.recompute import recompute
from manzano.training.rows import mask_gradients, trained_rows
from manzano.training.stage import Stage, Validated, to_device

logger = logging.getLogger(__name__)


def train(stage: Stage, config: TrainConfig, *, placed: Callable[[], None] = lambda: None) -> Path:
    """Train `stage` for `config.loop.max_steps` steps and export it; returns the folder of the
    export. `placed` is called once the model is sharded and on its device.

    Raises Interrupted after saving at SIGTERM or SIGINT; RuntimeError where a figure is not finite
    or the newest checkpoint is damaged; ValueError for a checkpoint of another run, or a first loss
    that cannot be right; OSError where the disk refuses.
    """
    loop, optim, output = config.loop, config.optim, Path(config.loop.output)
    if loop.validate_every and not isinstance(stage, Validated):
        raise ValueError("loop.validate_every is set, but this stage measures nothing: remove it.")
    world = distributed.setup(loop.device)
    if loop.threads:
        torch.set_num_threads(loop.threads)
    model = stage.model
    place(model, config, world)
    placed()
    world.barrier()  # over gloo, which waits longer than nccl for ranks whose turn is not yet over
    optimizer = build_optimizer(model, optim)
    ema = MovingAverage(model, optim.ema_decay) if optim.ema_decay else None
    loader = stage.batches(rank=world.rank, world_size=world.size)
    state, window = TrainState(model, optimizer, ema), Window(world)
    checkpoints = Checkpoints(
        output / "checkpoints",
        world,
        config=configuration.to_dict(config),
        keep=loop.keep_checkpoints,
        restart_data=loop.restart_data,
        complete=partial(configuration.with_defaults, config=config),
    )

    step = resume(checkpoints, state, loader, window, config, world)
    if world.rank == 0:
        configuration.save(config, output / "config.yaml")
        logger.info("%s; starting at step %d", what_trains(model), step)

    def save() -> None:
        window.means()  # raises where a figure is not finite: nothing bad is ever saved
        local = {"random": random_state.get(), "loader": loader.save_state_rank()}
        checkpoints.save(step, state, {**local, "window": window.state_dict()})

    training_mode(model)
    log = RunLog(
        output, step, loop.max_steps, enabled=world.rank == 0, tensorboard=loop.tensorboard
    )
    reading, stopper = closing(iter(loader)), StopRequest()  # closing ends the loader's workers
    with log, reading as batches, stopper as stop, naming_last_good(checkpoints):
        window.start()
        while step < loop.max_steps:
            lr = set_learning_rate(optimizer, optim, step, loop.max_steps)
            micro_batches = fetch(batches, loop.accumulate, window)
            counts, stopping = global_counts(stage, micro_batches, world, stop)
            shares, equals = train_step(stage, micro_batches, counts, optimizer, config, world)
            if ema:
                ema.update(step)
            step += 1
            window.add(step, shares, equals, counts)
            if step == 1 and loop.guard:
                check_first_step(window.means(), stage.ceilings())

            finished = step == loop.max_steps
            if finished or step % loop.log_every == 0:
                figures = {**window.means(), "lr": lr, **window.rates(loop.max_steps - step)}
                if loop.validate_every and (finished or step % loop.validate_every == 0):
                    figures |= validate(stage, config, world, ema)
                log.write(step, figures)
                window.reset()
            if loop.preview_every and step % loop.preview_every == 0:
                preview(stage, step, config, world, ema)
            if finished or stopping or step % loop.checkpoint_every == 0:
                save()
            if stopping and not finished:
                raise Interrupted(
                    stopping,
                    f"stopped at step {step} of {loop.max_steps}; saved in {checkpoints.last}. "
                    "Give the same command again to go on from there.",
                )
    return export(stage, config, world, ema)


def resume(
    checkpoints: Checkpoints,
    state: TrainState,
    loader: Any,
    window: Window,
    config: TrainConfig,
    world: World,
) -> int:
    """Puts everything back as the newest checkpoint has it, or seeds it; returns the step."""
    step, local = checkpoints.resume(state)
    if step > config.loop.max_steps:
        raise ValueError(
            f"{checkpoints.last} is already past loop.max_steps={config.loop.max_steps}."
        )
    random_state.seed(config.loop.seed + world.size * step + world.rank)
    if local is not None:
        loader.restore_state_rank(local["loader"])
        random_state.restore(local["random"])
        window.load_state_dict(local["window"])
    return step


def place(model: nn.Module, config: TrainConfig, world: World) -> None:
    """Recompute and compile the blocks as the configuration says, then shard, onto the device."""
    blocks = distributed.blocks(model, frozen=True)
    if config.loop.recompute:
        for block in blocks:
            recompute(block)
    if config.loop.compile:
        for block in blocks or [model]:
            block.compile()
    distributed.parallelize(model, world, bf16=config.loop.precision == "bf16")


def fetch(batches: Iterator[Any], number: int, window: Window) -> list[Any]:
    """The next micro-batches of one step; the time spent waiting for them is noted.

    Training does not notice what a loader draws: one that starts workers, as after a kill, draws
    more than one that goes on.
    """
    started = time.perf_counter()
    try:
        with random_state.preserved():
            return [next(batches) for _ in range(number)]
    except StopIteration:
        raise RuntimeError(
            "the data ran out: a training loader must repeat its data without end."
        ) from None
    finally:
        window.waited += time.perf_counter() - started


def global_counts(
    stage: Stage, micro_batches: list[Any], world: World, stop: StopRequest
) -> tuple[dict[str, int], int]:
    """Targets per loss term over all micro-batches and ranks, and the signal that asks to stop (0:
    none).

    The ranks agree on the signal here, so that all stop after the same step. One that comes later
    counts for the next step.
    """
    local: Counter[str] = Counter()
    for batch in micro_batches:
        local.update(stage.targets(batch))
    names = sorted(local)
    *numbers, asked = world.sum([*(local[name] for name in names), int(stop.signum > 0)])
    stopping = (stop.signum or signal.SIGTERM) if asked else 0
    return dict(zip(names, numbers, strict=True)), stopping


def train_step(
    stage: Stage,
    micro_batches: list[Any],
    counts: dict[str, int],
    optimizer: Optimizer,
    config: TrainConfig,
    world: World,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """One optimizer step over the global batch.

    Returns this rank's shares of the loss and metrics, and the gradient norm, which is equal on all
    ranks; nothing here waits for the device.
    """
    totals = {
        name: torch.full((), float(max(1, number)), device=world.device)
        for name, number in counts.items()
    }
    shares: dict[str, Tensor] = {}
    for batch in micro_batches:
        with mixed_precision(config, world):
            loss, metrics = stage.loss(to_device(batch, world.device), totals)
        (loss * world.size).backward()  # sharding averages gradients over ranks; a sum is meant
        for name, value in {"loss": loss, **metrics}.items():
            value = value.detach()
            shares[name] = shares[name] + value if name in shares else value
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for parameter in parameters:
        if parameter.grad is None:  # not used in this step: the same as on a rank that did use it
            parameter.grad = torch.zeros_like(parameter)
    mask_gradients(stage.model)
    norm = nn.utils.clip_grad_norm_(parameters, config.optim.clip or math.inf)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return shares, {"grad_norm": norm.full_tensor() if isinstance(norm, DTensor) else norm}


def preview(
    stage: Stage, step: int, config: TrainConfig, world: World, ema: MovingAverage | None
) -> None:
    """Let rank 0 write samples."""
    folder = Path(config.loop.output) / "previews" / f"step-{step:06d}"
    with interlude(stage.model, config, world, ema):
        if world.rank == 0:
            folder.mkdir(parents=True, exist_ok=True)
            stage.preview(folder, step)


def validate(
    stage: Stage, config: TrainConfig, world: World, ema: MovingAverage | None
) -> dict[str, float]:
    """What rank 0 measures on held-out data; nothing on the other ranks, which wait for it."""
    with interlude(stage.model, config, world, ema):
        if world.rank == 0 and isinstance(stage, Validated):
            return stage.validate()
    return {}


@contextmanager
def interlude(
    model: nn.Module, config: TrainConfig, world: World, ema: MovingAverage | None
) -> Iterator[None]:
    """The whole model in eval mode, with the averaged weights if there are any, for what rank 0
    does alone. Training is not disturbed."""
    with averaged(ema), distributed.gathered(model), random_state.seeded(config.loop.seed):
        model.eval()
        with torch.no_grad(), mixed_precision(config, world):
            yield
        world.barrier()
        training_mode(model)


def export(stage: Stage, config: TrainConfig, world: World, ema: MovingAverage | None) -> Path:
    """Let rank 0 write the finished artefact under another name, and rename it when it is whole."""
    output = Path(config.loop.output)
    final, partial = output / "export", output / "export.tmp"
    with averaged(ema), distributed.whole_weights(stage.model, world), torch.no_grad():
        stage.model.eval()
        if world.rank == 0:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            stage.export(partial)
            configuration.save(config, partial / "training.yaml")
            if final.exists():
                shutil.rmtree(final)
            os.replace(partial, final)
            logger.info("exported to %s", final)
        world.barrier()
    return final


def training_mode(model: nn.Module) -> None:
    """Train mode, but eval mode for every submodule all of whose parameters are frozen."""
    model.train()
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            module.eval()


def what_trains(model: nn.Module) -> str:
    """A line saying which parts train and which are frozen, with their numbers of parameters."""
    rows = trained_rows(model)
    training: Counter[str] = Counter()
    frozen: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        module, size = name.split(".")[:-1], parameter.numel()
        part = ".".join(word for word in module[:2] if not word.isdigit()) or name
        trains = size if parameter.requires_grad else 0
        if name in rows:
            trains = int(rows[name].sum()) * parameter.shape[1]
        training[part] += trains
        frozen[part] += size - trains
    total = training.total() + frozen.total()
    line = f"training {training.total() / 1e6:.3f}M of {total / 1e6:.3f}M parameters: "
    line += _sizes(training)
    return f"{line}; frozen: {_sizes(frozen)}" if frozen.total() else line


def _sizes(parts: Counter[str]) -> str:
    return ", ".join(f"{name} {size / 1e6:.3f}M" for name, size in parts.items() if size)


def mixed_precision(config: TrainConfig, world: World) -> torch.autocast:
    """Autocast to bfloat16 where the configuration says so."""
    return torch.autocast(
        world.device.type, torch.bfloat16, enabled=config.loop.precision == "bf16"
    )


def averaged(ema: MovingAverage | None) -> AbstractContextManager[None]:
    """The moving average in place of the weights, where there is one."""
    return ema.applied() if ema else nullcontext()


@contextmanager
def naming_last_good(checkpoints: Checkpoints) -> Iterator[None]:
    """Where a figure is not finite, say from where the run can go on."""
    try:
        yield
    except FloatingPointError as error:
        raise RuntimeError(
            f"{error}; the last good checkpoint is {checkpoints.last or 'none'}. Try a smaller "
            "optim.lr or optim.clip, or look at the data of that step."
        ) from error

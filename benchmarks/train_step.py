"""Speed of a training step, for each of the five stages at the size of their configurations.

    python benchmarks/train_step.py
    python benchmarks/train_step.py --config configs/demo --steps 100 --save

The stages, their loaders and the training step are the real ones; exports that are missing are
replaced by random weights of the same shape. The decoder stage keeps no latents (keep_encoded: 0),
for so few steps would measure the keeping. What is measured:

    samples/s, tokens/s   over the whole time, with waiting for data; what the stage counts as such
    step                  forward, backward and optimizer of one step: median and fastest
    waiting               share of the time in which training waits for data (aim: below 5 %)
    FLOP/s                matrix products and convolutions of one step, counted, by the median step
    of matmul             that, as a share of what one plain matrix product reaches in the same run
"""

import argparse
import contextlib
import platform
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from manzano.decoder.vae import build_vae
from manzano.tokenizer.hybrid import HybridTokenizer
from manzano.training import distributed, random_state
from manzano.training.command_line import parse
from manzano.training.distributed import World
from manzano.training.interrupt import StopRequest
from manzano.training.loop import fetch, global_counts, train_step, training_mode
from manzano.training.metrics import Window
from manzano.training.optimizer import build_optimizer
from manzano.training.stages import load_stage

ORDER = ("vae", "vision", "tokenizer", "llm", "decoder")
WARM_UP = 3
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What was measured of one stage."""

    stage: str
    parameters: int
    """Trained ones."""
    seconds: list[float]
    """Of each step, without waiting for data."""
    elapsed: float
    """Of all steps, with waiting."""
    waited: float
    counts: Counter[str]
    """What all steps processed."""
    flops: int
    """Of one step."""
    matmul: float
    """FLOP/s of a plain matrix product."""

    def row(self) -> list[str]:
        """The cells of the table, in the order of COLUMNS."""
        median = statistics.median(self.seconds)
        rates = {name: number / self.elapsed for name, number in self.counts.items()}
        return [
            self.stage,
            f"{self.parameters / 1e6:.2f}M",
            f"{rates['samples']:.0f}" if "samples" in rates else "-",
            f"{rates['tokens']:.0f}" if "tokens" in rates else "-",
            f"{1000 * median:.0f}",
            f"{1000 * min(self.seconds):.0f}",
            f"{100 * self.waited / self.elapsed:.1f} %",
            f"{self.flops / median / 1e9:.1f} G",
            f"{100 * self.flops / median / self.matmul:.0f} %",
        ]


COLUMNS = (
    "stage", "trained", "samples/s", "tokens/s", "step ms, median", "fastest", "waiting", "FLOP/s",
    "of matmul",
)  # fmt: skip


def read(folder: Path, stage: str) -> Any:
    """The configuration of a stage."""
    config_class, _ = load_stage(stage)
    return parse(config_class, ["--config", str(folder / f"{stage}.yaml")], prog="train_step.py")


def with_parts(config: Any, stage: str, folder: Path, scratch: Path) -> tuple[Any, list[str]]:
    """The configuration with random weights for exports that are missing, and their keys."""
    changes: dict[str, Any] = {}
    if stage == "tokenizer" and config.vit_weights and not Path(config.vit_weights).exists():
        changes["vit_weights"] = ""
    if stage in ("llm", "decoder") and not (Path(config.tokenizer) / "config.json").is_file():
        changes["tokenizer"] = str(scratch / "tokenizer")
        HybridTokenizer(read(folder, "tokenizer").tokenizer).save(changes["tokenizer"])
    if stage == "decoder" and not (Path(config.vae) / "config.json").is_file():
        changes["vae"] = str(scratch / "vae")
        build_vae(read(folder, "vae").vae).save_pretrained(changes["vae"])
    missing = list(changes)
    if stage == "decoder":
        changes["keep_encoded"] = 0
    return replace(config, **changes), missing


def measure(stage_name: str, config: Any, steps: int, matmul: float) -> Speed:
    """Trains a stage for `steps` steps after a few to warm up."""
    random_state.seed(config.loop.seed)
    stage = load_stage(stage_name)[1](config)
    world = distributed.setup(config.loop.device)
    training_mode(stage.model.to(world.device))
    optimizer = build_optimizer(stage.model, config.optim)
    window, stop = Window(world), StopRequest()
    seconds: list[float] = []
    counts: Counter[str] = Counter()
    with contextlib.closing(iter(stage.batches(rank=0, world_size=1))) as batches:
        for step in range(WARM_UP + steps):
            if step == WARM_UP:
                window.reset()
            micro_batches = fetch(batches, config.loop.accumulate, window)
            with timed(world) as took:
                count, _ = global_counts(stage, micro_batches, world, stop)
                train_step(stage, micro_batches, count, optimizer, config, world)
            if step >= WARM_UP:
                seconds += took
                counts.update(count)
        elapsed, waited = window.seconds, window.waited
        micro_batches = fetch(batches, config.loop.accumulate, window)
    count, _ = global_counts(stage, micro_batches, world, stop)
    with FlopCounterMode(display=False) as counter:
        train_step(stage, micro_batches, count, optimizer, config, world)
    trained = sum(p.numel() for p in stage.model.parameters() if p.requires_grad)
    return Speed(
        stage=stage_name, parameters=trained, seconds=seconds, elapsed=elapsed, waited=waited,
        counts=counts, flops=counter.get_total_flops(), matmul=matmul,
    )  # fmt: skip


@contextlib.contextmanager
def timed(world: World) -> Iterator[list[float]]:
    """Puts the seconds that the block takes into the list it gives, the device's work included."""
    took: list[float] = []
    started = time.perf_counter()
    yield took
    if world.device.type == "cuda":
        torch.cuda.synchronize()
    took.append(time.perf_counter() - started)


def matmul_rate(config: Any, size: int = 1536, repeats: int = 10) -> float:
    """FLOP/s of the fastest of a few plain matrix products, in the precision of the run."""
    world = distributed.setup(config.loop.device)
    dtype = torch.bfloat16 if config.loop.precision == "bf16" else torch.float32
    a, b = torch.randn(2, size, size, device=world.device, dtype=dtype)
    seconds = []
    for _ in range(repeats):
        with timed(world) as took:
            a @ b
        seconds += took
    return 2 * size**3 / min(seconds)


def hardware() -> str:
    """The processor's or accelerator's name."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def description(steps: int, matmul: float, missing: list[str]) -> str:
    """Under what conditions the table was measured."""
    random_parts = f" Random weights in place of: {', '.join(missing)}." if missing else ""
    return (
        f"{hardware()}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"Python {platform.python_version()}, {date.today()}. {steps} steps after {WARM_UP} to "
        f"warm up. A plain matrix product of 1536 x 1536 reaches {matmul / 1e9:.0f} GFLOP/s."
        f"{random_parts}"
    )


def save(speeds: list[Speed], text: str) -> Path:
    """Writes the table as Markdown under benchmarks/results."""
    name = "".join(c if c.isalnum() else "-" for c in hardware().lower()).strip("-")
    path = RESULTS / f"train_step-{name}-{date.today()}.md"
    path.parent.mkdir(exist_ok=True)
    rows = [COLUMNS, ["---"] * len(COLUMNS), *(speed.row() for speed in speeds)]
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    path.write_text(f"# Training step\n\n{text}\n\n{table}\n", encoding="utf-8")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed of a training step of every stage.")
    parser.add_argument("--config", type=Path, default=Path("configs/demo"), metavar="DIR")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--save", action="store_true", help="also write benchmarks/results/*.md")
    arguments = parser.parse_args()
    first = read(arguments.config, ORDER[0])
    if not Path(first.data.mixture.path).is_dir():
        parser.error(f"no data in {first.data.mixture.path}: run `manzano data build demo` first")
    if first.loop.threads:
        torch.set_num_threads(first.loop.threads)
    speeds, missing, matmul = [], [], matmul_rate(first)
    console = Console(width=140)
    with tempfile.TemporaryDirectory() as scratch:
        for name in ORDER:
            config = read(arguments.config, name)
            config, replaced = with_parts(config, name, arguments.config, Path(scratch))
            missing += [f"{name}.{key}" for key in replaced]
            with console.status(name):
                speeds.append(measure(name, config, arguments.steps, matmul))
    text = description(arguments.steps, matmul, missing)
    table = Table(*COLUMNS, caption=text)
    for speed in speeds:
        table.add_row(*speed.row())
    console.print(table)
    if arguments.save:
        console.print(save(speeds, text))


if __name__ == "__main__":
    main()

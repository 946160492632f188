"""A training step of a ParaRNN language model beside a Transformer's of the same size.

    python benchmarks/pararnn_lm.py --save
    python benchmarks/pararnn_lm.py --size 1b --batch 8 --device cuda
    python benchmarks/pararnn_lm.py --length 512 --length 8192

The Transformer is transformers' Qwen3 at the same width, depth and vocabulary, with scaled
dot-product attention: what one would train otherwise. A step is forward, backward and AdamW (fused)
of random tokens; weights and optimizer are fp32, and products are computed in --dtype (autocast),
as the trainer does it. Models take turns, one in memory at a time; median and minimum are over all
their steps.

The paper (arXiv 2510.21450, Table 3; H100, 2,048 tokens a row) has 81.0 ms for the Transformer of
400m, 95.7 for ParaGRU and 116 for ParaLSTM: 1.18 and 1.43 times the Transformer's.
"""

import argparse
import gc
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import date

import torch
from pararnn import RESULTS, hardware, peak_memory, timed
from rich.console import Console
from torch import nn
from transformers import PreTrainedConfig, Qwen3Config, Qwen3ForCausalLM

from manzano.llm.pararnn.configuration import ParaRNNConfig
from manzano.llm.pararnn.modeling import ParaRNNForCausalLM
from manzano.llm.pararnn.presets import SIZES, preset

TRANSFORMER_HEADS = {"400m": 8, "1b": 16, "2.9b": 32, "7b": 32}
"""The paper's (Table 3)."""


@dataclass
class Row:
    """One model at one length, and what was measured of it."""

    name: str
    config: PreTrainedConfig
    length: int
    parameters: int = 0
    seconds: list[float] = field(default_factory=list)
    peak_bytes: int | None = None


def transformer(like: ParaRNNConfig, heads: int) -> Qwen3Config:
    assert like.intermediate_size is not None  # the configuration has filled it in
    return Qwen3Config(
        vocab_size=like.vocab_size,
        hidden_size=like.hidden_size,
        intermediate_size=like.intermediate_size,
        num_hidden_layers=like.num_hidden_layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=like.hidden_size // heads,
        max_position_embeddings=like.max_position_embeddings,
        tie_word_embeddings=False,
    )


def training_step(
    config: PreTrainedConfig, batch: int, length: int, device: torch.device, dtype: torch.dtype
) -> tuple[nn.Module, Callable[[], None]]:
    """A fresh model, and its training step."""
    with device:
        kind = Qwen3ForCausalLM if isinstance(config, Qwen3Config) else ParaRNNForCausalLM
        model = kind(config)  # pyright: ignore (its own configuration)
        tokens = torch.randint(config.vocab_size, (batch, length))  # pyright: ignore
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    half = dtype != torch.float32

    def step() -> None:
        with torch.autocast(device.type, dtype) if half else nullcontext():
            loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return model, step


def measure(row: Row, batch: int, device: torch.device, dtype: torch.dtype, steps: int) -> None:
    """Add the seconds of `steps` steps of a fresh model to the row; the first are not counted."""
    torch.manual_seed(0)
    model, step = training_step(row.config, batch, row.length, device, dtype)
    row.parameters = sum(parameter.numel() for parameter in model.parameters())
    step()  # makes the optimizer's state
    row.peak_bytes = peak_memory(device, step)
    row.seconds += [timed(device, step) for _ in range(steps)]
    del model, step
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def table(rows: list[Row], batch: int) -> str:
    """One line a model and length; peak is what a step has on top of weights and optimizer."""
    lines = [
        "| length | model | parameters | step, ms (median / min) | × Transformer | tokens/s "
        "| peak, MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        median = statistics.median(row.seconds)
        reference = next(other for other in rows if other.length == row.length)
        ratio = median / statistics.median(reference.seconds)
        peak = "" if row.peak_bytes is None else f"{row.peak_bytes / 2**20:.0f}"
        lines.append(
            f"| {row.length} | {row.name} | {row.parameters / 1e6:.1f}M "
            f"| {median * 1e3:.0f} / {min(row.seconds) * 1e3:.0f} | {ratio:.2f} "
            f"| {batch * row.length / median:.0f} | {peak} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=[*SIZES], default="400m")
    parser.add_argument("--batch", type=int, default=1, help="rows")
    parser.add_argument("--length", type=int, action="append", help="tokens a row; default 2048")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, default=2, help="timed steps of one turn")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--save", action="store_true", help="also write benchmarks/results/*.md")
    options = parser.parse_args()
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    gru, lstm = preset(options.size, "gru"), preset(options.size, "lstm")
    models = {
        "Transformer": transformer(gru, TRANSFORMER_HEADS[options.size]),
        "ParaGRU": gru,
        "ParaLSTM": lstm,
    }
    rows = [
        Row(name, config, length)
        for length in options.length or [2048]
        for name, config in models.items()
    ]
    console, start = Console(), time.perf_counter()
    for turn in range(options.turns):
        for row in rows:
            console.print(
                f"{time.perf_counter() - start:5.0f} s  turn {turn + 1} of {options.turns}: "
                f"{row.name}, {row.length} tokens"
            )
            measure(row, options.batch, device, dtype, options.steps)
    text = (
        f"# A training step of the {options.size} language models\n\n{hardware(device)}, "
        f"{options.dtype} products, {options.batch} x length tokens, {date.today()}. Command: "
        f"`{' '.join(['python', *sys.argv])}`, {options.turns} turns of {options.steps} steps.\n\n"
        f"{table(rows, options.batch)}\n"
    )
    print(text)
    if options.save:
        RESULTS.mkdir(parents=True, exist_ok=True)
        name = f"pararnn_lm_{options.size}_{device.type}_{options.dtype}.md"
        (RESULTS / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

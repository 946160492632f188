"""Speed of drawing, and where its time goes: shapes of configurations, weights random.

    python benchmarks/drawing.py
    python benchmarks/drawing.py --llm configs/llm/3b.yaml --decoder configs/decoder/0.9b_256.yaml \
        --tokenizer configs/tokenizer/vit_l_672.yaml --vae flux --text-rows 151669 \
        --sizes 256 512 1024 2048 --steps 25 --device cuda --dtype bfloat16 --save

One table row for a size: seconds of each part (median of --repeats drawings after one to warm up),
their sum for one picture of the batch, and the floor beneath it: reading the language model's
weights once an id at the speed of a copy, and the decoder's and the VAE's products at the speed of
a plain matrix product, both measured in the same run. Guidance is on, as in use: the language model
and the decoder compute two rows for each picture.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode
from train_step import RESULTS, hardware

from manzano.configuration import ManzanoConfig
from manzano.data_mix.text_tokenizer import train_text_tokenizer
from manzano.decoder.sampling import guided_flow
from manzano.decoder.vae import VAEConfig, build_vae, decode
from manzano.drawing import DrawingSettings
from manzano.llm.vocabulary import joint_vocabulary
from manzano.model import ManzanoForConditionalGeneration
from manzano.pipeline import ManzanoPipeline
from manzano.training.command_line import parse
from manzano.training.stages import load_stage
from manzano.training.stages.decoder import build_decoder
from manzano.training.stages.llm import make_processor

PROMPT = "A red heart on a white background."
FLUX_VAE = VAEConfig(
    block_out_channels=(128, 256, 512, 512), latent_channels=16, layers_per_block=2,
    norm_num_groups=32, mid_block_add_attention=True,
)  # fmt: skip
"""The shape of FLUX.1's: 8 times smaller, 16 channels."""


def read(stage: str, path: str):
    """The configuration of a stage."""
    config = parse(load_stage(stage)[0], ["--config", path], prog="drawing.py")
    if getattr(config, "start", ""):
        raise SystemExit(f"{path} goes on from {config.start}: give the configuration of that")
    return config


def build(arguments: argparse.Namespace) -> ManzanoPipeline:
    """The pipeline of these configurations, with random weights."""
    tokenizer = read("tokenizer", arguments.tokenizer)
    llm = read("llm", arguments.llm).llm
    text = train_text_tokenizer([PROMPT], vocab_size=264)
    vocabulary = joint_vocabulary(text, tokenizer.tokenizer.codebook_size)
    rows = max(arguments.text_rows, vocabulary.text_size)
    width = (tokenizer.llm if "pretrained" in llm else llm)["hidden_size"]
    config = ManzanoConfig(
        vision_config=replace(tokenizer.tokenizer, width=width).to_dict(),
        text_config=dict(tokenizer.llm if "pretrained" in llm else llm),
        vocabulary=replace(vocabulary, text_size=rows).to_dict(),
    )
    vae = FLUX_VAE if arguments.vae == "flux" else read("vae", arguments.vae).vae
    default = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, arguments.dtype))
    try:
        with torch.device(arguments.device):
            model = ManzanoForConditionalGeneration(config)
            painter = build_decoder(
                read("decoder", arguments.decoder).model, in_channels=vae.latent_channels,
                condition_width=tokenizer.tokenizer.discrete_width,
            )  # fmt: skip
            autoencoder = build_vae(vae)
    finally:
        torch.set_default_dtype(default)
    processor = make_processor(model.vision, text, max_length=4096)
    scheduler = FlowMatchEulerDiscreteScheduler()
    return ManzanoPipeline(model, processor, painter, autoencoder, scheduler)


def fastest(work: Callable[[], object], device: torch.device, repeats: int = 5) -> float:
    """Seconds of the fastest of a few calls."""
    seconds = []
    for _ in range(repeats):
        synchronize(device)
        started = time.perf_counter()
        work()
        synchronize(device)
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def rates(device: torch.device, dtype: torch.dtype) -> tuple[float, float]:
    """FLOP/s of a plain matrix product, and bytes a second that a copy reads and writes."""
    side = 8192 if device.type == "cuda" else 1536
    a, b = torch.randn(2, side, side, device=device).to(dtype)
    source = torch.empty(2**28 if device.type == "cuda" else 2**25, device=device)
    target = torch.empty_like(source)
    product = 2 * side**3 / fastest(lambda: a @ b, device)
    copied = 2 * source.numel() * source.element_size()
    return product, copied / fastest(lambda: target.copy_(source), device)


@torch.no_grad()
def floor(
    pipeline: ManzanoPipeline, side: int, batch: int, steps: int, product: float, copy: float
) -> float:
    """Seconds that a batch of drawings takes at least."""
    model = pipeline.model.language_model
    table, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    read = (p for p in model.parameters() if p is head or p is not table)  # one row of the table
    llm = sum(p.numel() * p.element_size() for p in read)
    painter, device = pipeline.painter, pipeline.device
    size = side // painter.factor
    channels = pipeline.transformer.in_channels
    latents = torch.zeros(batch, channels, size, size, device=device)
    ids = torch.zeros(batch, pipeline.model.vision.num_tokens, dtype=torch.long, device=device)
    with FlopCounterMode(display=False) as counted:
        guided_flow(
            pipeline.transformer, latents, torch.zeros(batch, device=device),
            pipeline.model.vision.embed_ids(ids), condition_grid=pipeline.model.vision.grid,
            reference_latents=None, guidance_scale=3.0, reference_guidance_scale=1.0,
        )  # fmt: skip
    painted = counted.get_total_flops()
    with FlopCounterMode(display=False) as counted:
        decode(pipeline.vae, latents)
    products = steps * painted + counted.get_total_flops()
    return llm * ids.shape[1] / copy + products / product


def measure(
    pipeline: ManzanoPipeline, side: int, batch: int, settings: DrawingSettings, repeats: int
) -> dict[str, float]:
    """Median seconds of each part of drawing a batch of squares."""
    runs = []
    for seed in range(1 + repeats):
        pipeline.draw_batch([PROMPT] * batch, height=side, width=side, seed=seed, settings=settings)
        runs.append(pipeline.watch.seconds)
    return {part: statistics.median(run[part] for run in runs[1:]) for part in runs[0]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--llm", default="configs/demo/llm.yaml")
    parser.add_argument("--tokenizer", default="configs/demo/tokenizer.yaml")
    parser.add_argument("--decoder", default="configs/demo/decoder.yaml")
    parser.add_argument("--vae", default="configs/demo/vae.yaml", help="a config, or flux")
    parser.add_argument("--text-rows", type=int, default=0, help="rows of the text vocabulary")
    parser.add_argument("--sizes", type=int, nargs="+", default=[72, 144, 288])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--save", action="store_true", help="write the table to results/")
    arguments = parser.parse_args()
    device, dtype = torch.device(arguments.device), getattr(torch, arguments.dtype)
    pipeline, (product, copy) = build(arguments), rates(device, dtype)
    settings = DrawingSettings(num_steps=arguments.steps, max_words=0)
    header: list[str] = []
    lines: list[list[str]] = []
    for side in arguments.sizes:
        parts = measure(pipeline, side, arguments.batch, settings, arguments.repeats)
        least = floor(pipeline, side, arguments.batch, arguments.steps, product, copy)
        header = ["size", *parts, "s a picture", "floor"]
        each = [sum(parts.values()) / arguments.batch, least / arguments.batch]
        lines.append([str(side), *(f"{s:.3f}" for s in (*parts.values(), *each))])
    sizes = (pipeline.model.language_model, pipeline.transformer, pipeline.vae)
    count = [sum(p.numel() for p in part.parameters()) / 1e6 for part in sizes]
    text = (
        f"{hardware()}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"Python {platform.python_version()}, {date.today()}. {arguments.dtype}, batch "
        f"{arguments.batch}, {arguments.steps} steps, median of {arguments.repeats}. "
        f"Language model {count[0]:.1f}M ({Path(arguments.llm).stem}), decoder {count[1]:.1f}M, "
        f"VAE {count[2]:.1f}M parameters, random. A plain matrix product reaches "
        f"{product / 1e9:.0f} GFLOP/s, a copy {copy / 1e9:.1f} GB/s."
    )
    show(header, lines, text)
    if arguments.save:
        print(save(header, lines, text))


def show(header: list[str], lines: list[list[str]], text: str) -> None:
    table = Table(*header)
    for line in lines:
        table.add_row(*line)
    Console(width=120).print(table, text)


def save(header: list[str], lines: list[list[str]], text: str) -> Path:
    """Writes the table as Markdown under benchmarks/results."""
    name = "".join(c if c.isalnum() else "-" for c in hardware().lower()).strip("-")
    path = RESULTS / f"drawing-{name}-{date.today()}.md"
    rows = [header, ["---"] * len(header), *lines]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    path.write_text(f"# Drawing\n\n{text}\n\n{table}\n", encoding="utf-8")
    return path


if __name__ == "__main__":
    main()

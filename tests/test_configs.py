"""Every YAML under configs/ parses, its model can be built, and its header tells the truth."""

import re
from dataclasses import fields
from functools import cache
from itertools import takewhile
from math import prod
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn
from transformers import AutoModelForCausalLM

from manzano.decoder.vae import build_vae
from manzano.llm.backbone import language_config
from manzano.llm.pararnn.presets import SIZES
from manzano.tokenizer.hybrid import HybridTokenizer
from manzano.training.command_line import parse
from manzano.training.stages import STAGES, load_stage
from manzano.training.stages.decoder import build_decoder
from manzano.training.stages.vision import ContrastiveModel

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
TOKEN_TABLE = (
    1000  # rows: the real number depends on the text tokenizer, and sizes are counted without
)

every_config = pytest.mark.parametrize(
    "path", CONFIGS, ids=lambda p: str(p.relative_to(ROOT / "configs"))
)


def stage_of(path: Path) -> str:
    """configs/demo/llm.yaml and configs/llm/1b.yaml are both of the llm stage."""
    return path.stem if path.stem in STAGES else path.parent.name


@cache
def read(path: Path):
    config_class, _ = load_stage(stage_of(path))
    return parse(config_class, ["--config", str(path)])


def header_of(path: Path) -> str:
    """The comment that a file opens with."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return "\n".join(takewhile(lambda line: line.startswith("#"), lines))


@cache
def exports() -> dict[str, Path]:
    """The configuration that makes each export folder."""
    return {f"{read(path).loop.output}/export": path for path in CONFIGS}


def models(path: Path) -> dict[str, nn.Module]:
    """The parts that a configuration, or the one it started from, describes, on the meta device."""
    config, stage = read(path), stage_of(path)
    while getattr(config, "start", ""):
        config = read(exports()[config.start])
    with torch.device("meta"):
        if stage == "vae":
            return {"vae": build_vae(config.vae)}
        if stage == "vision":
            model = ContrastiveModel(config, TOKEN_TABLE)
            return {"vit": model.vit, "text": model.text}
        if stage == "decoder":
            return {"decoder": build_decoder(config.model, in_channels=16, condition_width=1024)}
        parts = {"vision": HybridTokenizer(config.tokenizer)} if stage == "tokenizer" else {}
        if config.llm and "pretrained" not in config.llm:
            settings = language_config({**config.llm, "vocab_size": TOKEN_TABLE})
            parts["language_model"] = AutoModelForCausalLM.from_config(settings)
        return parts


def size_of(model: nn.Module) -> int:
    """Parameters, without tables and heads that grow with the text tokenizer."""
    return sum(p.numel() for p in model.parameters() if TOKEN_TABLE not in p.shape)


@every_config
def test_a_config_parses_with_its_stage(path):
    assert stage_of(path) in STAGES
    assert read(path).loop.max_steps >= 1


@every_config
def test_a_config_opens_with_its_command_hardware_time_and_result(path):
    entries = dict(re.findall(r"^#   (\w+) +(\S.*)$", header_of(path), flags=re.MULTILINE))
    assert f"train.py {stage_of(path)} --config {path.relative_to(ROOT)}" in entries["command"]
    assert entries.keys() >= {"hardware", "time", "result"}


@every_config
def test_the_model_of_a_config_has_the_size_that_its_header_says(path):
    """Small models need not say; a `size` line, where there is one, names every part."""
    parts = models(path)
    actual = {name: stated_size(size_of(model)) for name, model in parts.items()}
    lines = re.findall(r"^#   size +(.*)$", header_of(path), flags=re.MULTILINE)
    stated = dict(re.findall(r"(\w+) ([\d.]+[MB])\b", lines[0])) if lines else {}
    assert not lines or stated == actual
    assert lines or all(size.endswith("M") and float(size[:-1]) < 10 for size in actual.values())


def stated_size(number: int) -> str:
    """1_234_567 -> "1.2M"; from a billion on, "1.23B"."""
    return f"{number / 1e9:.2f}B" if number >= 1e9 else f"{number / 1e6:.1f}M"


@pytest.mark.parametrize("path", [p for p in CONFIGS if stage_of(p) == "tokenizer"], ids=str)
def test_both_adapters_have_the_width_of_the_language_model(path):
    config = read(path)
    if config.start:
        return
    widths = {config.tokenizer.width, config.tokenizer.discrete_width}
    assert "pretrained" in config.llm or widths == {config.llm["hidden_size"]}


@every_config
def test_a_config_starts_from_the_export_of_another(path):
    config = read(path)
    made = {folder: stage_of(maker) for folder, maker in exports().items()}
    wanted = {"start": stage_of(path), "vit_weights": "vision", "tokenizer": "tokenizer"}
    present = {f.name: getattr(config, f.name) for f in fields(config)}
    folders = {k: v for k, v in present.items() if k in wanted and isinstance(v, str) and v}
    assert {k: made.get(v) for k, v in folders.items()} == {k: wanted[k] for k in folders}


@pytest.mark.parametrize(
    ("size", "steps"),
    [
        *((size, [400_000, 100_000, 100_000, 100_000]) for size in ("0.9b", "1.75b", "3.52b")),
        *((size, [100_000, 25_000]) for size in ("s", "b")),
    ],
)
def test_a_ladder_climbs_from_256_px_in_the_steps_of_the_paper(size, steps):
    """Manzano, Sec. 4.2.3; the small sizes are ours, and end at 512 px."""
    start = ""
    for rung, expected in enumerate(steps):
        config = read(ROOT / f"configs/decoder/{size}_{256 * 2**rung}.yaml")
        assert (config.start, config.image_size) == (start, 256 * 2**rung)
        assert config.loop.max_steps == expected
        start = f"{config.loop.output}/export"


def ranks_of(path: Path) -> int:
    """Processes that the header's command starts."""
    return prod(map(int, re.findall(r"--(?:nnodes|nproc-per-node) (\d+)", header_of(path))))


def samples_a_step(path: Path) -> int:
    """Rows or pictures of all ranks in one step."""
    config = read(path)
    return config.data.batch_size * config.loop.accumulate * ranks_of(path)


@every_config
def test_the_batch_and_the_gpus_of_a_header_are_those_of_its_command(path):
    stated = re.findall(r"; (\d+) (?:rows of (\d+) tokens|pictures) a step", header_of(path))
    for number, length in stated:
        assert samples_a_step(path) == int(number)
        assert not length or read(path).row_length == int(length)
    gpus = re.findall(r"^#   hardware +(\d+) GPU", header_of(path), flags=re.MULTILINE)
    assert [int(number) for number in gpus] in ([], [ranks_of(path)])
    assert stated or path.parent.name in ("toy", "vae", "vision") or "demo" in path.parent.name


@pytest.mark.parametrize(
    ("name", "tokens"),
    [
        *((name, 1.6e12) for name in ("300m", "1b", "3b", "pararnn_1b", "pararnn_7b")),
        ("30b", 0.8e12),
        ("cpt", 83e9),
    ],
)
def test_the_tokens_of_a_run_are_those_of_the_paper(name, tokens):
    """Manzano, Sec. 4.1; it has no ParaRNN, which gets what its other sizes get."""
    path = ROOT / f"configs/llm/{name}.yaml"
    config = read(path)
    seen = config.loop.max_steps * samples_a_step(path) * config.row_length
    assert seen == pytest.approx(tokens, rel=1e-4)


@pytest.mark.parametrize("path", [p for p in CONFIGS if p.parent.name == "decoder"], ids=str)
def test_a_rung_keeps_shapes_and_leaves_out_what_is_smaller(path):
    config = read(path)
    assert config.buckets
    assert config.min_short_side == config.image_size


@pytest.mark.parametrize(
    ("name", "shares"), [("1b", (40, 40, 20)), ("cpt", (40, 40, 20)), ("sft", (41, 45, 14))]
)
def test_the_mixtures_have_the_shares_of_the_paper(name, shares):
    """Understanding, generation (with editing) and text, in percent (Manzano, Sec. 4.1)."""
    mixture = yaml.safe_load((ROOT / f"configs/llm/{name}.yaml").read_text())["data"]["mixture"]
    tasks = {"text_to_image": 1, "editing": 1, "text": 2}
    sums = [0.0, 0.0, 0.0]
    for source, weight in mixture["sources"].items():
        sums[tasks.get(source, 0)] += 100 * weight
    assert tuple(round(share, 6) for share in sums) == shares


@pytest.mark.parametrize(
    ("tokenizer", "llm"), [("", "1b"), ("_cpt", "cpt"), ("_sft", "sft")], ids=lambda name: name
)
def test_the_tokenizer_reads_what_the_language_model_reads(tokenizer, llm):
    """The same sources in the same shares, without those to draw (Manzano, Sec. 4.2.1)."""
    read_by_llm = dict(read(ROOT / f"configs/llm/{llm}.yaml").data.mixture.sources)
    for drawing in ("text_to_image", "editing"):
        read_by_llm.pop(drawing, None)
    mixture = read(ROOT / f"configs/tokenizer/vit_l_672{tokenizer}.yaml").data.mixture
    assert mixture.sources == read_by_llm


def test_the_table_of_sizes_counts_every_model_that_is_built():
    text = (ROOT / "docs/paper.md").read_text(encoding="utf-8")
    row = r"^\| `(configs/[\w./]+)`(?:, (\w+))? \|[^|]*\| ([\d.]+[MB]) \|"
    stated = {(p, part): n for p, part, n in re.findall(row, text, flags=re.MULTILINE)}
    actual = {}
    for path in CONFIGS:
        if path.parent.name in ("tokenizer", "llm", "decoder") and not read(path).start:
            parts = models(path)
            for part, model in parts.items():
                key = (str(path.relative_to(ROOT)), part if len(parts) > 1 else "")
                actual[key] = stated_size(size_of(model))
    assert stated == actual


@pytest.mark.parametrize("size", ["1b", "7b"])
def test_a_pararnn_backbone_has_the_geometry_of_its_paper(size):
    llm = language_config(read(ROOT / f"configs/llm/pararnn_{size}.yaml").llm)
    assert (llm.hidden_size, llm.num_hidden_layers, llm.num_heads) == SIZES[size]

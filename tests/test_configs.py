"""Every YAML under configs/ parses, its model can be built, and its header tells the truth."""

import re
from dataclasses import fields
from functools import cache
from itertools import takewhile
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn
from transformers import AutoModelForCausalLM

from manzano.decoder.vae import build_vae
from manzano.llm.backbone import language_config
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


def models(config, stage: str) -> dict[str, nn.Module]:
    """The parts that a configuration itself describes, on the meta device."""
    with torch.device("meta"):
        if stage == "vae":
            return {"vae": build_vae(config.vae)}
        if stage == "vision":
            model = ContrastiveModel(config, TOKEN_TABLE)
            return {"vit": model.vit, "text": model.text}
        if stage == "decoder":
            if config.start:
                return {}
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
    parts = models(read(path), stage_of(path))
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
    widths = {config.tokenizer.width, config.tokenizer.discrete_width}
    assert "pretrained" in config.llm or widths == {config.llm["hidden_size"]}


def exports() -> dict[str, str]:
    """The export folder of every configuration, and its stage."""
    return {f"{read(path).loop.output}/export": stage_of(path) for path in CONFIGS}


@every_config
def test_a_config_starts_from_the_export_of_another(path):
    config, made = read(path), exports()
    wanted = {"start": stage_of(path), "vit_weights": "vision", "tokenizer": "tokenizer"}
    present = {f.name: getattr(config, f.name) for f in fields(config)}
    folders = {k: v for k, v in present.items() if k in wanted and isinstance(v, str) and v}
    assert {k: made.get(v) for k, v in folders.items()} == {k: wanted[k] for k in folders}


def test_the_ladder_climbs_from_256_to_2048():
    for size in ("l", "xl", "xxl"):
        side, path = 2048, ROOT / f"configs/decoder/{size}_2048.yaml"
        while start := read(path).start:
            assert read(path).image_size == side
            side, path = side // 2, path.with_stem(f"{size}_{side // 2}")
            assert start == f"{read(path).loop.output}/export"
        assert read(path).image_size == side == 256


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

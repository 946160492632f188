"""Bytes of activations that training keeps for the backward pass, counted on the meta device.

    python benchmarks/activations.py

Needs neither a GPU nor memory: tensors have shapes only. Counted is every tensor that autograd
saves in one forward pass in bf16, once each, without the weights. Attention is taken to keep its
inputs and output only, as the fused kernels do, and nothing is compiled: compiled blocks keep
fewer. Recurrent layers run for real on 256 tokens and are multiplied. docs/training.md has the
result.
"""

from collections.abc import Callable
from pathlib import Path

import torch
import yaml
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from transformers import AutoModelForCausalLM

from manzano.decoder.dit_air import PRESETS, DiTAir
from manzano.llm.backbone import language_config
from manzano.tokenizer.hybrid import HybridTokenizer, HybridTokenizerConfig

CONFIGS = Path(__file__).parents[1] / "configs"
ROW = 4096


class KeptByFusedAttention(torch.autograd.Function):
    """In place of attention: saves what a fused kernel saves, and computes nothing."""

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = torch.empty_like(q)
        ctx.save_for_backward(q, k, v, out)
        return out

    @staticmethod
    def backward(ctx, *grads: Tensor):
        raise NotImplementedError("bytes are counted in the forward pass")


class FusedAttention(TorchFunctionMode):
    """On the meta device torch would take its quadratic attention, which keeps far more."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.scaled_dot_product_attention:
            return KeptByFusedAttention.apply(*args[:3])
        return func(*args, **(kwargs or {}))


def kept(model: nn.Module, forward: Callable[[], object]) -> float:
    """GB that autograd saves in `forward()`, the weights of `model` aside."""
    weights = {p.untyped_storage()._cdata for p in model.parameters()}
    storages = {}  # held, so that no address is used twice

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            storages[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        forward()
    return sum(storage.nbytes() for storage in storages.values()) / 1e9


def decoder(name: str, side: int, *, reference: bool) -> float:
    """GB for one picture of `side` pixels, f8 VAE of 16 channels, 14 x 14 condition tokens."""
    with torch.device("meta"), FusedAttention():
        model = DiTAir(**PRESETS[name], in_channels=16, condition_width=1024).bfloat16()
        latents = torch.empty(1, 16, side // 8, side // 8)
        edit = {"reference_latents": latents, "reference_mask": torch.ones(1).bool()}
        return kept(
            model,
            lambda: model(
                latents, torch.empty(1), torch.empty(1, 196, 1024).bfloat16(),
                condition_grid=(14, 14), **(edit if reference else {}),
            ),
        )  # fmt: skip


def language_model(settings: dict) -> float:
    """GB for one row of ROW tokens, without logits."""
    if settings["model_type"] == "pararnn":
        one, two = (recurrent(settings | {"num_hidden_layers": layers}) for layers in (1, 2))
        return (two - one) * settings["num_hidden_layers"] * ROW / 256
    with torch.device("meta"), FusedAttention():
        model = AutoModelForCausalLM.from_config(language_config(settings)).bfloat16()
        embeds = torch.empty(1, ROW, settings["hidden_size"]).bfloat16()
        mask = {"full_attention": None}
        return kept(model, lambda: model.model(inputs_embeds=embeds, attention_mask=mask))


def recurrent(settings: dict) -> float:
    """GB for 256 tokens, on the CPU: the recurrence's kernels need real tensors."""
    config = language_config(settings | {"vocab_size": 8})
    model = AutoModelForCausalLM.from_config(config).bfloat16()
    embeds = torch.randn(1, 256, settings["hidden_size"]).bfloat16()
    return kept(model, lambda: model.model(inputs_embeds=embeds, use_cache=False))


def picture() -> float:
    """GB for one picture that a trained ViT-L reads through the continuous adapter."""
    with torch.device("meta"), FusedAttention():
        model = HybridTokenizer(HybridTokenizerConfig(width=1024, discrete_width=1024)).bfloat16()
        pixels = torch.empty(1, 3, 672, 672).bfloat16()
        return kept(model, lambda: model.continuous(pixels))


def main() -> None:
    table = Table("what", "GB")
    for name in ("S", "B", "0.9B", "1.75B", "3.52B"):
        for side in (256, 512, 1024, 2048):
            alone, edit = (decoder(name, side, reference=given) for given in (False, True))
            table.add_row(f"decoder {name}, a picture of {side} px", f"{alone:.2f}")
            table.add_row(f"decoder {name}, the same with its reference", f"{edit:.2f}")
    for path in sorted((CONFIGS / "llm").glob("*.yaml")):
        if settings := yaml.safe_load(path.read_text(encoding="utf-8")).get("llm"):
            table.add_row(f"{path.stem}, a row of {ROW} tokens", f"{language_model(settings):.2f}")
    table.add_row("ViT-L in training, a picture of 672 px", f"{picture():.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()

"""A Manzano small enough for tests: every part real, every width tiny."""

from diffusers import FlowMatchEulerDiscreteScheduler
from PIL import Image, ImageDraw
from torch import nn
from transformers import PreTrainedTokenizerBase

from manzano.data_mix.text_tokenizer import train_text_tokenizer
from manzano.decoder.dit_air import DiTAir
from manzano.decoder.vae import VAEConfig, build_vae
from manzano.llm.vocabulary import joint_vocabulary
from manzano.model import ManzanoForConditionalGeneration
from manzano.pipeline import ManzanoPipeline
from manzano.tokenizer.hybrid import HybridTokenizer, HybridTokenizerConfig
from manzano.training.stages.llm import assemble, make_processor

VISION = {
    "vit": "vit_tiny_patch16_224",
    "vit_kwargs": {"patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2},
    "image_size": 48,
    "levels": (4, 3, 3),
    "width": 32,
    "hidden": 24,
    "discrete_width": 20,
}
"""48 px, patch 8: a 6 x 6 grid, 4 tokens, 36 codes."""

QWEN3 = {
    "model_type": "qwen3",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 48,
    "initializer_range": 0.3,
}
"""Weights far from zero, so that different inputs give different answers."""


def tiny_vision(**changes) -> HybridTokenizer:
    return HybridTokenizer(HybridTokenizerConfig(**(VISION | changes))).eval()


def text_tokenizer() -> PreTrainedTokenizerBase:
    """Bytes, special tokens and size tokens, no merges."""
    tokenizer = train_text_tokenizer(["red heart"], vocab_size=264)
    joint_vocabulary(tokenizer, image_size=1)
    return tokenizer


def tiny_manzano(llm: dict | None = None, **changes) -> ManzanoForConditionalGeneration:
    return assemble(tiny_vision(**changes), text_tokenizer(), llm or QWEN3).eval()


def tiny_pipeline() -> ManzanoPipeline:
    text = text_tokenizer()
    model = assemble(tiny_vision(), text, QWEN3).eval()
    painter = DiTAir(num_layers=1, width=32, head_dim=16, in_channels=4, condition_width=20)
    for parameter in painter.parameters():  # its gates start at zero, and would hide everything
        nn.init.normal_(parameter, std=0.2)
    return ManzanoPipeline(
        model,
        make_processor(model.vision, text, max_length=96),
        painter,
        build_vae(VAEConfig(block_out_channels=(8, 8, 8), latent_channels=4)),
        FlowMatchEulerDiscreteScheduler(),
    )


def drawing(index: int = 0, size: tuple[int, int] = (48, 48)) -> Image.Image:
    """A coloured disc on a background of another colour; another index, another picture."""
    colours = ("red", "lime", "blue", "orange", "black")
    image = Image.new("RGB", size, (255 - 31 * index % 256, 240, 200 + index % 50))
    side = min(size) // 2 + index % 5
    left = (7 * index) % max(1, size[0] - side)
    ImageDraw.Draw(image).ellipse([left, 4, left + side, 4 + side], colours[index % len(colours)])
    return image

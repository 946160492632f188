"""Pretrained checkpoints as the world publishes them, in their libraries' formats, but tiny."""

from pathlib import Path

import timm
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from timm.models import save_for_hf
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from manzano.data_mix.text_tokenizer import train_text_tokenizer
from manzano.llm.backbone import language_config
from tests.tiny import QWEN3

FLUX = {"latent_channels": 16, "scaling_factor": 0.3611, "shift_factor": 0.1159,
        "use_quant_conv": False, "use_post_quant_conv": False}  # fmt: skip
SD = {"latent_channels": 4, "scaling_factor": 0.18215}


def save_siglip(folder: Path) -> Path:
    """A SigLIP2 ViT of timm, 64 px, with its pooling head; also as a .pth file."""
    vit = timm.create_model(
        "vit_base_patch16_siglip_224.v2_webli", img_size=64, patch_size=8, embed_dim=16, depth=1,
        num_heads=2,
    )  # fmt: skip
    for parameter in vit.parameters():
        nn.init.normal_(parameter, std=0.3)
    save_for_hf(vit, folder, safe_serialization=True)
    torch.save({"state_dict": vit.state_dict()}, folder / "model.pth")
    return folder


def plain_tokenizer() -> PreTrainedTokenizerBase:
    """A text tokenizer that has none of our special tokens, as all published ones: 258 ids."""
    return train_text_tokenizer(
        ["red heart"],
        258,
        special_tokens=["<eos>", "<fill>"],
        eos_token="<eos>",
        pad_token="<fill>",
    )


def save_qwen3(folder: Path, *, rows: int = 300, sharded: bool = False, **settings) -> Path:
    """A Qwen3 with its tokenizer of 258 ids; further rows fill its table up."""
    config = language_config({**QWEN3, "vocab_size": rows, **settings})
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder, max_shard_size="20KB" if sharded else "5GB")
    plain_tokenizer().save_pretrained(folder)
    return folder


def save_vae(folder: Path, settings: dict) -> Path:
    """The `vae/` of a pipeline's folder, whose root holds no model."""
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8), down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, norm_num_groups=4, layers_per_block=1, **settings,
    )  # fmt: skip
    vae.save_pretrained(folder / "vae")
    (folder / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    return folder

"""The vision encoder: any timm Vision Transformer, returned as a grid of features.

Manzano (Sec. 3.2) shares one standard ViT between understanding and generation. timm builds it, by
name, with its own keyword arguments; pretrained weights come from timm's hub or from a local file.
"""

import json
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import cast

import timm
import torch
from einops import rearrange
from timm.models import load_state_dict
from timm.models.vision_transformer import Block, VisionTransformer, checkpoint_filter_fn
from timm.models.vision_transformer_hybrid import ConvStem, HybridEmbed
from torch import Tensor

from manzano.load_report import strict_report
from manzano.weights import check_files, fetch

_HEADS = ("attn_pool.", "head.")
"""Beginnings of what timm's checkpoints have on top of the features: not used here."""


def build_vit(name: str, image_size: int, conv_stem: bool = False, **kwargs) -> VisionTransformer:
    """A timm ViT without head or pooling.

    Args:
        name: a timm model name, e.g. `vit_large_patch16_siglip_512`.
        image_size: side of the square input, pixels.
        conv_stem: replace the patch projection by three strided convolutions (8 x 8 pixels a
            token), which learn to see sooner from little data (Xiao et al. 2021, arXiv 2106.14881).
        kwargs: passed to `timm.create_model`, e.g. `patch_size`, `embed_dim`, `depth`.

    Raises:
        ValueError: if timm knows no such model; the nearest names are given.
    """
    if not timm.is_model(name):
        family = timm.list_models(f"{name.split('_')[0]}*") or timm.list_models()
        near = get_close_matches(name, family, n=5, cutoff=0.0)
        raise ValueError(
            f"timm has no model {name!r}. Similar names: {near}; see timm.list_models()"
        )
    if conv_stem:
        width = kwargs["embed_dim"]
        stem = ConvStem(
            depth=3, channels=(width // 4, width // 2, width), kernel_size=3, padding=1,
            # By name; batch statistics would tie a sample to its batch.
            norm_layer="layernorm2d",  # pyright: ignore[reportArgumentType]
        )  # fmt: skip
        kwargs["embed_layer"] = partial(HybridEmbed, backbone=stem, proj=False)
        kwargs["patch_size"] = 1  # of the stem's output
    vit = timm.create_model(
        name, pretrained=False, num_classes=0, global_pool="", img_size=image_size, **kwargs
    )
    return cast(VisionTransformer, vit)


def grid_features(vit: VisionTransformer, pixels: Tensor) -> Tensor:
    """Patch features on their grid, prefix tokens (class, registers) dropped.

    Args:
        pixels: (B, 3, H, W) in [-1, 1].

    Returns:
        (B, rows, columns, C).
    """
    rows, columns = vit.patch_embed.grid_size
    features = vit.forward_features(pixels)[:, vit.num_prefix_tokens :]  # (B, rows * columns, C)
    return rearrange(features, "b (h w) c -> b h w c", h=rows, w=columns)


def load_vit(vit: VisionTransformer, source: str) -> None:
    """Loads pretrained weights and logs what became of them.

    The position embedding is resampled to the ViT's own grid (timm's bicubic), a patch projection
    of other patches likewise; SigLIP's pooling head and a classifier are left behind.

    Args:
        source: `timm:NAME` (weights of timm's hub; NAME may have a tag), a model of the Hugging
            Face hub or a folder in timm's hub format (`config.json`, `model.safetensors`), the
            export of the `vision` stage (`vit.safetensors`), or a .safetensors or .pth file with
            timm's parameter names.

    Raises:
        ValueError: if the weights are not found, not whole, or of another architecture.
    """
    path = _find(source)
    check_files(path)
    if (path.parent / "config.json").is_file():
        _require_same_computation(vit, json.loads((path.parent / "config.json").read_text()))
    state = load_state_dict(str(path))
    own = {name: tuple(value.shape) for name, value in vit.state_dict().items()}
    dropped = sorted(n for n in state if n not in own and n.startswith(_HEADS))
    kept = {name: value for name, value in state.items() if name not in dropped}
    if kept.keys() == own.keys():
        kept = checkpoint_filter_fn(kept, vit)
    shapes = {
        name: (tuple(state[name].shape), own[name])
        for name in own.keys() & state.keys()
        if tuple(state[name].shape) != own[name]
    }
    misfits = [(n, *s) for n, s in shapes.items() if tuple(kept[n].shape) != s[1]]
    info = {
        "missing_keys": own.keys() - kept.keys(),
        "unexpected_keys": kept.keys() - own.keys(),
        "mismatched_keys": misfits,
    }
    report = strict_report("ViT", source, vit, info, resized=shapes, dropped=dropped)
    vit.load_state_dict(kept)
    report.log()


def _find(source: str) -> Path:
    """The file with the weights."""
    if source.startswith("timm:"):
        name = source.removeprefix("timm:")
        try:
            config = timm.get_pretrained_cfg(name, allow_unregistered=False)
        except RuntimeError as error:
            raise ValueError(f"{source}: {error} See timm.list_pretrained()") from error
        if config is None or not config.hf_hub_id:
            raise ValueError(f"{source}: timm has no weights of {name}; see timm.list_pretrained()")
        source = config.hf_hub_id
    path = fetch(source, ("config.json", "model.safetensors"))
    if path.is_file():
        return path
    for name in ("vit.safetensors", "model.safetensors", "pytorch_model.bin"):
        if (path / name).is_file():
            return path / name
    raise ValueError(
        f"no ViT weights at {path}/vit.safetensors: give timm:NAME, a .safetensors or .pth file "
        "with timm's names, a folder in timm's hub format, or the export of the `vision` stage"
    )


def _require_same_computation(vit: VisionTransformer, config: dict) -> None:
    """Refuses weights that fit in shape but were trained with another activation, other heads or
    another norm: `vit_large_patch16_siglip_256` and `_512` differ so.

    Args:
        config: `config.json` of timm's hub format.
    """
    name = config.get("architecture", "")
    if not timm.is_model(name):
        return  # of another library: the parameters' names will tell
    arguments = {
        key: value
        for key, value in config.get("model_args", {}).items()
        if key not in ("num_classes", "global_pool", "img_size", "pretrained")
    }
    with torch.device("meta"):
        source = timm.create_model(name, pretrained=False, num_classes=0, **arguments)
    if not isinstance(source, VisionTransformer):
        raise ValueError(
            f"these weights are of timm's {name}, a {type(source).__name__}: give those of a "
            "VisionTransformer, such as SigLIP's"
        )
    trained, own = _computation(source), _computation(vit)
    if differing := [f"{k} {trained[k]} (here {own[k]})" for k in own if own[k] != trained[k]]:
        raise ValueError(
            f"these weights were trained as timm's {name}, with {', '.join(differing)}: set the "
            f"ViT's name to {name}"
        )


def _computation(vit: VisionTransformer) -> dict[str, object]:
    """What the parameters' shapes do not tell."""
    block = cast(Block, vit.blocks[0])
    return {
        "activation": type(block.mlp.act).__name__,
        "heads": block.attn.num_heads,
        "norm": type(block.norm1).__name__,
        "eps": getattr(block.norm1, "eps", None),
    }

"""The vision encoder: any timm Vision Transformer, returned as a grid of features.

Manzano (Sec. 3.2) shares one standard ViT between understanding and generation. timm builds it, by
name, with its own keyword arguments; pretrained weights come from timm's hub or from a local file.
"""

from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import cast

import timm
import torch
from einops import rearrange
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_hybrid import ConvStem, HybridEmbed
from torch import Tensor


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
    """Loads pretrained weights: a safetensors file or a folder that holds `vit.safetensors` (what
    the `vision` stage exports), or `timm:NAME` for weights of timm's hub.

    Raises:
        ValueError: if the weights do not fit, with the names that differ.
        FileNotFoundError: if there is no such file.
    """
    if source.startswith("timm:"):
        pretrained = timm.create_model(
            source.removeprefix("timm:"), pretrained=True, num_classes=0, global_pool="",
            img_size=vit.patch_embed.img_size,
        )  # fmt: skip
        state = pretrained.state_dict()
    else:
        path = Path(source)
        path = path / "vit.safetensors" if path.is_dir() else path
        if not path.is_file():
            raise FileNotFoundError(
                f"no ViT weights at {path}: give a .safetensors file, the export folder of the "
                "`vision` stage, or timm:NAME"
            )
        state = load_file(path)
    own = vit.state_dict()
    faults = sorted(own.keys() ^ state.keys())
    faults += [k for k in own.keys() & state.keys() if own[k].shape != state[k].shape]
    if faults:
        raise ValueError(
            f"the ViT weights of {source} do not fit this ViT: {len(faults)} parameters differ, "
            f"e.g. {faults[:4]}. Give the same timm name and arguments as they were trained with"
        )
    with torch.no_grad():
        vit.load_state_dict(state)

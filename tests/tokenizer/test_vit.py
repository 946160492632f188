"""ViTs of timm, by name, with weights from files."""

import pytest
import torch
from safetensors.torch import save_file

from manzano.tokenizer.vit import build_vit, grid_features, load_vit

TINY = {"embed_dim": 16, "depth": 1, "num_heads": 2, "patch_size": 8}


def tiny_vit(name: str = "vit_tiny_patch16_224", **changes):
    return build_vit(name, 48, **(TINY | changes)).eval()


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_base_patch16_siglip_224"])
def test_features_stand_where_their_patches_are(name):
    vit = tiny_vit(name)
    pixels = torch.rand(2, 3, 48, 48)
    features = grid_features(vit, pixels)
    assert features.shape == (2, 6, 6, 16)
    tokens = vit.forward_features(pixels)
    assert torch.equal(features[1, 2, 3], tokens[1, vit.num_prefix_tokens + 2 * 6 + 3])


@pytest.mark.parametrize("folder", [False, True])
def test_weights_are_loaded_from_a_file_or_an_export_folder(tmp_path, folder):
    source, target = (
        tiny_vit("vit_base_patch16_siglip_224"),
        tiny_vit("vit_base_patch16_siglip_224"),
    )
    save_file(source.state_dict(), tmp_path / "vit.safetensors")
    load_vit(target, str(tmp_path if folder else tmp_path / "vit.safetensors"))
    pixels = torch.rand(2, 3, 48, 48)
    assert torch.equal(grid_features(target, pixels), grid_features(source, pixels))


def test_weights_of_another_size_are_refused_with_their_names(tmp_path):
    save_file(tiny_vit(embed_dim=32).state_dict(), tmp_path / "vit.safetensors")
    with pytest.raises(ValueError, match=r"do not fit this ViT: \d+ parameters differ, e.g. \['"):
        load_vit(tiny_vit(), str(tmp_path))


def test_missing_weights_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no ViT weights at .*vit.safetensors"):
        load_vit(tiny_vit(), str(tmp_path))


def test_an_unknown_name_is_refused_with_similar_ones():
    with pytest.raises(ValueError, match="timm has no model 'vit_tyny'. Similar names: .'vit_"):
        build_vit("vit_tyny", 48)

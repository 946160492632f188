"""ViTs of timm, by name, with weights from files."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from manzano.tokenizer.vit import build_vit, grid_features, load_vit
from tests.checkpoints import save_siglip

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
    with pytest.raises(
        ValueError, match=r"18 have another shape \(blocks.0.attn.proj.bias \(32,\)"
    ):
        load_vit(tiny_vit(), str(tmp_path))


def test_missing_weights_are_named(tmp_path):
    with pytest.raises(ValueError, match="no ViT weights at .*vit.safetensors"):
        load_vit(tiny_vit(), str(tmp_path))


def test_an_unknown_name_is_refused_with_similar_ones():
    with pytest.raises(ValueError, match="timm has no model 'vit_tyny'. Similar names: .'vit_"):
        build_vit("vit_tyny", 48)


SIGLIP = "vit_base_patch16_siglip_224.v2_webli"


@pytest.fixture
def siglip(tmp_path) -> Path:
    """A tiny SigLIP2 ViT of 64 px with its pooling head, in timm's hub format; also as .pth."""
    return save_siglip(tmp_path / "siglip")


def features(vit, side: int) -> torch.Tensor:
    pixels = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        return grid_features(vit, pixels)


@pytest.mark.parametrize("file", ["", "model.safetensors", "model.pth"])
def test_siglip_of_the_same_size_gives_the_features_that_timm_gives(siglip, file, caplog):
    caplog.set_level("INFO", "manzano")
    source = timm.create_model(f"local-dir:{siglip}", pretrained=True).eval()
    vit = build_vit(SIGLIP, 64, **TINY).eval()
    load_vit(vit, str(siglip / file))
    assert torch.equal(features(vit, 64), features(source, 64))
    assert "17 tensors taken, 0.01M parameters" in caplog.text
    assert "dropped attn_pool.kv.bias" in caplog.text
    assert "resized" not in caplog.text


def test_the_position_embedding_is_resampled_as_timm_does(siglip, caplog):
    caplog.set_level("INFO", "manzano")
    source = timm.create_model(f"local-dir:{siglip}", pretrained=True, img_size=48).eval()
    vit = build_vit(SIGLIP, 48, **TINY).eval()
    load_vit(vit, str(siglip))
    assert torch.equal(features(vit, 48), features(source, 48))
    assert "resized pos_embed: (1, 64, 16) -> (1, 36, 16)" in caplog.text


def test_a_name_with_a_tag_leads_to_its_folder_of_the_hub(siglip, hub):
    hub(f"timm/{SIGLIP}", siglip)
    source = timm.create_model(f"local-dir:{siglip}", pretrained=True).eval()
    for name in (f"timm:{SIGLIP}", f"timm/{SIGLIP}"):
        vit = build_vit(SIGLIP, 64, **TINY).eval()
        load_vit(vit, name)
        assert torch.equal(features(vit, 64), features(source, 64))
    with pytest.raises(ValueError, match=r"Invalid pretrained tag \(v9\).*timm.list_pretrained"):
        load_vit(vit, "timm:vit_base_patch16_siglip_224.v9")
    with pytest.raises(ValueError, match="hub gave no model of this name .LocalEntryNotFoundError"):
        load_vit(vit, "timm:vit_large_patch16_siglip_512.v2_webli")


def test_weights_that_fit_but_were_trained_to_compute_otherwise_are_refused(siglip):
    vit = build_vit("vit_large_patch16_siglip_512", 64, **TINY | {"num_heads": 4})
    with pytest.raises(
        ValueError, match=r"with activation GELU \(here GELUTanh\), heads 2 \(here 4\): set the ViT"
    ):
        load_vit(vit, str(siglip))


def test_other_architectures_are_told_by_their_names(siglip, tmp_path):
    state = load_file(siglip / "model.safetensors")
    save_file({f"visual.trunk.{k}": v for k, v in state.items()}, tmp_path / "clip.safetensors")
    with pytest.raises(ValueError, match="17 weights are missing .* 30 are left over .*OpenCLIP"):
        load_vit(build_vit(SIGLIP, 64, **TINY), str(tmp_path / "clip.safetensors"))

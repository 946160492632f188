import json

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from safetensors.torch import load_file, save_file

from manzano.data_mix.sizes import RATIOS, bucket_size
from manzano.decoder.dit_air import DiTAir
from manzano.decoder.vae import (
    WHOLE,
    VAEConfig,
    build_vae,
    decode,
    encode,
    estimate_scaling,
    load_vae,
    vae_loss,
)
from tests.checkpoints import FLUX, SD, save_vae

CONFIG = VAEConfig(block_out_channels=(4, 8, 8), latent_channels=3, norm_num_groups=4)


@pytest.fixture
def vae():
    torch.manual_seed(0)
    return build_vae(CONFIG).eval()


def pictures(batch_size: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(batch_size, 3, 16, 24, generator=generator) * 2 - 1


def test_latents_are_factor_times_smaller_than_images(vae):
    assert CONFIG.factor == 4
    latents = encode(vae, pictures())
    assert latents.shape == (4, 3, 4, 6)
    assert decode(vae, latents).shape == (4, 3, 16, 24)


def test_estimated_scaling_gives_mean_zero_and_deviation_one_and_is_undone(vae):
    mode = encode(vae, pictures())
    plain = decode(vae, mode)
    estimate_scaling(vae, [pictures()[:2], pictures()[2:]])
    latents = encode(vae, pictures())
    assert latents.mean().item() == pytest.approx(0, abs=1e-5)
    assert latents.std().item() == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(decode(vae, latents), plain)


def test_scaling_and_weights_survive_saving_and_loading(vae, tmp_path):
    estimate_scaling(vae, [pictures()])
    vae.save_pretrained(tmp_path)
    loaded = load_vae(tmp_path)
    assert torch.equal(encode(loaded, pictures()), encode(vae, pictures()))
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_a_vae_without_a_shift_has_shift_zero(vae):
    before = encode(vae, pictures())
    vae.register_to_config(shift_factor=None)
    assert torch.equal(encode(vae, pictures()), before)


def large_picture(height: int, width: int) -> torch.Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(2)) * 2 - 1


@pytest.mark.parametrize("ratio", RATIOS)
def test_no_bucket_of_the_1024_px_rung_is_tiled(ratio):
    height, width = bucket_size(ratio, 1024, 16)
    assert height * width <= WHOLE


@pytest.mark.parametrize("size", [(1024, 1024), (592, 1776)])
@torch.no_grad()
def test_a_picture_of_the_area_of_a_tile_is_not_tiled(vae, size):
    images = large_picture(*size)
    latents = encode(vae, images)
    assert torch.equal(latents, vae.encode(images).latent_dist.mode())
    assert torch.equal(decode(vae, latents), vae.decode(latents).sample.clamp(-1, 1))


@torch.no_grad()
def test_a_larger_picture_is_its_tiles_blended_where_they_overlap(vae):
    """Tiles of 1024 pixels every 768; the first 256 of each are blended into the one before."""
    images, sides = large_picture(1280, 1056), []
    for part, scale in ((vae.encoder, 1), (vae.decoder, 4)):
        part.register_forward_pre_hook(
            lambda _, arguments, scale=scale: sides.append(scale * max(arguments[0].shape[2:]))
        )
    latents = encode(vae, images)
    first, last = encode(vae, images[..., :1024, :1024]), encode(vae, images[..., 768:, 768:])
    assert latents.shape == (1, 3, 320, 264)
    torch.testing.assert_close(latents[..., :192, :192], first[..., :192, :192])
    torch.testing.assert_close(latents[..., 256:, 256:], last[..., 64:, 64:])

    painted = decode(vae, latents)
    first, last = decode(vae, latents[..., :256, :256]), decode(vae, latents[..., 192:, 192:])
    assert painted.shape == images.shape
    torch.testing.assert_close(painted[..., :768, :768], first[..., :768, :768])
    torch.testing.assert_close(painted[..., 1024:, 1024:], last[..., 256:, 256:])
    assert max(sides) == 1024
    assert not vae.use_tiling  # the vae stage trains on whole pictures


def test_the_loss_is_per_sample_and_falls(vae):
    vae.train()
    optimizer = torch.optim.Adam(vae.parameters(), 1e-2)

    def loss() -> torch.Tensor:
        total, terms = vae_loss(vae, pictures(), generator=torch.Generator().manual_seed(0))
        expected = terms["l1"] + terms["mse"] + 2.0 * terms["coarse"] + 1e-4 * terms["kl"]
        assert total.shape == (4,)
        assert torch.equal(total, expected)
        return total.mean()

    first = loss().item()
    for _ in range(10):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert loss().item() < 0.95 * first


def test_a_folder_without_a_vae_is_explained(tmp_path):
    with pytest.raises(ValueError, match="There is no VAE in"):
        load_vae(tmp_path)


def test_a_folder_of_another_model_is_explained(tmp_path):
    DiTAir(num_layers=1, width=16, head_dim=16, in_channels=4, condition_width=8).save_pretrained(
        tmp_path
    )
    with pytest.raises(
        ValueError, match="holds a DiTAir, not an AutoencoderKL.*give the VAE of FLUX"
    ):
        load_vae(tmp_path)


def test_weights_that_do_not_fit_the_config_are_refused(vae, tmp_path):
    vae.save_pretrained(tmp_path)
    weights_file = tmp_path / "diffusion_pytorch_model.safetensors"
    weights = load_file(weights_file)
    weights.pop("decoder.conv_out.bias")
    save_file(weights, weights_file)
    with pytest.raises(ValueError, match="decoder.conv_out.bias"):
        load_vae(tmp_path)

    config = json.loads((tmp_path / "config.json").read_text())
    config["latent_channels"] = 5
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="do not fit"):
        load_vae(tmp_path)


def test_channels_that_do_not_divide_into_groups_are_refused():
    with pytest.raises(ValueError, match="multiples of norm_num_groups 8"):
        VAEConfig(block_out_channels=(12, 24))


@pytest.mark.parametrize(("name", "settings"), [("FLUX", FLUX), ("SD", SD)])
def test_the_vae_of_a_whole_pipeline_folder_is_found_and_scaled_as_it_says(
    tmp_path, hub, name, settings
):
    folder = save_vae(tmp_path / name, settings)
    hub(f"someone/{name}", folder)
    original = AutoencoderKL.from_pretrained(folder / "vae").eval()
    pixels = torch.rand(2, 3, 16, 24) * 2 - 1
    with torch.no_grad():
        mode = original.encode(pixels).latent_dist.mode()
        latents = (mode - settings.get("shift_factor", 0.0)) * settings["scaling_factor"]
        painted = original.decode(mode).sample.clamp(-1, 1)
    for source in (folder, folder / "vae", f"someone/{name}"):
        vae = load_vae(source)
        torch.testing.assert_close(encode(vae, pixels), latents, rtol=0, atol=1e-6)
        assert latents.shape == (2, settings["latent_channels"], 2, 3)
        torch.testing.assert_close(decode(vae, latents), painted, rtol=0, atol=1e-5)


def test_a_vae_in_bf16_works_in_fp32(tmp_path):
    save_vae(tmp_path, FLUX)
    AutoencoderKL.from_pretrained(tmp_path / "vae").to(torch.bfloat16).save_pretrained(tmp_path)
    assert {p.dtype for p in load_vae(tmp_path).parameters()} == {torch.float32}


def test_what_was_loaded_is_logged(tmp_path, caplog):
    caplog.set_level("INFO", "manzano")
    vae = load_vae(save_vae(tmp_path, SD))
    count, numbers = len(vae.state_dict()), sum(p.numel() for p in vae.parameters())
    assert (
        f"VAE from {tmp_path / 'vae'}: {count} tensors taken, {numbers / 1e6:.2f}M" in caplog.text
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_class_name": "AutoencoderDC"}, "holds a AutoencoderDC, not an AutoencoderKL"),
        ({"_class_name": None, "architectures": ["Qwen3ForCausalLM"]}, "holds a Qwen3ForCausalLM"),
        ({"latents_mean": [0.1] * 4}, "scales each latent channel by itself"),
    ],
)
def test_other_autoencoders_are_refused_by_name(tmp_path, change, message):
    file = save_vae(tmp_path, SD) / "vae" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        load_vae(tmp_path)

"""Weight files that are not what they seem."""

import pytest
import torch
from safetensors.torch import load_file

from manzano.load_report import LoadReport, strict_report
from manzano.tokenizer.vit import build_vit, load_vit
from manzano.weights import check_files, fetch, looks_like
from tests.checkpoints import SD, save_qwen3, save_siglip, save_vae

POINTER = """version https://git-lfs.github.com/spec/v1
oid sha256:5b1e8ce7a9bd1a3a7ac6f8e7b4a3f5b9c1d2e3f4a5b6c7d8e9f0a1b2c3d4e5f6
size 1266042456
"""


@pytest.fixture
def folder(tmp_path):
    return save_qwen3(tmp_path, sharded=True)


def test_whole_files_pass(folder):
    check_files(folder)
    assert len(list(folder.glob("*.safetensors"))) > 2


def test_a_pointer_is_told_from_a_file(folder):
    file = sorted(folder.glob("*.safetensors"))[1]
    file.write_text(POINTER)
    with pytest.raises(ValueError, match=rf"{file.name} is a Git LFS pointer.*git lfs pull"):
        check_files(folder)
    (folder / "model.safetensors.index.json").write_text(POINTER)
    with pytest.raises(ValueError, match="index.json is a Git LFS pointer"):
        check_files(folder)


@pytest.mark.parametrize("keep", [4, 200, -1])
def test_a_truncated_file_is_named(folder, keep):
    file = sorted(folder.glob("*.safetensors"))[0]
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ValueError, match=rf"{file.name} \(\d+ bytes\) is damaged or not whole"):
        check_files(folder)


def test_a_truncated_file_of_torch_is_named(tmp_path):
    torch.save({"a": torch.zeros(9)}, tmp_path / "a.pth")
    check_files(tmp_path)
    (tmp_path / "a.pth").write_bytes((tmp_path / "a.pth").read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"a.pth \(\d+ bytes\) is damaged or not whole"):
        check_files(tmp_path)


def test_a_missing_shard_is_named(folder):
    file = sorted(folder.glob("*.safetensors"))[1]
    file.unlink()
    with pytest.raises(ValueError, match=rf"1 of the \d+ files .* are missing, e.g. {file.name}"):
        check_files(folder)


def test_a_folder_without_weights_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"no weights in .*, which holds \['config.json'\]"):
        check_files(tmp_path)


@pytest.mark.parametrize("source", ["runs/of/nobody", "runs/nothing", "../nothing"])
def test_a_path_that_is_not_there_is_named(source, hub):
    with pytest.raises(ValueError, match=f"there is no {source}, and the Hugging Face hub gave no"):
        fetch(source, ["config.json"])


def test_architectures_are_known_by_their_names(tmp_path):
    def names(file):
        return load_file(file).keys()

    qwen = save_qwen3(tmp_path / "qwen") / "model.safetensors"
    siglip = save_siglip(tmp_path / "siglip") / "model.safetensors"
    vae = save_vae(tmp_path / "sd", SD) / "vae" / "diffusion_pytorch_model.safetensors"
    assert looks_like(names(qwen)) == "a language model (Qwen, Llama and their like)"
    assert looks_like(names(siglip)) == "a ViT of timm"
    assert looks_like(names(vae)) == "an autoencoder of diffusers"
    assert looks_like(["x"]) == "nothing known here"
    with pytest.raises(ValueError, match="17 weights are missing .*looks like a language model"):
        load_vit(
            build_vit("vit_tiny_patch16_224", 48, depth=1, class_token=False, no_embed_class=True),
            str(qwen),
        )


def test_the_report_says_what_happened_in_a_few_lines():
    report = LoadReport(
        part="ViT", source="x", taken=3, parameters=2_000_000, resized={"pos": ((1, 4), (1, 9))},
        new=("a",), dropped=tuple("bcdefg"),
    )  # fmt: skip
    assert str(report) == (
        "ViT from x: 3 tensors taken, 2.00M parameters\n"
        "  resized pos: (1, 4) -> (1, 9)\n"
        "  new a\n"
        "  dropped b, c, d, e and 2 more"
    )


def test_faults_are_counted_and_named():
    info = {"missing_keys": ["b", "a"], "unexpected_keys": ["model.layers.0.q"]}
    model = torch.nn.Linear(2, 3)
    with pytest.raises(ValueError, match=r"fit this X: 2 weights are missing \(a, b\), 1 are left"):
        strict_report("X", "s", model, {**info, "mismatched_keys": []})
    with pytest.raises(ValueError, match=r"1 have another shape \(w \(1,\) -> \(2,\)\)"):
        mismatched = [("w", torch.Size([1]), torch.Size([2]))]
        strict_report("X", "s", model, {**info, "mismatched_keys": mismatched})
    fit = strict_report("X", "s", model, dict.fromkeys([*info, "mismatched_keys"], ()))
    assert (fit.taken, fit.parameters) == (2, 9)

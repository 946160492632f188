"""The hybrid tokenizer: two branches of one ViT, kept bitwise on disk."""

from typing import get_args, get_type_hints

import pytest
import torch

from manzano.tokenizer.hybrid import (
    HybridTokenizer,
    HybridTokenizerConfig,
    freeze_for_llm,
    resize_continuous,
)
from tests.tiny import tiny_vision

KINDS = get_args(get_type_hints(HybridTokenizerConfig)["kind"])


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    return torch.rand(3, 3, 48, 48) * 2 - 1


def test_the_papers_sizes():
    with torch.device("meta"):
        tokenizer = HybridTokenizer(HybridTokenizerConfig())
        features = tokenizer.features(torch.empty(1, 3, 672, 672))
        folded = tokenizer.continuous_adapter.fold(features)
        assert tokenizer.continuous(torch.empty(1, 3, 672, 672)).shape == (1, 196, 2048)
    assert features.shape == (1, 42, 42, 1024)
    assert folded.shape == (1, 14, 14, 9216)
    assert tokenizer.num_tokens == 196
    assert tokenizer.config.codebook_size == 64_000


@pytest.mark.parametrize("image_size", [56, 72])
def test_an_image_size_that_does_not_fold_is_refused_naming_the_multiple(image_size):
    if image_size == 72:
        assert tiny_vision(image_size=72).num_tokens == 9
        return
    with pytest.raises(ValueError, match="image_size 56 .* 7x7 grid.* multiple of 24"):
        tiny_vision(image_size=image_size)


def test_levels_below_three_are_refused():
    with pytest.raises(ValueError, match=r"three or more each, got \[8, 2\]"):
        HybridTokenizerConfig(levels=(8, 2))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("conv_stem", [False, True])
def test_a_loaded_tokenizer_equals_the_saved_one_bitwise(tmp_path, pixels, conv_stem, kind):
    tokenizer = tiny_vision(conv_stem=conv_stem, kind=kind)
    tokenizer.save(tmp_path)
    loaded = HybridTokenizer.load(tmp_path).eval()
    assert loaded.config == tokenizer.config
    assert torch.equal(loaded.continuous(pixels), tokenizer.continuous(pixels))
    assert torch.equal(loaded.discrete(pixels), tokenizer.discrete(pixels))
    ids = torch.arange(36).reshape(9, 4)
    assert torch.equal(loaded.embed_ids(ids), tokenizer.embed_ids(ids))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_folder_that_lacks_a_file_is_refused_naming_it(tmp_path, name):
    tiny_vision().save(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"no {name} in the tokenizer folder"):
        HybridTokenizer.load(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_in_range_and_differ_between_pictures(pixels, kind):
    ids = tiny_vision(kind=kind).discrete(pixels)
    assert ids.shape == (3, 4)
    assert ids.dtype == torch.int64
    assert 0 <= int(ids.min()) <= int(ids.max()) < 36


def test_embeddings_of_ids_are_what_the_discrete_branch_embeds(pixels):
    tokenizer = tiny_vision()
    embedded = tokenizer.discrete_adapter(tokenizer.features(pixels))
    assert embedded.shape == (3, 4, 20)
    assert torch.equal(tokenizer.embed_ids(tokenizer.discrete(pixels)), embedded)


def test_resizing_the_continuous_branch_keeps_all_but_its_last_layer(pixels):
    tokenizer = tiny_vision()
    before = {name: value.clone() for name, value in tokenizer.state_dict().items()}
    ids = tokenizer.discrete(pixels)
    resize_continuous(tokenizer, 44)
    after = tokenizer.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    last = "continuous_adapter.project.2."
    assert changed == {last + "weight", last + "bias"}
    assert tokenizer.config.width == 44
    assert tokenizer.continuous(pixels).shape == (3, 4, 44)
    assert torch.equal(tokenizer.discrete(pixels), ids)
    resize_continuous(tokenizer, 44)
    assert tokenizer.state_dict()[last + "weight"] is not None
    assert torch.equal(tokenizer.state_dict()[last + "weight"], after[last + "weight"])


@pytest.mark.parametrize("kind", KINDS)
def test_freezing_leaves_the_continuous_adapter_alone_to_train(kind):
    tokenizer = tiny_vision(kind=kind)
    freeze_for_llm(tokenizer)
    trained = {name.split(".")[0] for name, p in tokenizer.named_parameters() if p.requires_grad}
    frozen = {name.split(".")[0] for name, p in tokenizer.named_parameters() if not p.requires_grad}
    assert trained == {"continuous_adapter"}
    assert frozen == {"vit", "discrete_adapter"} | ({"pixel_vit"} if kind == "dual" else set())


def test_what_a_discrete_tokenizer_reads_is_a_function_of_the_ids_alone(pixels):
    tokenizer = tiny_vision(kind="discrete")
    codes = tokenizer.discrete_adapter.fsq.ids_to_codes(tokenizer.discrete(pixels))
    assert tokenizer.continuous(pixels).shape == (3, 4, 32)
    assert torch.equal(tokenizer.continuous(pixels), tokenizer.continuous_adapter(codes))
    changed = pixels + 1e-6
    assert torch.equal(tokenizer.discrete(changed), tokenizer.discrete(pixels))
    assert torch.equal(tokenizer.continuous(changed), tokenizer.continuous(pixels))


def test_the_encoders_of_a_dual_tokenizer_share_nothing(pixels):
    tokenizer = tiny_vision(kind="dual")
    tokenizer.requires_grad_(True)
    tokenizer.continuous(pixels).square().sum().backward()
    reads = {name for name, p in tokenizer.named_parameters() if p.grad is not None}
    tokenizer.zero_grad(set_to_none=True)
    features = tokenizer.features(pixels, tokenizer.pixel_vit)
    codes, ids = tokenizer.discrete_adapter.quantize(features)
    codes.sum().backward()
    writes = {name for name, p in tokenizer.named_parameters() if p.grad is not None}
    assert torch.equal(ids, tokenizer.discrete(pixels))
    assert {name.split(".")[0] for name in reads} == {"vit", "continuous_adapter"}
    assert {name.split(".")[0] for name in writes} == {"pixel_vit", "discrete_adapter"}


def test_a_kind_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="got kind 'hybird'"):
        tiny_vision(kind="hybird")

"""FSQ: ids and codes are one to one, in float32 whatever surrounds them."""

import math

import pytest
import torch

from manzano.tokenizer.fsq import FSQ, code_usage, restore_tables

PAPER = (8, 8, 8, 5, 5, 5)


@pytest.fixture(scope="module")
def fsq() -> FSQ:
    return FSQ(PAPER)


def test_every_one_of_the_64000_ids_comes_back_from_its_code(fsq):
    ids = torch.arange(fsq.codebook_size).reshape(64, 1000)
    codes = fsq.ids_to_codes(ids)
    assert fsq.codebook_size == 64_000
    assert codes.shape == (64, 1000, 6)
    assert torch.equal(fsq.codes_to_ids(codes), ids)
    assert len(codes.flatten(0, 1).unique(dim=0)) == 64_000


def test_the_codes_of_forward_are_those_of_its_ids(fsq):
    codes, ids = fsq(3 * torch.randn(4, 500, 6))
    assert codes.dtype == torch.float32
    assert ids.dtype == torch.int64
    assert torch.equal(codes, fsq.ids_to_codes(ids))
    assert torch.equal(ids, fsq.codes_to_ids(codes))


def test_autocast_to_bf16_changes_no_id(fsq):
    z = 3 * torch.randn(4, 500, 6)
    codes, ids = fsq(z)
    with torch.autocast("cpu", torch.bfloat16):
        cast_codes, cast_ids = fsq(z)
    assert torch.equal(cast_ids, ids)
    assert torch.equal(cast_codes, codes)


def test_the_gradient_passes_the_rounding(fsq):
    z = torch.randn(2, 7, 6, requires_grad=True)
    fsq(z)[0].sum().backward()
    assert bool((z.grad > 0).all())


def test_usage_and_perplexity_of_uniform_and_of_a_single_code():
    usage, perplexity = code_usage(torch.full((36,), 5.0))
    assert (float(usage), float(perplexity)) == pytest.approx((1.0, 36.0))
    usage, perplexity = code_usage(9.0 * torch.eye(36)[3])
    assert (float(usage), float(perplexity)) == pytest.approx((1 / 36, 1.0))
    usage, perplexity = code_usage(torch.tensor([3.0, 1.0, 0.0, 0.0]))
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert (float(usage), float(perplexity)) == pytest.approx((0.5, math.exp(entropy)))
    assert [float(value) for value in code_usage(torch.zeros(36))] == [0.0, 1.0]


def test_tables_lost_in_loading_are_restored(fsq):
    ids = torch.arange(60).reshape(1, 60)
    lost = FSQ((5, 4, 3))
    whole = lost.ids_to_codes(ids)
    for table in lost.quantize.buffers():
        table.zero_()
    restore_tables(lost.quantize, (5, 4, 3))
    assert torch.equal(lost.ids_to_codes(ids), whole)

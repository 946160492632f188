import pytest
import torch

from manzano.decoder.conditioning import ConditionEmbedder, corrupt_ids, keep_mask

LEVELS = [8, 8, 8, 5, 5, 5]


def digits(ids: torch.Tensor) -> torch.Tensor:
    columns = []
    for level in LEVELS:
        columns.append(ids % level)
        ids = ids // level
    return torch.stack(columns, dim=-1)


def test_corruption_moves_one_digit_by_one():
    generator = torch.Generator().manual_seed(0)
    ids = torch.arange(64_000).view(40, 1600)
    corrupted = corrupt_ids(ids, LEVELS, 1.0, generator=generator)
    assert corrupted.shape == ids.shape and corrupted.dtype == ids.dtype
    assert (digits(corrupted) - digits(ids)).abs().sum(dim=-1).eq(1).all()


def test_corruption_touches_the_asked_fraction_and_every_digit_both_ways():
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(64_000, (50_000,), generator=generator)
    moves = digits(corrupt_ids(ids, LEVELS, 0.08, generator=generator)) - digits(ids)
    assert moves.any(dim=-1).float().mean().item() == pytest.approx(0.08, abs=0.01)
    assert (moves == 1).any(dim=0).all() and (moves == -1).any(dim=0).all()


def test_corruption_at_rate_zero_changes_nothing():
    ids = torch.arange(1000)
    assert torch.equal(corrupt_ids(ids, LEVELS, 0.0), ids)


def test_a_rate_that_is_no_probability_is_refused():
    with pytest.raises(ValueError, match="between 0 and 1, got 5"):
        corrupt_ids(torch.arange(4), LEVELS, 5)


def test_dropped_conditions_become_the_null_token():
    embedder = ConditionEmbedder(4, 6)
    torch.nn.init.normal_(embedder.null_token)
    condition = torch.randn(2, 3, 4)
    tokens = embedder(condition, torch.tensor([True, False]))
    assert torch.equal(tokens[0], embedder(condition)[0])
    assert torch.equal(tokens[1], embedder.null_token.expand(3, 6))


def test_masks_drop_the_asked_fraction():
    keep = keep_mask(20_000, 0.1, generator=torch.Generator().manual_seed(0))
    assert keep.float().mean().item() == pytest.approx(0.9, abs=0.01)
    assert keep_mask(100, 0.0).all() and not keep_mask(100, 1.0).any()

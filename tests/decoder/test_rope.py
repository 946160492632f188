import pytest
import torch
from diffusers.models.embeddings import apply_rotary_emb

from manzano.decoder.rope import (
    CONDITION,
    NOISY,
    REFERENCE,
    grid_positions,
    rotary_embedding,
    scaled_grid,
)

CPU = torch.device("cpu")


def test_shifting_all_positions_leaves_attention_scores_equal():
    positions = torch.cat(
        [grid_positions(CONDITION, (3, 3), (5, 4), CPU), grid_positions(NOISY, (5, 4), (5, 4), CPU)]
    )
    q, k = torch.randn(2, 1, 2, len(positions), 32, generator=torch.Generator().manual_seed(0))

    def scores(positions: torch.Tensor) -> torch.Tensor:
        rope = rotary_embedding(positions, 32, 100.0)
        return apply_rotary_emb(q, rope) @ apply_rotary_emb(k, rope).mT

    shifted = positions + torch.tensor([1.0, 7.0, -3.5])
    torch.testing.assert_close(scores(shifted), scores(positions), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(scores(positions * 2), scores(positions), atol=1e-2)


def test_condition_tokens_sit_at_the_centre_of_the_latents_they_describe():
    positions = grid_positions(CONDITION, (2, 2), (6, 4), CPU)
    assert positions.tolist() == [[2, 1, 0.5], [2, 1, 2.5], [2, 4, 0.5], [2, 4, 2.5]]


def test_reference_pixels_sit_on_the_pixels_that_they_become():
    noisy = grid_positions(NOISY, (6, 4), (6, 4), CPU)
    reference = grid_positions(REFERENCE, (6, 4), (6, 4), CPU)
    assert torch.equal(reference - noisy, torch.tensor([1.0, 0.0, 0.0]).expand(24, 3))
    assert noisy[4 + 1].tolist() == [0, 1, 1]


def test_a_squares_condition_is_unstretched_on_a_picture_that_is_not():
    """The ViT sees a 1 : 3 picture squeezed to a square; each token lies where it was in it."""
    latents = grid_positions(NOISY, (4, 12), (4, 12), CPU)[:, 1:].view(4, 12, 2)
    condition = grid_positions(CONDITION, (2, 2), (4, 12), CPU)[:, 1:]
    blocks = latents.unflatten(1, (2, 6)).unflatten(0, (2, 2)).mean(dim=(1, 3))  # (2, 2, 2)
    assert torch.equal(condition.view(2, 2, 2), blocks)


@pytest.mark.parametrize("grid", [(16, 16), (32, 32), (64, 16), (14, 18)])
def test_scaled_positions_have_one_range_and_no_stretch(grid):
    rows, columns = scaled_grid(grid, 16)
    assert rows * columns == pytest.approx(16 * 16)
    assert rows / columns == pytest.approx(grid[0] / grid[1])
    first = grid_positions(NOISY, (16, 16), (16, 16), CPU)
    doubled = grid_positions(NOISY, (32, 32), scaled_grid((32, 32), 16), CPU)
    blocks = doubled.view(16, 2, 16, 2, 3).mean(dim=(1, 3))  # 2 x 2 tokens lie where one lay
    assert torch.equal(blocks.view(256, 3), first)


@pytest.mark.parametrize("side", [6, 16, 128])
def test_at_its_own_size_nothing_is_scaled(side):
    assert scaled_grid((side, side), side) == (side, side)
    assert scaled_grid((5, 7), None) == (5, 7)

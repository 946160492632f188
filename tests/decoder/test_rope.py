import torch
from diffusers.models.embeddings import apply_rotary_emb

from manzano.decoder.rope import CONDITION, NOISY, REFERENCE, grid_positions, rotary_embedding

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

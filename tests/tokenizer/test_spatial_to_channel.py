"""Spatial-to-channel moves numbers and loses none."""

import pytest
import torch
from einops import rearrange

from manzano.tokenizer.spatial_to_channel import SpatialToChannel


def test_the_papers_shapes():
    features = torch.empty(2, 42, 42, 1024, device="meta")
    assert SpatialToChannel(3)(features).shape == (2, 14, 14, 9216)


def test_a_token_holds_its_own_block_row_by_row():
    features = torch.randn(2, 6, 9, 5)
    folded = SpatialToChannel(3)(features)
    assert torch.equal(folded[1, 1, 2], features[1, 3:6, 6:9].flatten())
    back = rearrange(folded, "b h w (p q c) -> b (h p) (w q) c", p=3, q=3)
    assert torch.equal(back, features)


def test_a_grid_of_7_by_7_is_refused_with_what_to_do():
    with pytest.raises(ValueError, match="7x7 feature grid.*multiple of 3"):
        SpatialToChannel(3)(torch.zeros(1, 7, 7, 4))

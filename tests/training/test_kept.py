"""What is kept equals what is computed, bitwise, whenever and in whatever batch it comes."""

import pytest
import torch
from torch import nn

from manzano.training.kept import Kept


class Counted(nn.Module):
    """A convolution that counts the pictures it is given."""

    def __init__(self):
        super().__init__()
        self.convolution, self.pictures = nn.Conv2d(3, 4, 3), 0

    def forward(self, pixels):
        self.pictures += len(pixels)
        return self.convolution(pixels)


@pytest.mark.parametrize(("limit", "computed"), [(100, 4), (2, 6), (0, 8)])
def test_kept_values_equal_computed_ones(limit, computed):
    function, pictures = Counted(), torch.randn(4, 3, 9, 9)
    alone = torch.cat([function(picture[None]) for picture in pictures])
    function.pictures = 0
    kept = Kept(function, limit)
    first, again = kept(pictures), kept(pictures.flip(0)).flip(0)
    if limit:
        assert torch.equal(first, alone)
        assert torch.equal(again, alone)
    torch.testing.assert_close(first, alone)
    assert function.pictures == computed


def test_pictures_are_told_apart_by_content():
    pictures = torch.zeros(3, 3, 9, 9)
    pictures[1, 2, 8, 8] = 1e-6
    kept = Kept(Counted(), 10)
    kept(pictures)
    assert len(kept.values) == 2


def test_pictures_of_the_same_bytes_and_another_shape_are_told_apart():
    kept = Kept(Counted(), 10)
    assert kept(torch.zeros(1, 3, 8, 18)).shape == (1, 4, 6, 16)
    assert kept(torch.zeros(1, 3, 12, 12)).shape == (1, 4, 10, 10)


def test_a_negative_limit_is_refused():
    with pytest.raises(ValueError, match="-1 values"):
        Kept(Counted(), -1)

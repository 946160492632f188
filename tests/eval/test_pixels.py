"""Distances of pictures, on pictures of which they are known."""

import pytest
import torch
from PIL import Image

from manzano.eval.pixels import pixels, psnr, psnr_floor


def test_psnr_is_that_of_a_constant_error():
    black = torch.zeros(2, 3, 4, 4)
    assert psnr(black + 0.1, black).tolist() == pytest.approx([20, 20], abs=1e-4)
    assert psnr(black, black).isposinf().all()


def test_psnr_floor_is_that_of_the_mean_colour():
    halves = torch.cat([torch.full((1, 3, 4, 2), 0.4), torch.full((1, 3, 4, 2), 0.6)], dim=3)
    assert psnr_floor(halves).tolist() == pytest.approx([20], abs=1e-4)


def test_psnr_refuses_two_shapes():
    with pytest.raises(ValueError, match="one shape"):
        psnr(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 8, 8))


def test_pixels_are_channels_first_between_zero_and_one():
    picture = Image.new("RGB", (4, 2), (255, 0, 51))
    assert pixels([picture, picture]).shape == (2, 3, 2, 4)
    assert pixels([picture])[0, :, 0, 0].tolist() == pytest.approx([1, 0, 0.2])
    with pytest.raises(ValueError, match="one size"):
        pixels([picture, picture.resize((2, 2))])

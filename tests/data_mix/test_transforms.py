"""Pictures are cropped in the middle, and stretched by less than a pixel."""

import pytest
import torch
from PIL import Image

from manzano.data_mix.transforms import (
    crop_to_shape,
    normalize_transform,
    pixel_transform,
    resize_transform,
)
from tests.tiny import drawing


@pytest.mark.parametrize("size", [(100, 100), (37, 90), (641, 480), (3, 700)])
@pytest.mark.parametrize("shape", [(16, 16), (32, 128), (448, 576)])
def test_a_crop_has_the_shape_asked_for_and_all_it_can_hold(size, shape):
    part = crop_to_shape(Image.new("RGB", size), *shape)
    exact = min(size[0] / shape[1], size[1] / shape[0])
    assert abs(part.width - exact * shape[1]) <= 0.5 or part.width == 1
    assert abs(part.height - exact * shape[0]) <= 0.5 or part.height == 1
    assert part.width == size[0] or part.height == size[1]


def test_a_crop_is_from_the_middle():
    image = drawing(2, (90, 40))
    assert crop_to_shape(image, 10, 10).tobytes() == image.crop((25, 0, 65, 40)).tobytes()
    assert crop_to_shape(image, 20, 45).tobytes() == image.tobytes()


def test_bytes_normalised_later_equal_pixels():
    """Bitwise: pictures wait for their batch as bytes."""
    images = [drawing(index, (61, 47)) for index in range(3)]
    later = normalize_transform()(torch.stack([resize_transform(48, 48)(i) for i in images]))
    assert torch.equal(later, torch.stack([pixel_transform(48)(i) for i in images]))

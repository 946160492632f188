"""Masks: what is hidden, what is kept, and what is refused."""

import numpy as np
import pytest
from PIL import Image

from manzano.data_mix.masks import GREY, extend, hide, keep, load_mask


@pytest.fixture
def picture() -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    return Image.fromarray(values)


@pytest.fixture
def mask() -> Image.Image:
    mask = Image.new("L", (30, 20), 0)
    mask.paste(255, (5, 4, 12, 9))
    return mask


def test_hidden_is_grey_inside_and_the_picture_outside(picture, mask):
    pixels, inside = np.asarray(hide(picture, mask)), np.asarray(mask) == 255
    assert (pixels[inside] == GREY).all()
    assert (pixels[~inside] == np.asarray(picture)[~inside]).all()


def test_kept_is_the_picture_outside_and_the_painting_inside(picture, mask):
    painted = Image.new("RGB", picture.size, "red")
    pixels, inside = np.asarray(keep(painted, picture, mask)), np.asarray(mask) == 255
    assert (pixels[inside] == (255, 0, 0)).all()
    assert (pixels[~inside] == np.asarray(picture)[~inside]).all()


def test_an_extended_picture_is_whole_in_the_middle_and_its_border_is_the_mask(picture):
    canvas, mask = extend(picture, 27, 41)
    assert canvas.size == mask.size == (41, 27)
    box = (5, 3, 35, 23)
    assert canvas.crop(box).tobytes() == picture.tobytes()
    assert mask.crop(box).getbbox() is None
    assert np.asarray(mask).mean() == pytest.approx(255 * (1 - 600 / (27 * 41)))
    assert hide(canvas, mask).tobytes() == canvas.tobytes()


def test_a_mask_is_read_as_black_and_white(mask):
    greys = mask.point(lambda value: 200 if value else 60)
    assert load_mask(greys, (30, 20)).tobytes() == mask.tobytes()
    holes = Image.new("RGBA", (30, 20), "black")
    holes.paste((0, 0, 0, 0), (5, 4, 12, 9))
    assert load_mask(holes, (30, 20)).tobytes() == mask.tobytes()


def test_a_mask_of_another_size_is_refused(mask):
    with pytest.raises(ValueError, match=r"30 x 20 pixels and its picture 20 x 30"):
        load_mask(mask, (20, 30))


def test_a_mask_without_white_is_refused():
    with pytest.raises(ValueError, match="nothing in the mask is white"):
        load_mask(Image.new("L", (4, 4)), (4, 4))


def test_a_canvas_smaller_than_its_picture_is_refused(picture):
    with pytest.raises(ValueError, match="cannot hold a picture of 20 x 30"):
        extend(picture, 19, 40)

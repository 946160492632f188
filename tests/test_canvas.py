"""The canvas of an edit: its size, and what is kept."""

import numpy as np
import pytest
from PIL import Image

from manzano.canvas import make_canvas


def picture(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


@pytest.mark.parametrize(
    ("size", "side", "painted"),
    [
        ((72, 72), 72, (72, 72)),  # the demo
        ((640, 480), 1024, (480, 640)),  # its own resolution
        ((4000, 3000), 1024, (880, 1184)),  # no more than was trained
        ((40, 30), 1024, (224, 288)),  # no less than the first rung
        ((1000, 1000), 2048, (992, 992)),
    ],
)
def test_a_picture_is_painted_at_its_own_shape_within_what_was_trained(size, side, painted):
    step = 12 if side == 72 else 16
    canvas = make_canvas(picture(*size), None, None, side=side, step=step)
    assert (canvas.height, canvas.width) == painted
    assert canvas.picture.size == canvas.finish(picture(*painted[::-1])).size == size


def test_an_asked_size_is_painted_as_it_is():
    canvas = make_canvas(picture(100, 50), None, (512, 1024), side=256, step=16)
    assert (canvas.height, canvas.width) == (512, 1024)
    assert canvas.mask is None and canvas.picture.size == (1024, 512)


def test_another_shape_holds_the_picture_and_paints_around_it_and_in_the_hole():
    mask = Image.new("L", (100, 50), 0)
    mask.paste(255, (10, 10, 20, 20))
    canvas = make_canvas(picture(100, 50), mask, (100, 100), side=256, step=4)
    white = np.asarray(canvas.mask) == 255
    expected = np.ones((100, 100), dtype=bool)
    expected[25:75] = np.asarray(mask) == 255
    assert (white == expected).all()
    kept = np.asarray(canvas.finish(Image.new("RGB", (100, 100), "red")))
    assert (kept[white] == (255, 0, 0)).all()
    assert (kept[25:75][~expected[25:75]] == np.asarray(picture(100, 50))[~expected[25:75]]).all()


def test_a_shape_that_differs_by_less_than_a_step_is_stretched():
    canvas = make_canvas(picture(100, 67), None, (34, 50), side=256, step=2)
    assert canvas.mask is None and canvas.picture.size == (50, 34)


@pytest.mark.parametrize("size", [(40_000, 500), (3, 40_000)])
def test_a_page_of_any_length_is_refused_with_the_limit(size):
    with pytest.raises(ValueError, match="at most 8 times the other; crop it"):
        make_canvas(Image.new("RGB", size), None, None, side=1024, step=16)


def test_a_thin_line_of_a_mask_survives_a_smaller_result():
    mask = Image.new("L", (1000, 1000), 0)
    mask.paste(255, (500, 0, 501, 1000))
    canvas = make_canvas(picture(1000, 1000), mask, (96, 96), side=96, step=8)
    white = np.asarray(canvas.mask) == 255
    assert white.any(axis=1).all() and white.sum(axis=1).max() <= 2


def test_a_result_of_too_many_pixels_is_refused_before_it_is_made():
    with pytest.raises(ValueError, match="100,000,000 pixels at most in all"):
        make_canvas(picture(10, 10), None, (20_000, 20_000), side=96, step=8)

"""Buckets: ratios, their pixels, and what does not fit."""

import math

import pytest

from manzano.data_mix.sizes import RATIOS, SQUARE, bucket_size, nearest_ratio


@pytest.mark.parametrize("ratio", RATIOS)
def test_a_picture_of_a_ratio_has_that_ratio(ratio):
    assert nearest_ratio(100 * ratio[0], 100 * ratio[1]) == ratio


def test_ratios_are_symmetric_and_in_order():
    assert {(w, h) for h, w in RATIOS} == set(RATIOS)
    assert sorted(RATIOS, key=lambda r: r[0] / r[1]) == list(RATIOS)


@pytest.mark.parametrize("side", [256, 512, 1024, 2048])
@pytest.mark.parametrize("ratio", RATIOS)
def test_all_buckets_of_a_side_have_its_area(ratio, side):
    height, width = bucket_size(ratio, side, 16)
    assert height % 16 == width % 16 == 0
    assert math.sqrt(height * width) == pytest.approx(side, rel=0.05)
    assert nearest_ratio(height, width) == ratio


def test_the_square_is_exact():
    assert bucket_size(SQUARE, 72, 12) == (72, 72)


def test_a_page_of_any_length_has_a_bucket():
    assert nearest_ratio(40_000, 10) == (4, 1)
    assert bucket_size((1, 4), 16, 16) == (16, 32)


def test_a_side_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="multiple of 16 pixels, got 250: take 240 or 256"):
        bucket_size(SQUARE, 250, 16)
    with pytest.raises(ValueError, match="got 10: take 16"):
        bucket_size(SQUARE, 10, 16)

"""The judge must be right on every true picture, sharp or as soft as a decoder draws it."""

import random

import numpy as np
import pytest
from PIL import Image, ImageFilter

from manzano.data_mix.sources import glyphs
from manzano.eval.glyph_judge import CHANCE, Glyph, GlyphJudge


@pytest.fixture(scope="module")
def judge() -> GlyphJudge:
    return GlyphJudge()


def true_pictures():
    rng = random.Random(0)
    for shape in glyphs.SHAPES:
        for colour in glyphs.COLOURS:
            for size in glyphs.SIZES:
                picture = glyphs.render(shape, colour, size, **glyphs.random_place(rng))
                yield Glyph(colour=colour, shape=shape, size=size), picture


def blurred(picture: Image.Image, sigma: float) -> Image.Image:
    return picture.filter(ImageFilter.GaussianBlur(sigma))


def noisy(picture: Image.Image, sigma: float) -> Image.Image:
    array = np.asarray(picture) + np.random.default_rng(0).normal(0, 255 * sigma, (72, 72, 3))
    return Image.fromarray(array.clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda picture: picture,
        lambda picture: blurred(picture, 1),
        lambda picture: blurred(picture, 2),
        lambda picture: noisy(picture, 0.05),
        lambda picture: noisy(blurred(picture, 1), 0.05),
        lambda picture: picture.resize((144, 144), Image.Resampling.BICUBIC),
    ],
    ids=["true", "blur 1", "blur 2", "noise .05", "blur 1 and noise .05", "twice the size"],
)
def test_judge_reads_every_colour_shape_and_size_on_every_background(judge, spoil):
    wrong = [
        (wanted, seen)
        for wanted, picture in true_pictures()
        if (seen := judge(spoil(picture))) != wanted
    ]
    assert wrong == []


def test_judge_sees_nothing_where_there_is_nothing(judge):
    assert judge(Image.new("RGB", (72, 72), (255, 238, 232))) is None


def test_judge_does_not_take_the_background_for_the_colour(judge):
    picture = glyphs.render("heart", "blue", "small", background=(255, 225, 225))
    assert judge(picture).colour == "blue"


def test_chance_is_one_over_the_number_of_words():
    assert CHANCE == {"colour": 1 / 8, "shape": 1 / 12, "size": 1 / 2}

"""An edit succeeds if what was asked for changed; what was not is measured apart."""

import pytest
import torch

from manzano.data_mix.sources import glyphs
from manzano.eval.editing import edit_success, kept_error, kept_mask
from manzano.eval.glyph_judge import Glyph, GlyphJudge
from manzano.eval.pixels import pixels

RED_HEART = Glyph(colour="red", shape="heart", size="small")
BLUE_HEART = Glyph(colour="blue", shape="heart", size="small")
BACKGROUND = (234, 250, 232)


def picture(glyph: Glyph):
    return glyphs.render(glyph.shape, glyph.colour, glyph.size, BACKGROUND, dx=1, dy=-2)


def test_the_target_is_a_success_and_the_copy_is_not():
    judge = GlyphJudge()
    seen = {glyph: judge(picture(glyph)) for glyph in (RED_HEART, BLUE_HEART)}
    assert edit_success(seen[BLUE_HEART], source=RED_HEART, target=BLUE_HEART)
    assert not edit_success(seen[RED_HEART], source=RED_HEART, target=BLUE_HEART)


def test_changing_something_else_as_well_is_no_success():
    star = Glyph(colour="blue", shape="star", size="small")
    assert not edit_success(star, source=RED_HEART, target=BLUE_HEART)
    assert not edit_success(None, source=RED_HEART, target=BLUE_HEART)


def test_an_edit_without_a_change_is_refused():
    with pytest.raises(ValueError, match="no change"):
        edit_success(RED_HEART, source=RED_HEART, target=RED_HEART)


def test_kept_mask_leaves_out_the_change_and_its_neighbours():
    source, target = torch.zeros(1, 3, 5, 5), torch.zeros(1, 3, 5, 5)
    target[0, 1, 2, 2] = 1
    kept = kept_mask(source, target)
    assert kept.sum() == 25 - 9
    assert not kept[0, 1:4, 1:4].any()


def test_copying_or_drawing_the_target_keeps_the_rest_exactly():
    source, target = pixels([picture(RED_HEART)]), pixels([picture(BLUE_HEART)])
    assert kept_error(source, source=source, target=target) == 0
    assert kept_error(target, source=source, target=target) == 0


def test_kept_error_is_the_error_outside_the_change_only():
    source, target = torch.full((2, 3, 6, 6), 0.5), torch.full((2, 3, 6, 6), 0.5)
    target[:, :, :2] = 1.0
    edited = source + 0.25
    edited[:, :, :2] = 0.0
    assert kept_error(edited, source=source, target=target) == pytest.approx(0.25)


def test_kept_error_without_a_kept_pixel_is_refused():
    zeros = torch.zeros(1, 3, 4, 4)
    with pytest.raises(ValueError, match="every pixel"):
        kept_error(zeros, source=zeros, target=zeros + 1)

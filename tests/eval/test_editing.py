"""An edit succeeds if what was asked for changed; what was not is measured apart."""

import pytest
import torch
from PIL import Image, ImageDraw, ImageFilter

from manzano.data_mix.sources import glyphs
from manzano.eval.editing import (
    edit_scores,
    edit_success,
    kept_error,
    kept_mask,
    region_error,
)
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


def test_region_error_is_the_mean_of_each_picture_inside_its_region():
    zeros = torch.zeros(2, 3, 4, 4)
    other = zeros.clone()
    other[0, :, 0] = 0.5
    other[1, 1] = 0.3
    region = torch.zeros(2, 4, 4, dtype=torch.bool)
    region[0, :2] = region[1, 3] = True
    assert region_error(zeros, other, region).tolist() == pytest.approx([0.25, 0.1])
    with pytest.raises(ValueError, match="Region 1 of 2 is empty"):
        region_error(zeros, other, torch.tensor([True, False])[:, None, None].expand(2, 4, 4))
    with pytest.raises(ValueError, match=r"\(2, 3, 4, 4\) and \(2, 4, 5\)"):
        region_error(zeros, other, torch.ones(2, 4, 5, dtype=torch.bool))


SOURCE, TARGET = picture(RED_HEART), picture(BLUE_HEART)
ROUND_TRIP = SOURCE.filter(ImageFilter.GaussianBlur(1)).point(lambda value: round(value * 0.98))


def mask_of(box: tuple[int, int, int, int]) -> Image.Image:
    mask = Image.new("L", SOURCE.size, 0)
    ImageDraw.Draw(mask).rectangle(box, fill=255)
    return mask


WHERE = mask_of((15, 12, 58, 56))


@pytest.mark.parametrize("region", [{"target": TARGET}, {"mask": WHERE}], ids=["target", "mask"])
def test_floors_are_the_copy_and_the_round_trip(region):
    scores = edit_scores(TARGET, SOURCE, round_trip=ROUND_TRIP, **region)
    assert scores["changed"] == 1
    assert scores["kept_error"] == 0
    assert scores["changed_error"] > 0.1
    assert scores["floor_changed"] == scores["floor_kept_error"] == 0
    assert scores["floor_changed_error"] == 0
    assert scores["vae_changed"] == 0
    assert scores["vae_kept_error"] > 0
    copied = edit_scores(SOURCE, SOURCE, round_trip=ROUND_TRIP, **region)
    assert copied["changed"] == copied["kept_error"] == 0


def test_with_a_target_the_change_has_to_lead_to_it():
    orange = picture(Glyph(colour="orange", shape="heart", size="small"))
    assert edit_scores(orange, SOURCE, round_trip=ROUND_TRIP, mask=WHERE)["changed"] == 1
    assert edit_scores(orange, SOURCE, round_trip=ROUND_TRIP, target=TARGET)["changed"] == 0
    both = edit_scores(TARGET, SOURCE, round_trip=ROUND_TRIP, target=TARGET, mask=WHERE)
    assert both["changed"] == 1


def test_what_changes_outside_the_mask_is_an_error():
    edited = Image.composite(Image.new("RGB", SOURCE.size, "black"), SOURCE, mask_of((0, 0, 71, 5)))
    scores = edit_scores(edited, SOURCE, round_trip=ROUND_TRIP, mask=WHERE)
    kept = 72 * 72 - 44 * 45
    expected = 72 * 6 / kept * sum(BACKGROUND) / 3 / 255
    assert scores["kept_error"] == pytest.approx(expected, rel=1e-5)
    assert scores["changed"] == scores["changed_error"] == 0


def test_an_edit_of_another_size_is_fitted_and_a_mask_of_another_size_refused():
    large = TARGET.resize((144, 144), Image.Resampling.NEAREST)
    assert edit_scores(large, SOURCE, round_trip=ROUND_TRIP, target=TARGET)["changed"] == 1
    with pytest.raises(ValueError, match=r"mask must have the source's size \(72, 72\), got"):
        edit_scores(TARGET, SOURCE, round_trip=ROUND_TRIP, mask=WHERE.resize((36, 36)))


@pytest.mark.parametrize(
    ("region", "message"),
    [
        ({}, "by its target or by a mask"),
        ({"target": SOURCE}, "Nothing of the picture is to change"),
        ({"mask": mask_of((0, 0, 71, 71))}, "no kept region"),
        ({"mask": Image.new("L", (72, 72))}, "nothing in the mask is white"),
    ],
    ids=["neither", "no change", "all", "black mask"],
)
def test_an_edit_that_cannot_be_scored_is_refused(region, message):
    with pytest.raises(ValueError, match=message):
        edit_scores(TARGET, SOURCE, round_trip=ROUND_TRIP, **region)

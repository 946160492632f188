"""The truth scores full marks, the trivial answer its floor; random weights run."""

from itertools import islice

import numpy as np
import pytest
from PIL import Image

from manzano.data_mix.build import EDITS, build_editing
from manzano.data_mix.sources import depth, inpainting, style
from manzano.eval.edit_kinds import depths, edit_kinds, error, fills, mean_fill, styles
from manzano.eval.glyph_judge import GlyphJudge
from manzano.pipeline import ManzanoPipeline


@pytest.fixture(scope="module")
def judge() -> GlyphJudge:
    return GlyphJudge()


def some(source, count: int = 24) -> list:
    return list(islice(source.samples("test", image_size=72, seed=0), count))


def test_an_error_is_the_mean_difference_of_all_pixels_or_of_the_hole():
    black, grey = Image.new("RGB", (4, 2)), Image.new("RGB", (4, 2), (51, 51, 51))
    half = Image.new("L", (4, 2))
    half.paste(255, (0, 0, 1, 2))
    assert error(black, grey) == pytest.approx(0.2)
    grey.paste((0, 0, 0), (1, 0, 4, 2))
    assert error(black, grey, half) == pytest.approx(0.2)


def test_the_true_pictures_are_right_and_without_error(judge):
    for source, measure in ((inpainting, fills), (style, styles), (depth, depths)):
        samples = some(source)
        targets = [sample.target for sample in samples]
        figures, correct = measure("kind", samples, targets, targets, judge)
        values = {figure.name: figure.value for figure in figures}
        assert all(correct)
        assert [name for name, v in values.items() if name.endswith("_error") and v != 0] == []
        assert [name for name, v in values.items() if not name.endswith("_error") and v != 1] == []


def test_the_trivial_answer_has_the_value_of_its_floor(judge):
    for source, measure, trivial in (
        (inpainting, fills, mean_fill),
        (style, styles, lambda sample: sample.images[0]),
    ):
        samples = some(source)
        made = [trivial(sample) for sample in samples]
        figures, _ = measure("kind", samples, made, [s.target for s in samples], judge)
        assert [figure.value for figure in figures] == [figure.floor for figure in figures]


def test_a_depth_map_of_one_grey_orders_nothing_and_an_inverted_one_all_wrongly(judge):
    samples = some(depth)
    targets = [sample.target for sample in samples]
    inverted = [style.negative(target) for target in targets]
    for made in ([Image.new("RGB", (72, 72), "gray")] * len(samples), inverted):
        (order, _), correct = depths("depth", samples, made, targets, judge)
        assert order.value == 0
        assert not any(correct)


def test_a_hole_is_filled_with_the_mean_of_the_rest_and_the_rest_kept():
    sample = some(inpainting, 1)[0]
    filled, hole = np.asarray(mean_fill(sample)), np.asarray(sample.mask) == 255
    left = np.asarray(sample.target)[~hole]
    assert (filled[~hole] == left).all()
    assert (filled[hole] == np.round(left.mean(axis=0))).all()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("edits")
    build_editing(folder, limit=6, workers=1, image_size=48)
    return folder


def test_every_kind_is_measured_with_a_real_pipeline(corpus, pipeline_folder, judge):
    pipeline = ManzanoPipeline.from_pretrained(pipeline_folder)
    figures, edits = edit_kinds(pipeline, corpus, judge, seed=0)
    assert set(edits) == {"inpainting", "outpainting", "style", "depth"}
    assert sum(map(len, edits.values())) == 6 * len(EDITS)
    names = {figure.name for figure in figures}
    assert {"inpainting_error", "outpainting_glyph", "style_rule", "depth_order"} <= names
    for edit in edits["inpainting"]:
        known = np.asarray(edit.source) != 127
        assert (np.asarray(edit.edited)[known] == np.asarray(edit.target)[known]).all()

import random
from collections import Counter
from itertools import islice

import numpy as np
import pytest

from manzano.data_mix.build import SOURCES, SPLITS
from manzano.data_mix.schema import sample_faults
from manzano.data_mix.sources import charts, drawing, easy_vqa, glyphs, reading

SIZE = 48


@pytest.fixture(scope="module")
def samples():
    """Everything, drawn small: {source: {split: samples}}."""
    return {
        name: {split: list(source.samples(split, image_size=SIZE, seed=0)) for split in SPLITS}
        for name, source in SOURCES.items()
    }


def test_no_concept_of_the_test_is_in_training_of_any_source(samples):
    concepts = {
        split: {sample.concept for source in samples.values() for sample in source[split]}
        for split in SPLITS
    }
    assert concepts["train"] & concepts["test"] == set()


def test_every_sample_obeys_the_schema_and_has_its_own_key(samples):
    every = [s for source in samples.values() for split in SPLITS for s in source[split]]
    assert [fault for sample in every for fault in sample_faults(sample)] == []
    assert len({sample.key for sample in every}) == len(every)


def test_no_training_passage_or_word_is_in_the_test(samples):
    for name in ("prose", "reading"):
        texts = [{s.turns[-1].text for s in samples[name][split]} for split in SPLITS]
        assert texts[0] & texts[1] == set()


def test_every_question_has_a_kind(samples):
    for source in samples.values():
        for sample in source["train"]:
            if sample.task == "understanding":
                assert len(sample.extra["kinds"]) == len(sample.pairs())


@pytest.mark.parametrize("name", ["charts", "glyph_questions"])
def test_answers_are_balanced(samples, name):
    """The most frequent answer to a kind of question is not much above the even share."""
    answers: dict[str, Counter] = {}
    for sample in samples[name]["train"]:
        for kind, (_, answer) in zip(sample.extra["kinds"], sample.pairs(), strict=True):
            answers.setdefault(kind, Counter())[answer] += 1
    for counts in answers.values():
        assert max(counts.values()) < 1.6 * counts.total() / len(counts)


def test_every_colour_and_shape_is_seen_in_training_and_asked_for_in_the_test():
    train = [Counter(part) for part in zip(*glyphs.concepts("train"), strict=True)]
    test = [Counter(part) for part in zip(*glyphs.concepts("test"), strict=True)]
    assert all(min(counts.values()) >= 4 for counts in train)
    assert [set(counts) for counts in test] == [set(glyphs.COLOURS), set(glyphs.SHAPES)]
    assert 0.15 < len(glyphs.concepts("test")) / 96 < 0.25


@pytest.mark.parametrize("shape", glyphs.SHAPES)
def test_a_glyph_is_its_colour_with_a_black_outline_of_its_size(shape):
    for size, fraction in glyphs.SIZES.items():
        picture = np.asarray(glyphs.render(shape, "purple", size))
        rows, columns = np.nonzero((picture != 255).any(axis=-1))
        extent = max(np.ptp(rows), np.ptp(columns)) + 1
        assert abs(extent - fraction * 72) <= 1
    filled = (picture == glyphs.COLOURS["purple"]).all(axis=-1)
    dark = (picture < 60).all(axis=-1)
    assert filled.sum() > 60
    assert dark.sum() > 50


def test_an_offset_moves_a_glyph_and_changes_nothing_else():
    still = np.asarray(glyphs.render("star", "red", "small"))
    moved = np.asarray(glyphs.render("star", "red", "small", dx=2, dy=-1))
    assert (np.roll(still, (-1, 2), axis=(0, 1)) == moved).all()


def test_an_edit_changes_what_it_says_and_keeps_the_background(samples):
    for sample in islice(samples["editing"]["train"], 300):
        edit = sample.extra["edit"]
        changed = {name for name in edit["from"] if edit["from"][name] != edit["to"][name]}
        assert changed == {
            {"recolour": "colour", "reshape": "shape", "resize": "size"}[edit["kind"]]
        }
        corners = {sample.images[0].getpixel((0, 0)), sample.target.getpixel((0, 0))}
        assert corners == {tuple(edit["background"])}
        assert sample.turns[1].text == glyphs.describe(**edit["to"])


def test_the_reference_of_a_test_edit_shows_a_training_concept_unless_only_resized(samples):
    for sample in samples["editing"]["test"]:
        edit = sample.extra["edit"]
        assert glyphs.concept_split(edit["to"]["colour"], edit["to"]["shape"]) == "test"
        if edit["kind"] != "resize":
            assert glyphs.concept_split(edit["from"]["colour"], edit["from"]["shape"]) == "train"
        assert edit["from"]["colour"] in glyphs.COLOURS


def test_more_colours_are_in_training_and_in_no_test(samples):
    for name in ("drawing", "editing", "glyph_questions"):
        colours = {
            split: {sample.concept.split()[0] for sample in samples[name][split]}
            for split in SPLITS
        }
        assert colours["test"] == {f"glyph/{colour}" for colour in glyphs.COLOURS}
        more = {f"glyph/{colour}" for colour in glyphs.MORE_COLOURS}
        assert colours["train"] == colours["test"] | more


def test_every_concept_is_drawn_about_equally_often(samples):
    counts = Counter(sample.caption for sample in samples["drawing"]["train"])
    assert max(counts.values()) - min(counts.values()) <= 1
    prompts = {sample.turns[0].text for sample in samples["drawing"]["test"]}
    assert prompts == {drawing.TEMPLATES[0].format(s.caption) for s in samples["drawing"]["test"]}


@pytest.mark.parametrize(
    ("pairs", "caption"),
    [
        ([("what color is the circle?", "red")], "a red circle"),
        ([("what shape is present?", "circle"), ("is there a red shape?", "no")], "a circle"),
        ([("is there not a teal shape?", "no")], "a teal shape"),
        ([("is there not a teal shape?", "yes")], ""),
        ([("does the image contain a triangle?", "yes")], "a triangle"),
    ],
)
def test_a_caption_says_what_the_questions_tell(pairs, caption):
    assert easy_vqa.caption(pairs) == caption


def test_the_published_split_of_easy_vqa_is_kept(samples):
    assert [len(samples["easy_vqa"][split]) for split in SPLITS] == [4000, 1000]
    pairs = [sum(len(s.pairs()) for s in samples["easy_vqa"][split]) for split in SPLITS]
    assert pairs == [38575, 9673]


def test_the_answers_on_a_bar_chart_follow_from_its_heights():
    rng = random.Random(0)
    pairs, kinds = charts.bar_questions([2.0, 8.0, 5.0], ["red", "blue", "pink"], "yes", rng)
    answers = dict(zip(kinds, [answer for _, answer in pairs], strict=True))
    assert answers == {
        "count": "3", "tallest": "blue", "shortest": "red", "compare": "yes", "value": "8",
    }  # fmt: skip


def test_a_bar_is_as_tall_as_its_value():
    picture = np.asarray(charts.draw_bars([10.0, 5.0], ["red", "blue"], 72)).astype(int)
    extents = []
    for colour in ("red", "blue"):
        rows = np.nonzero((np.abs(picture - glyphs.COLOURS[colour]).sum(axis=-1) < 30).any(axis=1))
        extents.append(np.ptp(rows))
    assert abs(extents[0] - 2 * extents[1]) <= 3


def test_reading_shows_short_strings_of_capitals_half_of_them_words(samples):
    words = set(reading.real_words())
    texts = [sample.turns[1].text for sample in samples["reading"]["train"]]
    assert all(3 <= len(text) <= 5 and text.isascii() and text.isupper() for text in texts)
    assert 0.5 <= sum(text in words for text in texts) / len(texts) < 0.6
    assert all(sample.turns[1].text in words for sample in samples["reading"]["test"])


def test_no_letter_is_cut_off(samples):
    for sample in islice(samples["reading"]["train"], 500):
        picture = np.asarray(sample.images[0]).astype(int)
        edge = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
        assert np.abs(edge - picture[0, 0]).max() == 0

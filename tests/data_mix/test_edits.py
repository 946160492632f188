"""Inpainting, outpainting, style and depth: the target follows from the reference, or is exact."""

import random
from collections import Counter
from itertools import islice

import numpy as np
import pytest
from PIL import Image

from manzano.data_mix import holes
from manzano.data_mix.build import EDITS
from manzano.data_mix.schema import sample_faults
from manzano.data_mix.sources import depth, glyphs, inpainting, style

SIZE = 48


@pytest.fixture(scope="module")
def samples():
    """All test samples, drawn small."""
    return {
        name: list(source.samples("test", image_size=SIZE, seed=0))
        for name, source in EDITS.items()
    }


@pytest.mark.parametrize("draw", [holes.random_box, holes.random_strokes, holes.random_border])
def test_a_random_mask_hides_a_part_and_not_the_whole(draw):
    for seed in range(200):
        mask = np.asarray(draw((60, 40), random.Random(seed)))
        assert mask.shape == (40, 60)
        assert set(np.unique(mask)) == {0, 255}
        assert 0.005 < (mask == 255).mean() < 0.8


def test_the_same_seed_draws_the_same_mask():
    masks = [holes.random_hole((60, 40), random.Random(seed)).tobytes() for seed in (1, 1, 2)]
    assert masks[0] == masks[1] != masks[2]


def test_the_reference_is_the_target_outside_the_mask_and_grey_inside(samples):
    kinds = Counter(sample.extra["kind"] for sample in samples["inpainting"])
    assert set(kinds) == {"inpainting", "outpainting"}
    assert len(set(kinds.values())) == 1
    for sample in samples["inpainting"]:
        hidden = np.asarray(sample.mask) == 255
        reference, target = (np.asarray(p) for p in (sample.images[0], sample.target))
        assert (reference[hidden] == 127).all()
        assert (reference[~hidden] == target[~hidden]).all()


def test_half_of_the_instructions_say_what_is_missing(samples):
    told = [sample.caption in sample.turns[0].text for sample in samples["inpainting"]]
    assert 0.35 < sum(told) / len(told) < 0.65


def test_any_picture_is_an_example():
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    sample = inpainting.example(
        Image.fromarray(noise), "outpainting", random.Random(0),
        key="mine", source="mine", licence="mine", concept="mine", extra={"page": 3},
    )  # fmt: skip
    assert [turn.role for turn in sample.turns] == ["user"]
    assert sample.target.tobytes() == noise.tobytes()
    assert sample.extra == {"kind": "outpainting", "page": 3}


def test_a_style_is_its_rule_applied_to_the_reference(samples):
    counts = Counter(sample.extra["style"] for sample in samples["style"])
    assert set(counts) == set(style.RULES)
    assert len(set(counts.values())) == 1
    for sample in samples["style"]:
        rule = style.RULES[sample.extra["style"]]
        assert sample.target.tobytes() == rule(sample.images[0]).tobytes()


def test_samples_obey_the_schema_and_show_concepts_of_their_split(samples):
    for name, source in EDITS.items():
        train = list(islice(source.samples("train", image_size=SIZE, seed=0), 100))
        both = {"train": train, "test": samples[name]}
        for split, found in both.items():
            assert [fault for sample in found for fault in sample_faults(sample)] == []
            pairs = {tuple(sample.concept.removeprefix("glyph/").split()) for sample in found}
            held_out = pairs & set(glyphs.concepts("test"))
            assert name == "depth" or held_out == (pairs if split == "test" else set())


def test_styles_look_different_from_each_other_and_from_the_reference():
    picture = glyphs.render("star", "red", "large", (255, 248, 220))
    every = [picture, *(rule(picture) for rule in style.RULES.values())]
    pixels = [np.asarray(image).astype(int) for image in every]
    distances = [np.abs(a - b).mean() for i, a in enumerate(pixels) for b in pixels[:i]]
    assert min(distances) > 10


def test_the_nearer_shape_is_larger_brighter_and_in_front(samples):
    for sample in samples["depth"]:
        scene = sample.extra["scene"]
        sizes = [item["diameter"] for item in scene]
        assert sizes == sorted(sizes)
        assert min(b - a for a, b in zip(sizes, sizes[1:], strict=False)) > 1 / 12
        where = np.asarray(depth.regions(scene, SIZE))
        shown, seen = np.asarray(sample.target), np.asarray(sample.images[0])
        assert (shown[where == 0] == 0).all()
        for number, item in enumerate(scene, start=1):
            assert (shown[where == number] == depth.grey(item["diameter"])).all()
            assert (seen[where == number] == glyphs.COLOURS[item["colour"]]).all()
            assert (where == number).mean() > 0.01
        whole = depth.regions(scene[-1:], SIZE)
        assert (where[np.asarray(whole) == 1] == len(scene)).all()


def test_no_scene_of_the_test_is_in_training(samples):
    train = islice(depth.samples("train", image_size=SIZE, seed=0), 300)
    assert not {str(s.extra) for s in train} & {str(s.extra) for s in samples["depth"]}

"""True pictures are judged right, and pictures that break any one thing asked for wrong."""

import json
import random
from collections import Counter

import pytest
from PIL import Image, ImageFilter

from manzano.data_mix.sources import glyphs
from manzano.eval.concepts import (
    POSITIONS,
    concept_prompts,
    judge,
    shuffled,
    tag_scores,
    true_picture,
)
from manzano.eval.glyph_judge import GlyphJudge

PROMPTS = concept_prompts()
TAGS = ["single_object", "two_object", "counting", "colors", "position", "color_attr"]


def first(tag: str) -> dict:
    return next(prompt for prompt in PROMPTS if prompt["tag"] == tag)


def changed(prompt: dict, place: int, **values) -> dict:
    """The prompt with another value in one of its objects."""
    include = [dict(item) for item in prompt["include"]]
    include[place].update(values)
    return {**prompt, "include": include}


def another(words, own: str) -> str:
    return random.Random(own).choice([word for word in words if word != own])


def test_prompts_are_the_same_for_a_seed_and_differ_between_seeds():
    assert concept_prompts(0) == PROMPTS
    assert concept_prompts(1) != PROMPTS
    assert Counter(prompt["tag"] for prompt in PROMPTS) == dict.fromkeys(TAGS, 20) | {
        "single_object": 12
    }
    texts = [prompt["prompt"] for prompt in PROMPTS]
    assert len(set(texts)) == len(texts) == 112


def test_prompts_have_the_form_of_geneval():
    assert json.loads(json.dumps(PROMPTS)) == PROMPTS
    by_text = {prompt["prompt"]: prompt for seed in range(40) for prompt in concept_prompts(seed)}
    assert by_text["Draw two fish."] == {
        "tag": "counting",
        "include": [{"class": "fish", "count": 2}],
        "exclude": [{"class": "fish", "count": 3}],
        "prompt": "Draw two fish.",
    }
    assert by_text["Draw an orange boot."] == {
        "tag": "colors",
        "include": [{"class": "boot", "count": 1, "color": "orange"}],
        "prompt": "Draw an orange boot.",
    }
    position = next(prompt for prompt in PROMPTS if prompt["tag"] == "position")
    below, above = position["include"]
    relation, target = above["position"]
    words = f"Draw a {above['class']} {relation} a {below['class']}."
    assert (position["prompt"], target) == (words, 0)


def test_no_pair_of_colour_and_shape_asked_for_is_in_training():
    asked = {
        (item["color"], item["class"])
        for prompt in PROMPTS
        for item in prompt["include"]
        if "color" in item
    }
    assert asked == set(glyphs.concepts("test"))


@pytest.mark.parametrize(("blur", "image_size"), [(0, 72), (1, 72), (0, 144)])
def test_true_pictures_are_judged_right(blur, image_size):
    wrong = []
    for prompt in PROMPTS:
        picture = true_picture(prompt, seed=blur, image_size=image_size)
        result = judge(picture.filter(ImageFilter.GaussianBlur(blur)), prompt)
        if not result["correct"]:
            wrong.append(result)
    assert wrong == []


def wrong_prompts() -> list[tuple[dict, dict]]:
    """(asked, shown): pictures of the second break exactly one thing of the first."""
    pairs = []
    for asked in PROMPTS:
        for place, item in enumerate(asked["include"]):
            taken = {other["class"] for other in asked["include"]}
            shape = another([s for s in glyphs.SHAPES if s not in taken], item["class"])
            pairs.append((asked, changed(asked, place, **{"class": shape})))
            if "color" in item:
                colour = another(glyphs.COLOURS, item["color"])
                pairs.append((asked, changed(asked, place, color=colour)))
            if "position" in item:
                relation = another(POSITIONS, item["position"][0])
                pairs.append((asked, changed(asked, place, position=[relation, 0])))
            if asked["tag"] == "counting":
                for number in {1, 2, 3, 4} - {item["count"]}:
                    pairs.append((asked, changed(asked, place, count=number)))
        if len(asked["include"]) == 2:
            pairs.append((asked, {**asked, "include": asked["include"][:1]}))
    return pairs


def test_pictures_that_break_one_thing_are_judged_wrong():
    pairs = wrong_prompts()
    right = [
        (asked["prompt"], shown)
        for asked, shown in pairs
        if judge(true_picture(shown), asked)["correct"]
    ]
    assert len(pairs) > 350
    assert right == []


def test_swapped_colours_and_swapped_places_are_wrong():
    for tag, key in {"color_attr": "color", "position": "class"}.items():
        for asked in (prompt for prompt in PROMPTS if prompt["tag"] == tag):
            a, b = asked["include"]
            shown = {**asked, "include": [{**a, key: b[key]}, {**b, key: a[key]}]}
            assert not judge(true_picture(shown), asked)["correct"], asked["prompt"]


def test_a_result_has_the_fields_of_geneval_and_says_what_is_wrong():
    asked = first("color_attr")
    a, b = asked["include"]
    result = judge(true_picture(changed(asked, 0, color="yellow")), asked)
    assert list(result) == ["tag", "prompt", "correct", "reason", "metadata", "details"]
    assert result["correct"] is False
    assert result["reason"] == f"expected {a['color']} {a['class']}>=1, found yellow"
    assert json.loads(result["metadata"]) == asked
    boxes = json.loads(result["details"])
    assert {shape: len(found) for shape, found in boxes.items()} == {a["class"]: 1, b["class"]: 1}
    right = judge(true_picture(asked), asked)
    assert (right["correct"], right["reason"]) == (True, "")


def test_nothing_in_the_picture_is_wrong():
    blank = Image.new("RGB", (72, 72), (255, 248, 220))
    results = [judge(blank, prompt) for prompt in PROMPTS]
    assert not any(result["correct"] for result in results)
    assert judge(blank, first("position"))["reason"].count("found 0") == 2


def test_more_than_asked_for_is_a_fault_only_where_it_is_excluded():
    four = {"tag": "counting", "include": [{"class": "moon", "count": 4}], "prompt": "four"}
    picture = true_picture(four)
    assert judge(picture, {**four, "include": [{"class": "moon", "count": 1}]})["correct"]
    excluded = judge(picture, {**four, "exclude": [{"class": "moon", "count": 3}]})
    assert (excluded["correct"], excluded["reason"]) == (False, "expected moon<3, found 4")


def test_the_floor_of_shuffled_prompts_is_near_zero():
    others = [other for other in shuffled(PROMPTS) if other]
    assert [prompt["tag"] for prompt in others] == [prompt["tag"] for prompt in PROMPTS]
    assert not any(a == b for a, b in zip(others, PROMPTS, strict=True))
    floor = [judge(true_picture(a), b) for a, b in zip(PROMPTS, others, strict=True)]
    assert tag_scores(floor)["overall"] < 0.05


def test_no_prompt_is_its_own_floor():
    one, two, other = PROMPTS[0], PROMPTS[1], PROMPTS[-1]
    assert one["tag"] == two["tag"] != other["tag"]
    assert shuffled([one, one, two, other]) == [two, two, one, None]


def test_overall_is_the_mean_of_the_tags():
    results = [{"tag": "colors", "correct": True}] * 3 + [{"tag": "position", "correct": False}]
    assert tag_scores(results) == {"colors": 1.0, "position": 0.0, "overall": 0.5}


def test_find_gives_the_largest_first_with_its_box():
    picture = Image.new("RGB", (144, 144), "white")
    picture.paste(glyphs.render("bell", "green", "small"), (0, 72))
    picture.paste(glyphs.render("heart", "red", "large"), (72, 0))
    large, small = GlyphJudge().find(picture)
    assert (large.colour, large.shape) == ("red", "heart")
    assert (small.colour, small.shape) == ("green", "bell")
    assert large.right - large.left == pytest.approx(55, abs=2)
    assert (small.top + small.bottom) / 2 == pytest.approx(108, abs=2)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ({"tag": "a", "include": [{"class": "bench", "count": 1}], "prompt": "a bench"}, "'bench'"),
        (
            {"tag": "a", "include": [{"class": "bell", "count": 1, "color": "teal"}], "prompt": ""},
            "the color 'teal'",
        ),
        ({"prompt_id": 1, "Prompt": "a cake"}, "no prompt of GenEval's format"),
    ],
    ids=["class", "colour", "another benchmark"],
)
def test_prompts_of_another_kind_are_refused(prompt, message):
    with pytest.raises(ValueError, match=message):
        judge(Image.new("RGB", (72, 72)), prompt)


def test_more_objects_than_places_are_refused():
    five = {"tag": "counting", "include": [{"class": "moon", "count": 5}], "prompt": "five moons"}
    with pytest.raises(ValueError, match="'five moons' asks for more than 4"):
        true_picture(five)

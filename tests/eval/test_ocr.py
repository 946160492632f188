"""Two engines read drawn words offline; the scores are held against examples worked out by hand."""

import random
import socket
import sys

import pytest
from PIL import Image, ImageDraw, ImageFont

from manzano.data_mix.sources import reading
from manzano.eval.floors import others
from manzano.eval.ocr import (
    ENGINES,
    agreed_word_accuracy,
    character_similarity,
    oneig_text_score,
    read_text,
    text_scores,
    word_accuracy,
)

WORDS = ["HOUSE", "JAZZ", "MILK"]


@pytest.fixture
def offline(monkeypatch):
    """Whatever opens a connection fails, and engines are loaded anew."""

    def refuse(*_):
        raise AssertionError("an OCR engine opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for load in ENGINES.values():
        load.cache_clear()


def sign(words: dict[tuple[int, int], str]) -> Image.Image:
    picture = Image.new("RGB", (400, 300), (255, 248, 220))
    for place, word in words.items():
        font = ImageFont.load_default(32)
        ImageDraw.Draw(picture).text(place, word, font=font, fill=(120, 16, 24))
    return picture


def blank() -> Image.Image:
    return Image.new("L", (90, 40), 200)


@pytest.mark.parametrize("engine", ENGINES)
def test_engines_read_words_in_order_whatever_the_size_and_without_a_network(engine, offline):
    rng = random.Random(0)
    small = [reading.draw_text(word, 72, rng) for word in WORDS]
    rows = {(20, 30): "north", (250, 34): "second", (30, 200): "third"}
    assert read_text([*small, sign(rows), blank()], engine) == [*WORDS, "north second third", ""]


def test_an_engine_that_is_not_installed_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "rapidocr", None)
    ENGINES["rapidocr"].cache_clear()
    with pytest.raises(ValueError, match=r"'rapidocr'.*pip install manzano\[judges\]"):
        read_text([blank()], "rapidocr")


def test_an_unknown_engine_is_refused():
    with pytest.raises(ValueError, match=r"\['easyocr', 'rapidocr'\], got 'tesseract'"):
        read_text([blank()], "tesseract")


def test_word_accuracy_counts_words_as_often_as_they_are_wanted():
    assert word_accuracy("fresh BREAD!", "Fresh bread") == 1
    assert word_accuracy("bread fresh daily", "Fresh bread") == 1
    assert word_accuracy("one fish", "fish fish") == 0.5
    assert word_accuracy("", "fish") == 0
    with pytest.raises(ValueError, match="no word to look for in '!!'"):
        word_accuracy("fish", "!!")


def test_a_word_is_agreed_if_both_engines_read_it():
    assert agreed_word_accuracy(["fresh bread", "fresh broad"], "Fresh bread") == 0.5
    assert agreed_word_accuracy(["fresh", "bread"], "Fresh bread") == 0
    assert agreed_word_accuracy(["fish fish", "fish"], "fish fish") == 0.5


def test_character_similarity_is_one_less_the_normalised_edit_distance():
    assert character_similarity("Fresh  Bread", "fresh bread") == 1
    assert character_similarity("bread", "broad") == 1 - 1 / 5
    assert character_similarity("", "bread") == 0
    assert character_similarity("", "") == 1


def test_oneig_score_is_the_formula_of_the_paper():
    assert oneig_text_score(["Fresh bread!"], ["Fresh, bread"]) == 1
    # Distances 0, 1 and 6; one of three complete; three of four words.
    reads, wanted = ["Open", "fresh bread", ""], ["Open", "Fresh bread", "Closed"]
    expected = 1 - (7 / 3) * (1 - 1 / 3) * (1 - 2 / 4) / 100
    assert oneig_text_score(reads, wanted) == pytest.approx(expected, abs=1e-12)
    assert oneig_text_score(["x" * 500], ["word"]) == 0
    with pytest.raises(ValueError, match="got 1 read and 2 asked for"):
        oneig_text_score(["a"], ["a", "b"])


def test_the_floor_is_the_reading_against_another_text():
    reads = {"rapidocr": ["OPEN", "JAZZ", "CLOSED"], "easyocr": ["OPEN", "JAZZ", "CL0SED"]}
    rows = text_scores(reads, ["OPEN", "JAZZ", "CLOSED"])
    assert [row["agreed_words"] for row in rows] == [1, 1, 0]
    assert [row["rapidocr_words"] for row in rows] == [1, 1, 1]
    assert [row["easyocr_words"] for row in rows] == [1, 1, 0]
    assert rows[2]["easyocr_similarity"] == 1 - 1 / 6
    assert [row["floor_agreed_words"] for row in rows] == [0, 0, 0]
    assert rows[0]["floor_rapidocr_similarity"] == character_similarity("OPEN", "JAZZ")


def test_as_many_readings_as_texts_are_needed():
    with pytest.raises(ValueError, match="easyocr read 1 pictures, and there are 2 texts"):
        text_scores({"easyocr": ["a"]}, ["a", "b"])


def test_the_other_text_differs_and_is_none_if_all_are_the_same():
    assert others(["a", "a", "b"]) == ["b", "b", "a"]
    assert others(["a", "a"]) == [None, None]
    assert "floor_agreed_words" not in text_scores({"rapidocr": ["a"]}, ["a"])[0]

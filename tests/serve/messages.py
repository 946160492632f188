"""Messages and pictures as clients send them."""

import base64
import io
from typing import Any

from PIL import Image


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def data_url(data: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def part(content: str | Image.Image | bytes) -> dict[str, Any]:
    if isinstance(content, str):
        return {"type": "text", "text": content}
    data = content if isinstance(content, bytes) else encoded(content)
    return {"type": "image_url", "image_url": {"url": data_url(data)}}


def user(*contents: str | Image.Image | bytes) -> Any:
    """A conversation of one message."""
    return [{"role": "user", "content": [part(content) for content in contents]}]

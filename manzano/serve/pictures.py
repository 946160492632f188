"""`/v1/images/generations` and `/v1/images/edits`."""

import base64
import io
import re
import secrets
import time
from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response
from PIL import Image, ImageOps
from pydantic import Field
from starlette.datastructures import FormData

from manzano.serve.batching import Job, Worker
from manzano.serve.engine import Drawing
from manzano.serve.errors import RequestError
from manzano.serve.fields import MAX_PIXELS, OpenAIRequest, PictureReader, check_model
from manzano.serve.waiting import results

FILES = ("image", "image[]", "mask")


class PictureRequest(OpenAIRequest):
    """Fields of drawings and edits."""

    prompt: str
    model: str | None = None
    n: Annotated[int, Field(ge=1, le=10)] | None = None
    size: str | None = None
    seed: Annotated[int, Field(ge=0, lt=2**62)] | None = None

    def tasks(self, **pictures: Image.Image | None) -> list[Drawing]:
        """A task for each of `n` pictures: those of a seed have it, the next one, and so on."""
        height_width = read_size(self.size)
        first = secrets.randbelow(2**32) if self.seed is None else self.seed
        return [
            Drawing(self.prompt, height_width, first + place, **pictures)
            for place in range(self.n or 1)
        ]


def read_size(size: str | None) -> tuple[int | None, int | None]:
    """ "WIDTHxHEIGHT" -> height and width; None is the model's own, or that of the picture."""
    if size is None or size == "auto":
        return None, None
    found = re.fullmatch(r"(\d{1,6})x(\d{1,6})", size)
    if found is None:
        raise RequestError(
            f'size is "auto" or WIDTHxHEIGHT, e.g. "512x256", got {size!r}', param="size"
        )
    width, height = int(found[1]), int(found[2])
    if width * height > MAX_PIXELS:
        raise RequestError(f"size: {size} is more than {MAX_PIXELS:,} pixels", param="size")
    return height, width


def picture_router(worker: Worker, name: str) -> APIRouter:
    router = APIRouter()

    @router.post("/v1/images/generations")
    async def generate(body: PictureRequest, request: Request) -> Response:
        check_model(body.model, name)
        body.check_extra()
        return await drawn(request, body.tasks())

    @router.post("/v1/images/edits")
    async def edit(request: Request) -> Response:
        async with request.form() as form:
            body = PictureRequest.model_validate({k: form[k] for k in form if k not in FILES})
            check_model(body.model, name)
            body.check_extra()
            worker.check_room(body.n or 1)
            image, mask = await one_file(form, "image"), await one_file(form, "mask")
        if image is None:
            raise RequestError("there is no image to edit: send the file `image`", param="image")
        pictures = await run_in_threadpool(read_pictures, image, mask)
        return await drawn(request, body.tasks(**pictures))

    async def drawn(request: Request, tasks: Sequence[Drawing]) -> Response:
        pictures = await results(request, worker, [Job(task, task.key) for task in tasks])
        data = [{"b64_json": await run_in_threadpool(png, picture)} for picture in pictures]
        return JSONResponse({"created": int(time.time()), "data": data, "output_format": "png"})

    return router


async def one_file(form: FormData, name: str) -> bytes | None:
    """A file's bytes.

    Raises:
        RequestError: for several, which no edit takes, and for what is no file.
    """
    found = [*form.getlist(name), *form.getlist(f"{name}[]")]
    if len(found) > 1:
        raise RequestError(f"an edit takes one {name}, got {len(found)}", param=name)
    if not found:
        return None
    if isinstance(found[0], str):
        raise RequestError(f"{name} must be sent as a file", param=name)
    return await found[0].read()


def read_pictures(image: bytes, mask: bytes | None) -> dict[str, Image.Image | None]:
    """The picture and its mask, whose transparent pixels are painted anew, as OpenAI has it.

    Returns:
        `image` RGB, `mask` mode "L", white where it is transparent.

    Raises:
        RequestError: for what cannot be read, and for a mask of another size or without
            transparency.
    """
    reader = PictureReader()
    picture = reader.read(image, "image")
    if mask is None:
        return {"image": picture, "mask": None}
    size = reader.read(mask, "mask").size
    if size != picture.size:
        raise RequestError(
            f"the mask has {size[0]} x {size[1]} pixels and the image {picture.width} x "
            f"{picture.height}: give a mask of the image's size", param="mask",
        )  # fmt: skip
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(mask)))
    white = upright.convert("RGBA").getchannel("A").point([255] + [0] * 255)
    if white.getbbox() is None:
        raise RequestError(
            "nothing in the mask is transparent: transparent (alpha 0) is what is painted anew",
            param="mask",
        )
    return {"image": picture, "mask": white}


def png(picture: Image.Image) -> str:
    """Base64 of a PNG."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()

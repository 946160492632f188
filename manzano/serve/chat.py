"""`/v1/chat/completions`: conversations with pictures, whole answers or streams of pieces."""

import json
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, Field, field_validator

from manzano.answering import Answer, AnswerSettings, Message
from manzano.serve.batching import Job, Worker
from manzano.serve.engine import Chat, Engine
from manzano.serve.errors import RequestError, error_body
from manzano.serve.fields import OpenAIRequest, PictureReader, check_model, read_data_url
from manzano.serve.waiting import Heard, results


class TextPart(BaseModel):
    type: Literal["text"]
    text: str


class ImageURL(BaseModel):
    url: str


class ImagePart(BaseModel):
    type: Literal["image_url"]
    image_url: ImageURL


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class ChatMessage(BaseModel):
    role: Literal["system", "developer", "user", "assistant"]
    content: list[Part]

    @field_validator("content", mode="before")
    @classmethod
    def _text_is_a_part(cls, content: Any) -> Any:
        return [{"type": "text", "text": content}] if isinstance(content, str) else content


class StreamOptions(BaseModel):
    include_usage: bool = False


class ChatRequest(OpenAIRequest):
    model: str
    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: Annotated[int, Field(ge=0, lt=2**62)] | None = None
    stop: str | list[str] | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None


def chat_router(engine: Engine, worker: Worker, name: str) -> APIRouter:
    router = APIRouter()

    @router.post("/v1/chat/completions")
    async def chat(body: ChatRequest, request: Request) -> Response:
        check_model(body.model, name)
        body.check_extra()
        worker.check_room(body.n or 1)
        every = each_settings(body, room=engine.processor.max_length)
        turns = await run_in_threadpool(read_conversation, body.messages)
        tasks = [Chat(turns, settings) for settings in every]
        head = {
            "id": f"chatcmpl-{uuid.uuid4().hex}", "object": "chat.completion",
            "created": int(time.time()), "model": name,
        }  # fmt: skip
        if not body.stream:
            said = await results(request, worker, [Job(task, task.key) for task in tasks])
            choices = [whole_choice(place, answer) for place, answer in enumerate(said)]
            return JSONResponse(head | {"choices": choices, "usage": usage(said)})
        heard = Heard(tasks)
        first = await heard.first(request, worker)
        with_usage = body.stream_options is not None and body.stream_options.include_usage
        head["object"] = "chat.completion.chunk"
        lines = chunks(heard.events(first), len(tasks), head, with_usage)
        return StreamingResponse(lines, media_type="text/event-stream")

    return router


def each_settings(body: ChatRequest, room: int) -> list[AnswerSettings]:
    """The settings of each of `n` answers: those of a seed have it, the next one, and so on.

    Args:
        room: tokens of an answer where the request sets no limit.
    """
    limits = (body.max_completion_tokens, body.max_tokens, room)
    common = {
        "max_new_tokens": next(limit for limit in limits if limit is not None),
        "stop": (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ()),
    }
    if not body.temperature:  # the likeliest tokens, whatever the seed: one batch with all others
        return [AnswerSettings(**common)] * (body.n or 1)
    common |= {"temperature": body.temperature, "top_p": body.top_p}
    seeds = [None if body.seed is None else body.seed + place for place in range(body.n or 1)]
    return [AnswerSettings(**common, seed=seed) for seed in seeds]


def read_conversation(messages: Sequence[ChatMessage]) -> list[Message]:
    """Messages with their pictures, in their order.

    The model knows users and assistants only: what the system says becomes the first line of the
    first user's message.

    Raises:
        RequestError: for a picture that cannot be read, or messages in an impossible order.
    """
    system: list[str] = []
    turns: list[Message] = []
    reader = PictureReader()
    for place, message in enumerate(messages):
        where = f"messages[{place}]"
        parts = []
        for number, part in enumerate(message.content):
            if isinstance(part, TextPart):
                parts.append(part.text)
                continue
            here = f"{where}.content[{number}]"
            if message.role != "user":
                raise RequestError(f"{here}: only the user shows images", param=here)
            parts.append(reader.read(read_data_url(part.image_url.url, here), here))
        if message.role == "user" or message.role == "assistant":
            turns.append(Message(message.role, tuple(parts)))
        elif turns:
            raise RequestError(f"{where}: system messages stand before all others", param=where)
        else:
            system += parts
    if not turns or turns[-1].role != "user":
        raise RequestError("the last message must be the user's: it is answered", param="messages")
    if system:
        if turns[0].role != "user":
            raise RequestError("after the system, the user speaks first", param="messages")
        turns[0] = Message("user", ("\n".join(system) + "\n", *turns[0].content))
    return turns


def finish_reason(answer: Answer) -> str:
    return "stop" if answer.complete else "length"


def whole_choice(place: int, answer: Answer) -> dict[str, Any]:
    message = {"role": "assistant", "content": answer.text, "refusal": None}
    reason = finish_reason(answer)
    return {"index": place, "message": message, "logprobs": None, "finish_reason": reason}


def usage(said: Sequence[Answer]) -> dict[str, int]:
    """Tokens of one prompt and of all its answers."""
    prompt, new = said[0].prompt_tokens, sum(answer.tokens for answer in said)
    return {"prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new}


async def chunks(
    events: AsyncIterator[tuple[int, Any]], number: int, head: dict[str, Any], with_usage: bool
) -> AsyncIterator[str]:
    """Server-sent events: for each answer its role, its pieces and why it ended."""

    def chunk(place: int, delta: dict[str, str], reason: str | None = None) -> str:
        choice = {"index": place, "delta": delta, "logprobs": None, "finish_reason": reason}
        return line(head | {"choices": [choice]} | ({"usage": None} if with_usage else {}))

    for place in range(number):
        yield chunk(place, {"role": "assistant", "content": ""})
    said: list[Answer] = []
    try:
        async for place, event in events:
            if isinstance(event, str):
                yield chunk(place, {"content": event})
            else:
                said.append(event)
                yield chunk(place, {}, finish_reason(event))
    except Exception as error:  # the status is sent already: the stream itself has to tell
        yield line(error_body(error)[1])
        return
    if with_usage:
        yield line(head | {"choices": [], "usage": usage(said)})
    yield "data: [DONE]\n\n"


def line(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body)}\n\n"

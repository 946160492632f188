"""Errors in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}` and a status."""

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from manzano.serve.batching import QueueFull

logger = logging.getLogger(__name__)

KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
}


class RequestError(HTTPException):
    """What is wrong with a request, for the one who sent it."""

    def __init__(
        self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None
    ):
        super().__init__(status, message)
        self.param, self.code = param, code


def error_body(error: Exception) -> tuple[int, dict[str, Any]]:
    """The status and the body that tell of an error."""
    status, param, code = 500, None, None
    message = "the server failed; its log says why"
    if isinstance(error, HTTPException):
        status, message = error.status_code, error.detail
        param, code = getattr(error, "param", None), getattr(error, "code", None)
    elif isinstance(error, RequestValidationError | ValidationError):
        status, (param, message) = 400, first_fault(error)
    elif isinstance(error, QueueFull):
        status, code = 429, "queue_full"
        message = "too many requests wait already: try again, or send fewer at once"
    elif isinstance(error, ValueError):
        status, message = 400, str(error)
    kind = KINDS.get(status, "invalid_request_error" if status < 500 else "server_error")
    return status, {"error": {"message": message, "type": kind, "param": param, "code": code}}


def first_fault(error: RequestValidationError | ValidationError) -> tuple[str, str]:
    """Where a request is not as it must be, and how."""
    fault = error.errors()[0]
    place = ""
    for step in fault["loc"]:
        place += f"[{step}]" if isinstance(step, int) else f".{step}" if step != "body" else ""
    place = place.lstrip(".")
    return place, f"{place}: {fault['msg']}" if place else str(fault["msg"])


def error_response(error: Exception) -> Response:
    status, body = error_body(error)
    headers = {"Retry-After": "1"} if status == 429 else None
    return JSONResponse(body, status_code=status, headers=headers)


def add_error_handlers(app: FastAPI) -> None:
    async def answer_error(request: Request, error: Exception) -> Response:
        return error_response(error)

    async def answer_nobody(request: Request, error: Exception) -> Response:
        return Response(status_code=499)  # nginx's "client closed request"; nobody reads it

    kinds = (HTTPException, RequestValidationError, ValidationError, QueueFull)
    for kind in (*kinds, ValueError, Exception):
        app.add_exception_handler(kind, answer_error)
    app.add_exception_handler(ClientDisconnect, answer_nobody)

"""What every request passes first: the key, and the limit on what it may send."""

import hmac

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from manzano.serve.errors import RequestError, error_response

MAX_BODY = 64 * 2**20
"""Bytes of a request at most."""


class Gate:
    """Lets requests to an app through that have the key, and no more than MAX_BODY bytes.

    Args:
        api_key: the bearer token that is asked for; None asks for none. `/health` is always open.
    """

    def __init__(self, app: ASGIApp, api_key: str | None):
        self.app, self.api_key = app, api_key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = Headers(scope=scope)
        if scope["path"] != "/health" and not self.is_known(headers.get("authorization", "")):
            error = RequestError(
                "the API key is wrong or missing: send it as `Authorization: Bearer KEY`",
                status=401, code="invalid_api_key",
            )  # fmt: skip
            return await error_response(error)(scope, receive, send)
        await self.app(scope, self.limited(receive), send)

    def is_known(self, authorization: str) -> bool:
        if self.api_key is None:
            return True
        return hmac.compare_digest(authorization.encode(), f"Bearer {self.api_key}".encode())

    def limited(self, receive: Receive) -> Receive:
        """The same, but for bodies that are too long: they are thrown away as they come, to the
        end, since a client that is still sending does not read what is said to it."""
        received = 0

        async def receive_limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received <= MAX_BODY:
                return message
            while message["type"] == "http.request" and message.get("more_body", False):
                message = await receive()
            raise RequestError(
                f"the request has more than {MAX_BODY:,} bytes: scale its images down", status=413
            )

        return receive_limited

"""The app: all routes, over one model and its queue."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool

from manzano.serve.batching import Worker
from manzano.serve.chat import chat_router
from manzano.serve.engine import Engine
from manzano.serve.errors import add_error_handlers
from manzano.serve.fields import check_model
from manzano.serve.gate import Gate
from manzano.serve.pictures import picture_router


def build_app(
    engine: Engine,
    *,
    name: str,
    api_key: str | None = None,
    max_batch: int = 16,
    max_waiting: int = 128,
) -> FastAPI:
    """The server as an ASGI app.

    Args:
        name: of the model, by which requests ask for it.
        api_key: the bearer token that requests must have; None lets all in.
        max_batch: requests that are answered together at most.
        max_waiting: requests that may wait; further ones are refused with status 429.
    """
    worker = Worker(engine.run, max_batch=max_batch, max_waiting=max_waiting)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        worker.start()
        yield
        await run_in_threadpool(worker.stop)

    app = FastAPI(title="Manzano", lifespan=lifespan, openapi_url=None)
    add_error_handlers(app)
    app.include_router(chat_router(engine, worker, name))
    app.include_router(picture_router(worker, name))
    card = {"id": name, "object": "model", "created": 0, "owned_by": "manzano"}

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "waiting": worker.waiting()}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [card]}

    @app.get("/v1/models/{asked:path}")
    async def model(asked: str) -> dict[str, Any]:
        check_model(asked, name)
        return card

    app.add_middleware(Gate, api_key=api_key)
    return app

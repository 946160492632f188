"""A real server on a free port of this machine, and OpenAI's own client."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import torch
import uvicorn
from openai import OpenAI

from manzano.drawing import DrawingSettings
from manzano.serve.app import build_app
from manzano.serve.engine import Engine
from tests.tiny import tiny_pipeline

FAST = DrawingSettings(num_steps=2)


@dataclass
class Served:
    """A server in a thread."""

    engine: Engine
    url: str

    def client(self, api_key: str = "none") -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key=api_key, max_retries=0, timeout=60)


@contextmanager
def running(engine: Engine, **options) -> Iterator[Served]:
    app = build_app(engine, name="tiny", **options)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        thread.join(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield Served(engine, f"http://127.0.0.1:{port}")
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="session")
def engine() -> Engine:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pipeline = tiny_pipeline()
    pipeline.processor.max_length = 256
    return Engine(pipeline.model, pipeline.processor, pipeline, drawing=FAST)


@pytest.fixture(scope="session")
def served(engine) -> Iterator[Served]:
    with running(engine) as served:
        yield served


@pytest.fixture(scope="session")
def client(served) -> OpenAI:
    return served.client()

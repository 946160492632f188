"""The toy stage, importable by the tests and runnable in child processes."""

import json
import multiprocessing
import os
import socket
import sys
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import toy_stage  # noqa: E402


@pytest.fixture(scope="session")
def forkserver() -> multiprocessing.context.BaseContext:
    """Processes that start in milliseconds: torch is imported once, in a server without threads."""
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), str(HERE.parent.parent)])
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["toy_stage", "manzano.training.loop"])
    return context


@pytest.fixture
def spawn(forkserver, tmp_path) -> Iterator[Callable[..., tuple[list[BaseProcess], Path]]]:
    """Start the toy's training in processes of its own: `spawn(arguments, ranks=1)`.

    Returns the processes and the file that holds what rank 0 writes to stderr.
    """
    started: list[BaseProcess] = []

    def start(arguments: list[str], ranks: int = 1) -> tuple[list[BaseProcess], Path]:
        processes, files = [], []
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        for rank in range(ranks):
            files.append(tmp_path / f"stderr-{len(started)}")
            torchrun = {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(ranks),
                "LOCAL_WORLD_SIZE": str(ranks),
                "MASTER_ADDR": "localhost",
                "MASTER_PORT": str(port),
            }
            environment = torchrun if ranks > 1 else {}
            process = forkserver.Process(
                target=toy_stage.child,
                args=(["--loop.threads=1", *arguments], environment, files[-1]),
            )
            process.start()
            started.append(process)
            processes.append(process)
        return processes, files[0]

    yield start
    for process in started:
        process.kill()
        process.join()


@pytest.fixture
def figures():
    """The lines of a run's metrics.jsonl without those that depend on time."""

    def read(output: Path) -> list[dict[str, float]]:
        lines = map(json.loads, (output / "metrics.jsonl").read_text().splitlines())
        timed = ("_per_second", "data_wait", "seconds_elapsed", "seconds_left")
        return [{k: v for k, v in line.items() if not k.endswith(timed)} for line in lines]

    return read

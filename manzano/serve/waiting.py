"""How requests wait for the model's thread: for whole results or for pieces of them."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi import Request
from starlette.requests import ClientDisconnect

from manzano.serve.batching import Job, Worker


async def results(request: Request, worker: Worker, jobs: Sequence[Job]) -> list[Any]:
    """The results of all jobs.

    Raises:
        ClientDisconnect: if the client has gone; its jobs are abandoned.
        QueueFull, or what a job raises.
    """
    worker.submit(jobs)
    try:
        return await while_connected(request, asyncio.ensure_future(all_results(jobs)))
    finally:
        abandon(jobs)


async def all_results(jobs: Sequence[Job]) -> list[Any]:
    return await asyncio.gather(*(asyncio.wrap_future(job.future) for job in jobs))


def abandon(jobs: Sequence[Job]) -> None:
    """Changes nothing about those that are done."""
    for job in jobs:
        job.abandon()


async def while_connected(request: Request, awaited: asyncio.Future) -> Any:
    """What is awaited; ClientDisconnect if the client goes first."""
    gone = asyncio.ensure_future(disconnected(request))
    try:
        await asyncio.wait([awaited, gone], return_when=asyncio.FIRST_COMPLETED)
        if not awaited.done():
            raise ClientDisconnect
        return awaited.result()
    finally:
        gone.cancel()
        awaited.cancel()


async def disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class Heard:
    """What comes of jobs that are listened to: pieces and results, in the order in which they come.

    Args:
        tasks: with their keys; a job of `jobs` is made of each.
    """

    def __init__(self, tasks: Sequence[Any]):
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[tuple[int, Any]] = asyncio.Queue()
        self.jobs = [
            Job(task, task.key, lambda piece, place=place: self._hear(place, piece))
            for place, task in enumerate(tasks)
        ]
        for place, job in enumerate(self.jobs):
            job.future.add_done_callback(lambda future, place=place: self._hear(place, future))

    def _hear(self, place: int, event: Any) -> None:
        """From the model's thread."""
        self._loop.call_soon_threadsafe(self._events.put_nowait, (place, event))

    async def first(self, request: Request, worker: Worker) -> tuple[int, Any]:
        """Queues the jobs, and waits for the first event: what can be wrong with a request shows
        before it.

        Raises:
            as `results`.
        """
        worker.submit(self.jobs)
        try:
            place, event = await while_connected(request, asyncio.ensure_future(self._events.get()))
            return place, event if isinstance(event, str) else event.result()
        except BaseException:
            abandon(self.jobs)
            raise

    async def events(self, first: tuple[int, Any]) -> AsyncIterator[tuple[int, Any]]:
        """(job, piece or result) from the first event to the last result.

        Raises:
            What a job raises.
        """
        try:
            missing = len(self.jobs)
            event = first
            while True:
                yield event
                missing -= not isinstance(event[1], str)
                if not missing:
                    return
                place, heard = await self._events.get()
                event = place, heard if isinstance(heard, str) else heard.result()
        finally:
            abandon(self.jobs)

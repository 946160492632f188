"""One model, many requests: a fair queue, and a thread that runs what waits in batches."""

import logging
import threading
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from typing import Any

from manzano.pieces import Listener

logger = logging.getLogger(__name__)


class QueueFull(Exception):
    """There is no room for more jobs."""


class Abandoned(Exception):
    """Nobody waits for any answer of a batch any more."""


class Job:
    """One answer or one picture that somebody waits for.

    Args:
        task: what is to be done.
        key: jobs of equal keys may run in one batch.
        listener: called with pieces of the answer, from the worker's thread.
    """

    def __init__(self, task: Any, key: Hashable, listener: Listener | None = None):
        self.task, self.key = task, key
        self.future: Future[Any] = Future()
        self.begun = self.abandoned = False
        self.listener = None if listener is None else self._heard_by(listener)

    def _heard_by(self, listener: Listener) -> Listener:
        def hear(piece: str) -> None:
            self.begun = True
            listener(piece)

        return hear

    def abandon(self) -> None:
        """Nobody waits any more: its place is free, or its batch may end early."""
        self.abandoned = True
        self.future.cancel()


class Worker:
    """Runs jobs in a thread of its own: the one that came first, with those of its key behind it.

    Args:
        run: does the jobs of one batch, and gives a result for each; what it raises for a batch of
            several counts for nothing: its halves are run again, down to the job that fails alone.
        max_batch: jobs in a batch at most.
        max_waiting: jobs that may wait.
    """

    def __init__(
        self, run: Callable[[Sequence[Job]], Sequence[Any]], *, max_batch: int, max_waiting: int
    ):
        self.run, self.max_batch, self.max_waiting = run, max_batch, max_waiting
        self._waiting: list[Job] = []
        self._changed = threading.Condition()
        self._stopping = False
        # A second signal ends the program in the middle of a batch.
        self._thread = threading.Thread(target=self._loop, name="model", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends when everything that waits is done."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queues all of the jobs.

        Raises:
            QueueFull: if there is no room for all of them; then none is queued.
        """
        with self._changed:
            self.check_room(len(jobs))
            self._waiting.extend(jobs)
            self._changed.notify()

    def check_room(self, number: int) -> None:
        """Raises QueueFull where so many jobs would find no room now."""
        if self._stopping or self.waiting() + number > self.max_waiting:
            raise QueueFull

    def waiting(self) -> int:
        """Jobs that wait."""
        with self._changed:
            self._waiting = [job for job in self._waiting if not job.abandoned]
            return len(self._waiting)

    def _loop(self) -> None:
        while batch := self._next_batch():
            self._finish([job for job in batch if job.future.set_running_or_notify_cancel()])

    def _next_batch(self) -> list[Job]:
        """Waits for jobs; [] at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._stopping)
            alike = [job for job in self._waiting if job.key == self._waiting[0].key]
            batch = alike[: self.max_batch]
            self._waiting = [job for job in self._waiting if job not in batch]
        return batch

    def _finish(self, jobs: Sequence[Job]) -> None:
        if not jobs:
            return
        failure: Exception | None = None
        try:
            results = self.run(jobs)
        except Exception as error:
            if not isinstance(error, ValueError | Abandoned):
                logger.exception("a batch of %d failed", len(jobs))
            failure = error.with_traceback(None)  # which would hold on to the batch's memory
        else:
            for job, result in zip(jobs, results, strict=True):
                job.future.set_result(result)
        if failure is None:
            return
        again = [job for job in jobs if not (job.begun or job.abandoned or len(jobs) == 1)]
        for job in jobs:
            if job not in again:
                job.future.set_exception(failure)
        self._finish(again[: len(again) // 2])
        self._finish(again[len(again) // 2 :])

"""The queue is fair, batches hold what is alike, and a bad job fails alone."""

import pytest

from manzano.serve.batching import Job, QueueFull, Worker


class Squares:
    """Squares numbers; fails for a batch with a negative one."""

    def __init__(self):
        self.batches: list[list[int]] = []

    def __call__(self, jobs: list[Job]) -> list[int]:
        self.batches.append([job.task for job in jobs])
        for job in jobs:
            if job.listener is not None:
                job.listener("piece")
            if job.task < 0:
                raise ValueError(f"{job.task} is negative")
        return [job.task**2 for job in jobs]


def done(jobs: list[Job], **options) -> list[list[int]]:
    """The batches in which jobs are run that all wait when the worker begins."""
    squares = Squares()
    worker = Worker(squares, **({"max_batch": 4, "max_waiting": 100} | options))
    worker.submit(jobs)
    worker.start()
    worker.stop()
    return squares.batches


def test_the_first_goes_first_with_those_of_its_key():
    jobs = [Job(number, key) for number, key in enumerate("abaabababb")]
    assert done(jobs, max_batch=3) == [[0, 2, 3], [1, 4, 6], [5, 7], [8, 9]]


def test_results_are_those_of_their_jobs_and_stopping_waits_for_them():
    jobs = [Job(number, number % 3) for number in range(50)]
    done(jobs)
    assert [job.future.result(timeout=0) for job in jobs] == [n**2 for n in range(50)]


def test_a_bad_job_fails_alone():
    jobs = [Job(number, "") for number in (1, 2, -3, 4)]
    assert done(jobs) == [[1, 2, -3, 4], [1, 2], [-3, 4], [-3], [4]]
    assert [job.future.result(0) for job in jobs if job.task > 0] == [1, 4, 16]
    with pytest.raises(ValueError, match="-3 is negative"):
        jobs[2].future.result(timeout=0)


def test_an_answer_that_was_partly_heard_is_not_begun_again():
    heard: list[str] = []
    listened, silent = Job(1, "", heard.append), Job(2, "")
    done([listened, silent, Job(-3, "")])
    assert heard == ["piece"]
    assert silent.future.result(timeout=0) == 4
    with pytest.raises(ValueError, match="-3 is negative"):
        listened.future.result(timeout=0)


def test_the_abandoned_are_not_run_and_leave_room():
    worker = Worker(squares := Squares(), max_batch=4, max_waiting=2)
    first, second = Job(1, ""), Job(2, "")
    worker.submit([first, second])
    with pytest.raises(QueueFull):
        worker.submit([Job(3, "")])
    first.abandon()
    with pytest.raises(QueueFull):
        worker.submit([Job(4, ""), Job(5, "")])  # all or none
    worker.submit([Job(6, "")])
    worker.start()
    worker.stop()
    assert squares.batches == [[2, 6]]
    with pytest.raises(QueueFull):
        worker.submit([Job(7, "")])

"""The model class of lmms-eval: its requests in batches, answered by a Manzano folder."""

import inspect
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from tqdm import tqdm

from manzano.eval.harness.version import check_version
from manzano.eval.samples import each

check_version()  # before lmms-eval is imported, for another one may have other modules

from lmms_eval.api.instance import Instance  # noqa: E402
from lmms_eval.api.model import lmms  # noqa: E402

from manzano.eval.harness.asked import conversation  # noqa: E402
from manzano.eval.harness.needs import check_task  # noqa: E402
from manzano.eval.harness.workers import Artist, Reader, Sample  # noqa: E402

logger = logging.getLogger(__name__)

WORKERS = {
    "understanding": Reader,
    "draw": partial(Artist, edits=False),
    "edit": partial(Artist, edits=True),
}
DTYPES = ("float32", "bfloat16", "float16")
REASONS = 5
"""Failed questions whose reason is logged; of the others the number is."""


@dataclass(frozen=True)
class Failure:
    """A question without an answer, which counts as the answer ""."""

    sample: str
    reason: str


class ManzanoChat(lmms):
    """A Manzano folder as a chat model of lmms-eval.

    Args:
        pretrained: Manzano folder; for mode=understanding one without a decoder will do.
        mode: understanding answers in words; draw and edit answer with pictures.
        device: by default a GPU, that of the rank, or the CPU where there is none.
        dtype: float32, bfloat16 or float16; by default that of the folder.
        batch_size: questions answered at once.
        options: of `Reader` (mode understanding), or of `Artist`.

    Raises:
        ValueError: for an unknown mode, dtype, option or device.
        FileNotFoundError: if the folder is not there, or cannot draw and is to.
    """

    is_simple = False

    def __init__(
        self, pretrained: str, *, mode: str = "understanding", device: str | None = None,
        dtype: str | None = None, batch_size: int | str = 1, **options: Any,
    ):  # fmt: skip
        super().__init__()
        if mode not in WORKERS:
            raise ValueError(f"mode must be one of {', '.join(WORKERS)}, got {mode!r}")
        if dtype is not None and dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
        if not str(batch_size).isdecimal() or int(batch_size) < 1:
            raise ValueError(f"batch_size must be a whole number from 1 on, got {batch_size!r}")
        known = [
            p.name for p in inspect.signature(WORKERS[mode]).parameters.values()
            if p.kind is p.KEYWORD_ONLY and p.name != "edits"
        ]  # fmt: skip
        if unknown := sorted(options.keys() - known):
            raise ValueError(
                f"mode={mode} does not know the model_args {', '.join(unknown)}; "
                f"it knows pretrained, mode, device, dtype, {', '.join(known)}"
            )
        self.accelerator = Accelerator()
        self._rank = self.accelerator.process_index
        self._world_size = self.accelerator.num_processes
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device == "cuda":
            device = f"cuda:{self.accelerator.local_process_index}"
        self.mode, self.batch_size = mode, int(batch_size)
        self.worker: Any = WORKERS[mode](
            Path(pretrained), device, None if dtype is None else getattr(torch, dtype), **options
        )

    @property
    def device(self) -> torch.device:
        """Where lmms-eval gathers what the ranks have."""
        return self.accelerator.device

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Answers in the order of the requests; "" where one fails, with the reason logged.

        Raises:
            ValueError: if a task cannot be run like this, or nothing at all could be answered.
        """
        self.check(requests)
        settings = [self.worker.settings(request.arguments[2]) for request in requests]
        samples, seen = [], Counter()
        for request in requests:
            samples.append((request, seen[request.arguments[3:]]))
            seen[request.arguments[3:]] += 1
        answers, failures = [""] * len(requests), []
        with tqdm(total=len(requests), desc="Manzano", disable=self.rank != 0) as bar:
            for rows in self.rows(requests, settings):
                asked = [self.sample(*samples[row]) for row in rows]
                for row, said in zip(rows, self.answer(asked, settings[rows[0]]), strict=True):
                    if isinstance(said, Failure):
                        failures.append(said)
                    else:
                        answers[row] = said
                bar.update(len(rows))
        report(failures, len(requests))
        return answers

    def check(self, requests: Sequence[Instance]) -> None:
        """Raises ValueError if a task of the requests cannot be run like this."""
        # A request of steps that lmms-eval itself takes comes from no method of a task.
        tasks = (getattr(request.arguments[1], "__self__", None) for request in requests)
        for task in {id(task): task for task in tasks if task is not None}.values():
            check_task(task, self.mode)

    def rows(self, requests: Sequence[Instance], settings: Sequence[Any]) -> list[list[int]]:
        """The places of requests in batches of equal settings, the longest texts first: what does
        not fit into memory shows at once. Requests that only fill up a rank are left out."""
        groups: dict[Any, list[int]] = {}
        for row in sorted(
            range(len(requests)), key=lambda row: -len(str(requests[row].arguments[0]))
        ):
            if not (requests[row].metadata or {}).get("__padding_only__"):
                groups.setdefault(settings[row], []).append(row)
        return [
            group[start : start + self.batch_size]
            for group in groups.values()
            for start in range(0, len(group), self.batch_size)
        ]

    def sample(self, request: Instance, number: int) -> Sample | Failure:
        """What is asked, its pictures loaded."""
        doc_id, task, _ = request.arguments[3:]
        try:
            messages = conversation(self.told(request))
        except ValueError as error:
            return Failure(f"{task} {doc_id}", str(error))
        return Sample(conversation=messages, task=task, doc_id=doc_id, number=number)

    def told(self, request: Instance, **rounds: Any) -> Any:
        """What a task says of a document; ValueError whatever goes wrong, for that is code of the
        task's own, on a row that may lack what it was written for."""
        _, doc_to_messages, _, doc_id, task, split = request.arguments
        try:
            return doc_to_messages(self.task_dict[task][split][doc_id], **rounds)
        except Exception as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error

    def answer(self, samples: Sequence[Sample | Failure], settings: Any) -> list[str | Failure]:
        """Answers of a batch, in which one that fails harms no other."""
        good = [sample for sample in samples if isinstance(sample, Sample)]
        said = each(lambda part: self.worker.batch(part, settings), good) if good else []
        found = (
            Failure(f"{one.task} {one.doc_id}", str(words))
            if isinstance(words, ValueError)
            else words
            for one, words in zip(good, said, strict=True)
        )
        return [sample if isinstance(sample, Failure) else next(found) for sample in samples]

    def generate_until_multi_round(self, requests: list[Instance]) -> list[list[str]]:
        """For each request its answers, round by round; "" alone where one fails, with the reason
        logged."""
        self.check(requests)
        answers, failures = [], []
        for request in tqdm(requests, desc="Manzano", disable=self.rank != 0):
            try:
                answers.append(self.rounds(request))
            except ValueError as error:
                answers.append([""])
                failures.append(
                    Failure(f"{request.arguments[4]} {request.arguments[3]}", str(error))
                )
        report(failures, len(requests))
        return answers

    def rounds(self, request: Instance) -> list[str]:
        """The answers to one request, until its task ends them. Each round is a conversation of its
        own, in which the task says what is needed of the rounds before."""
        _, _, asked, doc_id, task, _ = request.arguments
        messages, ends, info, said = self.told(request), False, None, []
        while not ends:
            turn = Sample(conversation=conversation(messages), task=task, doc_id=doc_id)
            said += self.worker.batch([turn], self.worker.settings(asked))
            messages, ends, _, info = self.told(
                request, round_idx=len(said), previous_output=list(said), previous_round_info=info
            )
        return said

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Not asked of chat models: lmms-eval's tasks of likelihood are for simple ones."""
        raise ValueError("Manzano answers in words: choose a task of generate_until")

    def clean(self) -> None:
        """Frees the model's memory, which a local judge may need."""
        self.worker = None
        super().clean()


def report(failures: Sequence[Failure], number: int) -> None:
    """Says what had no answer; raises ValueError if nothing had one."""
    if not failures:
        return
    reasons = [f"  {failure.sample}: {failure.reason}" for failure in failures[:REASONS]]
    if len(failures) > REASONS:
        reasons.append(f"  and {len(failures) - REASONS} more")
    text = "\n".join([f"{len(failures)} of {number} samples could not be answered:", *reasons])
    if len(failures) == number:
        raise ValueError(text)
    logger.warning('%s\nThey count as answered by ""', text)

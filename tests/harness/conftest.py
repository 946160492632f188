"""A model that answers with letters, a judge on this machine, and lmms-eval's evaluator."""

import json
import threading
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from manzano.answering import AnswerSettings, Message
from manzano.pipeline import ManzanoPipeline
from tests.harness.local_data import Task, twelve_tasks
from tests.tiny import tiny_pipeline

LETTERS = "ABCD"


def lettered_pipeline() -> ManzanoPipeline:
    """A tiny Manzano that answers A, B, C or D, as its picture and question have it, and stops.

    Its head knows the letters and the end only. The letters look, in two opposite pairs, for what
    is not the same for all prompts; the end looks for a mark that the letters' embeddings bear.
    """
    pipeline = tiny_pipeline()
    pipeline.processor.max_length = 1024
    llm, tokenizer = pipeline.model.language_model, pipeline.processor.tokenizer
    ids = tokenizer.convert_tokens_to_ids(list(LETTERS))
    head, table = llm.get_output_embeddings(), llm.get_input_embeddings().weight
    mark = torch.zeros(table.shape[1])
    mark[0] = 100.0
    with torch.no_grad():
        table[:, 0] = -1.0
        table[ids] += mark
        states: list[torch.Tensor] = []
        with head.register_forward_hook(lambda _, inputs, __: states.append(inputs[0][0, -1])):
            for task in twelve_tasks():
                said = Message("user", task.asked[0].prompt)
                pipeline.chat_batch([[said]], AnswerSettings(max_new_tokens=1))
        mean = torch.stack(states).mean(0)
        rows = torch.randn(2, len(mean))
        rows -= torch.outer(rows @ mean, mean) / mean.dot(mean)
        head.weight.zero_()
        head.weight[ids] = 20 * torch.cat([rows, -rows])
        head.weight[pipeline.model.vocabulary.end] = 10 * mark
    return pipeline


@pytest.fixture(scope="session")
def lettered(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("lettered")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        lettered_pipeline().save_pretrained(folder)
    return folder


def expected_answers(pipeline: ManzanoPipeline, task: Task) -> list[str]:
    """What the pipeline says, one by one, to what the model must be given."""
    settings = AnswerSettings(max_new_tokens=task.max_new_tokens, stop=task.until)
    return [
        pipeline.chat_batch([[Message("user", asked.prompt)]], settings)[0] for asked in task.asked
    ]


@dataclass(frozen=True)
class Twelve:
    """The twelve tasks on disk, and what their answers must be."""

    folder: Path
    tasks: dict[str, Task]
    answers: dict[str, list[str]]


@pytest.fixture(scope="session")
def twelve(lettered, tmp_path_factory) -> Twelve:
    """The twelve tasks; of the four answers to each, the first three are right."""
    folder = tmp_path_factory.mktemp("data")
    pipeline = ManzanoPipeline.from_pretrained(lettered)
    answers = {task.name: expected_answers(pipeline, task) for task in twelve_tasks()}
    tasks = {}
    for task in twelve_tasks():
        *right, last = answers[task.name]
        wrong = LETTERS[LETTERS.index(last) - 1]
        tasks[task.name] = task.answered([*right, wrong])
        tasks[task.name].write(folder)
    return Twelve(folder, tasks, answers)


class Judge(BaseHTTPRequestHandler):
    """An OpenAI-compatible judge: extracts answers as they are, and gives fixed scores."""

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        said = {
            "reader": lambda: asked["messages"][0]["content"].split("\n\n")[-2],
            "gedit": lambda: '{"score": [9, 4], "reasoning": "fixed"}',
            "imgedit": lambda: "Compliance: 4\nNaturalness: 3\nIntegrity: 2",
        }[asked["model"]]()
        choice = {"index": 0, "finish_reason": "stop"}
        message = {"role": "assistant", "content": said}
        answer = {"id": "1", "object": "chat.completion", "created": 0, "model": asked["model"]}
        body = json.dumps(answer | {"choices": [choice | {"message": message}]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""


@pytest.fixture(scope="session", autouse=True)
def judge(tmp_path_factory) -> Iterator[None]:
    """Set before any task is loaded, for some read their judge at import; no network besides."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Judge)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/v1"
    with pytest.MonkeyPatch.context() as patch:
        for name in ("OPENAI_API_URL", "VIESCORE_API_BASE", "IMGEDIT_BASE_URL"):
            patch.setenv(name, url)
        for name in ("OPENAI_API_KEY", "VIESCORE_API_KEY", "IMGEDIT_API_KEY"):
            patch.setenv(name, "none")
        patch.setenv("MODEL_VERSION", "reader")
        patch.setenv("VIESCORE_MODEL_NAME", "gedit")
        patch.setenv("IMGEDIT_MODEL_NAME", "imgedit")
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("LMMS_EVAL_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))
        import_module("lmms_eval.tasks.mathvista.mathvista_evals")  # it keeps the key it finds now
        yield
    server.shutdown()


@dataclass(frozen=True)
class Outcome:
    """What lmms-eval found: scores, and what was asked and answered, by task."""

    results: dict[str, dict[str, Any]]
    samples: dict[str, list[dict[str, Any]]]

    def score(self, task: str, metric: str) -> float:
        [score] = [v for k, v in self.results[task].items() if k.startswith(f"{metric},")]
        return score

    def answers(self, task: str) -> list[Any]:
        rows = sorted(self.samples[task], key=lambda row: row["doc_id"])
        said = [row["filtered_resps"] for row in rows]  # of a file, already without its list
        return [one[0] if isinstance(one, list) else one for one in said]


def read_outcome(folder: Path) -> Outcome:
    [results] = folder.glob("*/[0-9]*_results.json")
    samples = {
        path.stem.split("_samples_")[1]: [
            json.loads(line) for line in path.read_text("utf-8").splitlines()
        ]
        for path in folder.glob("*/[0-9]*_samples_*.jsonl")
    }
    return Outcome(json.loads(results.read_text(encoding="utf-8"))["results"], samples)


@cache
def every_task() -> Any:
    """lmms-eval's own tasks, whose thousands of files are read once."""
    from lmms_eval.tasks import TaskManager

    return TaskManager(model_name="manzano")


def evaluate(
    data: Path, tasks: str, model_args: str, out: Path, *, task_manager: Any = None,
    process_with_media: bool = False, model: str = "manzano", **settings: Any,
) -> Outcome:  # fmt: skip
    """lmms-eval's evaluator on a model of it, in the folder of the data."""
    from lmms_eval.evaluator import simple_evaluate

    flags = Namespace(output_path=str(out), process_with_media=process_with_media)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(data)
        found = simple_evaluate(
            model=model, model_args=model_args, tasks=tasks.split(","), device="cpu",
            task_manager=task_manager or every_task(), cli_args=flags, **settings,
        )  # fmt: skip
    return Outcome(found["results"], found["samples"])

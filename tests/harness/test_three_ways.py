"""One model folder, one benchmark, three ways to it: the light path, lmms-eval, the server."""

import json
from pathlib import Path

import pytest

from manzano.cli import main
from manzano.eval.results.from_lmms_eval import NAMES
from manzano.eval.scores import read_scores
from manzano.eval.text_rich.tasks import TASKS
from manzano.pipeline import ManzanoPipeline
from manzano.serve.engine import Engine
from tests.harness.conftest import Outcome, evaluate
from tests.serve.conftest import running

UPSTREAM = {light: upstream for upstream, light in NAMES.items()}
every_task = pytest.mark.parametrize("name", TASKS)


def upstream(name: str) -> str:
    """What lmms-eval calls a task of the light path."""
    return UPSTREAM.get(name, name)


@pytest.fixture(scope="module")
def light(twelve, lettered, tmp_path_factory) -> Path:
    """The folder of an evaluation by `manzano eval`, of the very files that lmms-eval reads."""
    data, output = tmp_path_factory.mktemp("hub"), tmp_path_factory.mktemp("light")
    for name in TASKS:
        (data / name).symlink_to(twelve.folder / twelve.tasks[upstream(name)].dataset)
    asked = ["--suite", "text-rich", "--data", str(data), "--output", str(output)]
    assert main(["eval", str(lettered), *asked, "--batch-size", "3"]) == 0
    return output


@pytest.fixture(scope="module")
def plug_in(twelve, lettered, tmp_path_factory) -> Outcome:
    out, tasks = tmp_path_factory.mktemp("plug-in"), ",".join(map(upstream, TASKS))
    return evaluate(twelve.folder, tasks, f"pretrained={lettered}", out, batch_size=2)


@pytest.fixture(scope="module")
def server(twelve, lettered, tmp_path_factory) -> Outcome:
    """Asked by lmms-eval's own client of OpenAI's API, several questions at a time."""
    pipeline = ManzanoPipeline.from_pretrained(lettered)
    out, tasks = tmp_path_factory.mktemp("server"), ",".join(map(upstream, TASKS))
    with running(Engine(pipeline.model, pipeline.processor, pipeline)) as served:
        client = f"model=tiny,base_url={served.url}/v1,api_key=none,num_cpus=3"
        return evaluate(twelve.folder, tasks, client, out, model="async_openai")


@every_task
def test_answers_are_the_same(name, light, plug_in, server):
    lines = (light / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    said = [json.loads(line)["answer"] for line in lines]
    assert said == plug_in.answers(upstream(name)) == server.answers(upstream(name))


@every_task
def test_scores_are_the_same(name, twelve, light, plug_in, server):
    [measure, score] = next(iter(read_scores(light / "scores.json").tasks[name].scores.items()))
    whole = twelve.tasks[upstream(name)].whole
    assert score.value == 0.75
    assert plug_in.score(upstream(name), measure) == pytest.approx(score.value * whole)
    assert server.score(upstream(name), measure) == pytest.approx(score.value * whole)

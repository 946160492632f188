"""Prompts, lengths and stop texts of the text-rich tasks against lmms-eval's own files."""

from importlib import import_module
from pathlib import Path

import lmms_eval
import pytest
import yaml

from manzano.eval.text_rich.tasks import TASKS

FOLDER = Path(lmms_eval.__file__).parent / "tasks"
FILES = {
    "chartqa": ("chartqa/chartqa.yaml",),
    "textvqa": ("textvqa/_default_template_textvqa_yaml", "textvqa/textvqa_val.yaml"),
    "docvqa": ("docvqa/_default_template_docvqa_yaml", "docvqa/docvqa_val.yaml"),
    "infovqa": ("infovqa/_default_template_infovqa_yaml", "infovqa/infovqa_val.yaml"),
    "ocrbench": ("ocrbench/ocrbench.yaml",),
}


class Loader(yaml.SafeLoader):
    """Reads `!function` as a text."""


Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))


def upstream(name: str) -> dict:
    merged = {}
    for file in FILES[name]:
        merged |= yaml.load((FOLDER / file).read_text(), Loader)
    return merged


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("question", ["what is the VALUE of X?", " Who?\n", "how many {question}s"])
def test_prompts_are_upstreams(name, question):
    task = TASKS[name]
    words = getattr(import_module(f"lmms_eval.tasks.{name}.utils"), f"{name}_doc_to_text")
    options = upstream(name)["lmms_eval_specific_kwargs"]["default"]
    doc = {"question": question, "ocr_tokens": []}
    assert task.asked(question, task.prompt) == words(doc, options)


@pytest.mark.parametrize("name", TASKS)
def test_lengths_splits_and_measures_are_upstreams(name):
    task, theirs = TASKS[name], upstream(name)
    generation = theirs["generation_kwargs"]
    if "max_new_tokens" in generation:
        assert task.max_new_tokens == generation["max_new_tokens"]
    assert list(task.stop) == generation.get("until", ["\n\n"])
    assert task.split == theirs["test_split"]
    assert task.measure == theirs["metric_list"][0]["metric"]
    assert task.config in ("", theirs.get("dataset_name"))

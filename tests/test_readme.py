"""What README.md and docs/ say can be typed in, and what they name exists.

The commands themselves run at toy size in tests/test_end_to_end.py.
"""

import ast
import importlib
import re
import shlex
from pathlib import Path

import pytest

from manzano.cli import build_parser, words
from manzano.training.command_line import parse
from manzano.training.stages import STAGES, load_stage

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def commands(word: str) -> list[list[str]]:
    """The arguments after `word` in every shell line of the pages that runs it."""
    lines = [
        shlex.split(line, comments=True)
        for page in PAGES
        for block in blocks(page.read_text(encoding="utf-8"), "bash")
        for line in block.replace("\\\n", " ").splitlines()
    ]
    ran = [line for line in lines if word in line and line[line.index(word) - 1] != "--model"]
    return [line[line.index(word) + 1 :] for line in ran]


PYTHON = [block for page in PAGES for block in blocks(page.read_text("utf-8"), "python")]


def test_the_readme_shows_every_stage_and_every_verb():
    assert {arguments[0] for arguments in commands("train.py")} == set(STAGES)
    assert {arguments[0] for arguments in commands("manzano")} >= {"ask", "draw", "edit", "data"}


@pytest.mark.parametrize("arguments", commands("train.py"), ids=" ".join)
def test_a_training_command_can_be_read(arguments, monkeypatch):
    monkeypatch.chdir(ROOT)
    stage, *flags = arguments
    config_class, _ = load_stage(stage)
    assert parse(config_class, flags).loop.max_steps >= 1


@pytest.mark.parametrize("arguments", commands("manzano"), ids=" ".join)
def test_a_manzano_command_can_be_read(arguments):
    assert build_parser().parse_args(words(arguments)).command == words(arguments)[0]


@pytest.mark.parametrize("target", [arguments[0] for arguments in commands("make")])
def test_a_make_target_exists(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)


@pytest.mark.parametrize("source", PYTHON)
def test_a_python_block_compiles_and_imports_what_exists(source):
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module or "")
            assert [a.name for a in node.names if not hasattr(module, a.name)] == []


def test_the_usage_block_calls_methods_of_the_pipeline():
    from manzano.pipeline import ManzanoPipeline

    usage = blocks(README, "python")[0]
    called = set(re.findall(r"\bmodel\.(\w+)\(", usage))
    assert called == {"ask", "draw", "edit"}
    assert [name for name in called if not callable(getattr(ManzanoPipeline, name))] == []


def run_block(word: str) -> None:
    """Runs the README's first Python block with `word` in it."""
    (source, *_) = (block for block in blocks(README, "python") if word in block)
    exec(compile(source, "README.md", "exec"), {})


def test_the_data_block_writes_a_folder_without_faults(tmp_path, monkeypatch):
    from manzano.data_mix.check import check

    monkeypatch.chdir(tmp_path)
    run_block("data/squares")
    assert check("data/squares") == []


def test_the_block_on_layers_runs(capsys):
    run_block("ParaGRU")
    assert "solver" in capsys.readouterr().out


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_a_link_leads_to_a_file(page):
    targets = re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8"))
    local = [t for t in targets if not t.startswith("http")]
    assert [t for t in local if not (page.parent / t).exists()] == []


def test_every_name_in_the_map_of_the_paper_exists():
    """`manzano/llm/loss.py:unified_loss` and `manzano/tokenizer/hybrid.py:HybridTokenizer.save`."""
    names = re.findall(r"`(manzano/[\w/]+)\.py:([\w.]+)`", (ROOT / "docs/paper.md").read_text())
    missing = []
    for path, name in names:
        found = importlib.import_module(path.replace("/", "."))
        for part in name.split("."):
            found = getattr(found, part, None) or getattr(found, "__annotations__", {}).get(part)
        if found is None:
            missing.append(f"{path}.py:{name}")
    assert names
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_a_configuration_that_a_page_names_exists(page):
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"configs/[\w/]+\.yaml", text)
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_the_marker_that_the_demo_figures_stand_between_is_there():
    assert re.search(r"<!-- demo-figures -->\n.*?<!-- /demo-figures -->", README, flags=re.DOTALL)

"""The rules of the code that a program can check; the others are in docs and in review."""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = sorted((ROOT / "manzano").rglob("*.py"))
SOURCES = [*PACKAGE, ROOT / "train.py", *sorted((ROOT / "tests").rglob("*.py"))]
LINKS = ("tokenizer", "llm", "decoder", "data_mix", "eval")
LOOP = ROOT / "manzano" / "training" / "loop.py"

every_source = pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
every_module = pytest.mark.parametrize("path", PACKAGE, ids=lambda p: str(p.relative_to(ROOT)))


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def run_at_import(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes below `node` but those inside functions, which run later."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from run_at_import(child)


@every_source
def test_a_file_has_at_most_400_lines(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


@every_source
def test_a_function_has_at_most_80_lines_and_one_of_the_loop_120(path):
    limit = 120 if path == LOOP else 80
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(tree_of(path)) if isinstance(node, functions)]
    lengths = {node.name: (node.end_lineno or 0) - node.lineno + 1 for node in nodes}
    assert {name: length for name, length in lengths.items() if length > limit} == {}


@every_source
def test_the_parts_are_imported_as_manzano_only(path):
    nodes = list(ast.walk(tree_of(path)))
    imported = [
        alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names
    ]
    imported += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    assert [name for name in imported if name.split(".")[0] in LINKS] == []
    assert [node.lineno for node in nodes if isinstance(node, ast.ImportFrom) and node.level] == []


@every_module
def test_a_module_says_what_it_is(path):
    assert ast.get_docstring(tree_of(path))


@every_module
def test_only_the_command_line_prints(path):
    calls = [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call)]
    prints = [n.lineno for n in calls if isinstance(n.func, ast.Name) and n.func.id == "print"]
    assert prints == [] or path.name in ("cli.py", "commands.py")


@every_module
def test_importing_a_module_reads_no_environment(path):
    names = {node.attr for node in run_at_import(tree_of(path)) if isinstance(node, ast.Attribute)}
    assert not names & {"environ", "getenv"}


@every_module
def test_a_module_is_named_by_its_concept(path):
    assert not re.search(r"utils?|helpers?|misc|common", path.stem)


@pytest.mark.parametrize("name", LINKS)
def test_the_root_links_into_the_package(name):
    link = ROOT / name
    assert link.is_symlink()
    assert link.readlink() == Path("manzano", name)
    assert link.resolve() == ROOT / "manzano" / name
    assert link.is_dir()


def packages_after(statement: str) -> set[str]:
    """The top-level packages that are loaded once `statement` has run in a fresh interpreter."""
    code = f"{statement}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return {name.split(".")[0] for name in json.loads(result.stdout.splitlines()[-1])}


def test_importing_manzano_loads_no_more_than_transformers_does():
    assert packages_after("import manzano") - packages_after("import transformers") <= {"manzano"}


def readme_tree() -> list[Path]:
    """The paths in README.md's tree: the fenced block with a line that begins with "manzano/".

    Two spaces (or one branch of box-drawing lines) a level; what follows two spaces is comment.
    """
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8") if readme.exists() else ""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    lines = [
        line for b in blocks if re.search(r"^manzano/", b, re.MULTILINE) for line in b.split("\n")
    ]
    parents: list[tuple[int, Path]] = []
    paths = []
    for line in lines:
        if not (match := re.match(r"([\s\u2500-\u257f|`-]*)([\w.][\w.*/-]*)", line)):
            continue
        depth = len(match[1])
        parents = [(d, parent) for d, parent in parents if d < depth]
        path = (parents[-1][1] if parents else Path()) / match[2]
        parents.append((depth, path))
        paths.append(path)
    return paths


def test_what_the_readme_tree_names_exists():
    assert [str(path) for path in readme_tree() if not list(ROOT.glob(str(path)))] == []


def test_the_readme_tree_names_every_part_of_the_package():
    named = set(readme_tree())
    parts = {p.parent.relative_to(ROOT) for p in (ROOT / "manzano").glob("*/__init__.py")}
    assert not named or parts <= named

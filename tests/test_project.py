"""The project files agree with one another, and a fresh machine gets a clear start."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
REQUIREMENTS = [
    Requirement(text)
    for group in [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    for text in group
]


def constraints() -> list[Requirement]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if not line.startswith("#")]


PINS = {canonicalize_name(pin.name): pin for pin in constraints()}


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=str)
def test_every_dependency_is_pinned_to_a_version_in_its_range(requirement):
    pin = PINS[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(str(pin.specifier).removeprefix("=="))


def test_constraints_are_exact_versions_that_any_index_has():
    for pin in constraints():
        assert re.fullmatch(r"==[^+*]+", str(pin.specifier)), f"not an exact version: {pin}"
        assert pin.url is None


def test_one_version_stands_everywhere():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    cited = re.findall(r"^version: (.+)$", citation, flags=re.MULTILINE)
    latest = re.findall(r"^## ([\d.]+)", changelog, flags=re.MULTILINE)[0]
    assert [PROJECT["version"]] == cited == [latest]


def test_every_folder_with_code_is_a_package():
    folders = {path.parent for path in (ROOT / "manzano").rglob("*.py")}
    assert [str(f) for f in sorted(folders) if not (f / "__init__.py").exists()] == []


def test_every_other_file_of_the_package_is_installed_with_it():
    patterns = PYPROJECT["tool"]["setuptools"]["package-data"]["manzano"]
    installed = {path for pattern in patterns for path in (ROOT / "manzano").glob(pattern)}
    present = {
        path
        for path in (ROOT / "manzano").rglob("*")
        if path.is_file() and path.suffix != ".py" and "__pycache__" not in path.parts
    }
    assert present - installed == set()


def test_ci_run_is_an_executable_script():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", str(script)], check=True)


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A make of its own, also where `make test` runs this test."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(["make", *arguments], cwd=ROOT, env=env, capture_output=True, text=True)


def test_make_alone_explains_the_targets():
    text = make().stdout
    assert re.findall(r"^make ([\w-]+)", text, flags=re.MULTILINE) == [
        "demo", "test", "test-harness", "lint", "venv", "clean",
    ]  # fmt: skip


@pytest.mark.parametrize(("target", "command"), [("demo", "manzano demo"), ("test", "-m pytest")])
def test_a_target_installs_first_and_once(tmp_path, target, command):
    fresh = tmp_path / "venv"
    steps = make("--dry-run", target, f"VENV={fresh}").stdout
    assert re.search(rf"-m venv .*pip install .*{command}", steps, flags=re.DOTALL)
    fresh.mkdir()
    (fresh / ".installed").touch()
    assert "pip install" not in make("--dry-run", target, f"VENV={fresh}").stdout


def test_an_old_python_is_refused_in_words(tmp_path):
    old = tmp_path / "python3"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.8.1" || exit 1\n')
    old.chmod(0o755)
    result = make("venv", f"PYTHON={old}", f"VENV={tmp_path / 'venv'}")
    assert result.returncode != 0
    assert "needs Python 3.10 or newer" in result.stdout
    assert "Python 3.8.1" in result.stdout
    assert not (tmp_path / "venv").exists()

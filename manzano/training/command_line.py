"""Reading a configuration: YAML files are the data, dotted flags the overrides, a dataclass the
schema.

    python train.py llm --config configs/llm/1b.yaml --config configs/llm/gru.yaml --optim.lr 3e-4

Files are merged from left to right; flags come last. Whatever is wrong (an unknown key, a type, a
value, a missing or broken file) ends in one sentence and exit code 2, and an unknown key in the
name of the nearest one.
"""

import dataclasses
import difflib
import re
import sys
import typing
from argparse import ArgumentError
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import yaml
from jsonargparse import ArgumentParser, set_parsing_settings

Config = TypeVar("Config")


def parse(schema: type[Config], argv: Sequence[str], *, prog: str = "train.py") -> Config:
    """An instance of the dataclass `schema` from `--config` files and dotted flags.

    Exits with code 2 and one sentence on stderr where something is wrong; `--help` and
    `--print_config` print and exit with code 0.
    """
    parser = _parser(schema, prog)
    parser.add_argument(
        "--config", action="config", help="YAML file; several are merged from left to right."
    )
    try:
        for path in _config_files(argv):
            _check_file(path, schema)
        return _instance(schema, parser.instantiate(parser.parse_args(list(argv))))
    except ArgumentError as error:
        fail(prog, _explain(error.message, schema))
    except ValueError as error:  # a __post_init__ or _check_file
        fail(prog, str(error))


def from_dict(schema: type[Config], tree: Mapping[str, Any]) -> Config:
    """An instance of the dataclass `schema` from what `config.to_dict` made of one.

    Raises ArgumentError, a TypeError or a ValueError where something is wrong.
    """
    parser = _parser(schema, "from_dict")
    return _instance(schema, parser.instantiate(parser.parse_object(dict(tree))))


def _parser(schema: type, prog: str) -> ArgumentParser:
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(prog=prog, exit_on_error=False, allow_abbrev=False)
    parser.add_class_arguments(schema)
    return parser


def _instance(schema: type[Config], values: Any) -> Config:
    return schema(**{name: values[name] for name in _fields(schema)})


def fail(prog: str, message: str) -> NoReturn:
    """Say on stderr what is wrong with a command line and exit with code 2."""
    sys.stderr.write(f"{prog}: error: {message}\nAll options: python {prog} --help\n")
    raise SystemExit(2)


def nearest(name: str, known: Sequence[str]) -> str:
    """The entry of `known` most like `name`; one that ends in the same word is preferred."""
    last = name.rpartition(".")[2]
    by_last = [key for key in known if key.rpartition(".")[2] == last]
    matches = by_last or difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    return matches[0]


def keys(schema: type, prefix: str = "") -> Iterator[str]:
    """The dotted keys of a dataclass, such as `optim.lr`."""
    for name, inner in _fields(schema).items():
        if inner is None:
            yield prefix + name
        else:
            yield from keys(inner, f"{prefix}{name}.")


def _fields(schema: type) -> dict[str, type | None]:
    """Field names, each with the dataclass it holds or None for a plain value."""
    hints = typing.get_type_hints(schema)
    found: dict[str, type | None] = {}
    for field in dataclasses.fields(schema):
        hint = hints[field.name]
        candidates = [hint, *typing.get_args(hint)]
        found[field.name] = next(
            (c for c in candidates if isinstance(c, type) and dataclasses.is_dataclass(c)), None
        )
    return found


def _config_files(argv: Sequence[str]) -> Iterator[Path]:
    for position, argument in enumerate(argv):
        if argument == "--config" and position + 1 < len(argv):
            yield Path(argv[position + 1])
        elif argument.startswith("--config="):
            yield Path(argument.partition("=")[2])


def _check_file(path: Path, schema: type) -> None:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"cannot read the config file {path}: {error.strerror}.") from error
    try:
        content = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ValueError(f"{path}{line} is not valid YAML: {error.problem}.") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} must hold `key: value` lines, got {type(content).__name__}.")
    unknown = next(_unknown_keys(content, schema), None)
    if unknown:
        near = nearest(unknown, list(keys(schema)))
        raise ValueError(f"{path} has an unknown key {unknown!r}; did you mean {near!r}?")


def _unknown_keys(content: Mapping[str, Any], schema: type, prefix: str = "") -> Iterator[str]:
    fields = _fields(schema)
    for key, value in content.items():
        if key not in fields:
            yield f"{prefix}{key}"
        elif (inner := fields[key]) is not None and isinstance(value, Mapping):
            yield from _unknown_keys(value, inner, f"{prefix}{key}.")


def _explain(message: str, schema: type) -> str:
    unknown = re.search(r"unrecognized arguments: (\S+)", message)
    if not unknown:
        flat = re.sub(r"\s*\n\s*", " ", message)
        flat = re.sub(r"<class '([\w.]+)'>|typing\.(?=\w)", r"\1", flat)
        return re.sub(
            r'Parser key "(.+?)": Expected an? (.+)\. Got value: (.*)',
            r"\1 must be \2, got \3.",
            flat,
        )
    argument = unknown[1]
    name = argument.lstrip("-").partition("=")[0]
    if not argument.startswith("--") and name in keys(schema):
        return f"unknown argument {argument!r}; overrides begin with two dashes: --{argument}"
    near = nearest(name, list(keys(schema)))
    return f"unknown option {argument.partition('=')[0]!r}; did you mean '--{near}'?"

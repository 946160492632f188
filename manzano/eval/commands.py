"""manzano eval: suites of benchmarks, and what becomes of their score files."""

import argparse
import importlib
from pathlib import Path

SUITES = {
    "text-rich": "manzano.eval.text_rich",
    "geneval": "manzano.eval.drawing_suites",
    "dpg": "manzano.eval.drawing_suites",
    "wise": "manzano.eval.drawing_suites",
    "t2i-compbench": "manzano.eval.drawing_suites",
    "oneig": "manzano.eval.drawing_suites",
    "concepts": "manzano.eval.drawing_suites",
    "gedit": "manzano.eval.editing_suites",
    "imgedit": "manzano.eval.editing_suites",
}
"""The module of each suite; its `run(arguments)` returns the path of the score file it wrote."""


def add_eval_commands(commands: argparse._SubParsersAction) -> None:
    """eval, eval compare, eval results."""
    evaluate = commands.add_parser("eval", help="run a benchmark suite on a model")
    evaluate.add_argument("model", metavar="MODEL", help="Manzano folder")
    evaluate.add_argument("--suite", required=True, choices=SUITES)
    evaluate.add_argument(
        "--output", type=Path, metavar="DIR",
        help="where log, pictures and scores.json go (default: runs/eval/MODEL/SUITE); given "
        "again, an evaluation that was stopped goes on there",
    )  # fmt: skip
    evaluate.add_argument("--batch-size", type=int, default=16, help="samples at a time (16)")
    evaluate.add_argument("--limit", type=int, help="the first so many samples of each task alone")
    evaluate.add_argument("--seed", type=int, default=0, help="of drawings and floors (default 0)")
    evaluate.add_argument("--device", default="cpu", help="cpu (default), cuda, mps")
    add_question_arguments(evaluate)
    add_drawing_arguments(evaluate)
    evaluate.set_defaults(run=run_eval)


def add_question_arguments(evaluate: argparse.ArgumentParser) -> None:
    """What the suite of questions takes."""
    group = evaluate.add_argument_group("text-rich")
    group.add_argument(
        "--data", type=Path, metavar="DIR",
        help="folder with a sub-folder for each benchmark, of parquet files or WebDataset shards "
        "with the hub's columns; of one task it may be the folder itself",
    )  # fmt: skip
    group.add_argument(
        "--tasks", nargs="+", default=(), metavar="TASK",
        help="chartqa, textvqa, docvqa, infovqa, ocrbench (default: all that are there)",
    )  # fmt: skip
    group.add_argument(
        "--max-tiles", type=int, metavar="N",
        help="tiles a large image is split into at most; by default as in training",
    )  # fmt: skip
    group.add_argument(
        "--prompt", metavar="TEXT", help="in place of the tasks' own prompts, e.g. '{question}'"
    )
    group.add_argument(
        "--floors", action="store_true",
        help="ask all once more about other samples' pictures: what is right then is guessed",
    )  # fmt: skip


def add_drawing_arguments(evaluate: argparse.ArgumentParser) -> None:
    """What suites of drawings and edits take."""


def run_eval(arguments: argparse.Namespace) -> int:
    arguments.output = arguments.output or default_output(arguments.model, arguments.suite)
    print(importlib.import_module(SUITES[arguments.suite]).run(arguments))
    return 0


def default_output(model: str, suite: str) -> Path:
    """runs/eval/, the model's folder, or where it is called "model" the one around it, the suite."""
    folder = Path(model).resolve()
    return Path("runs/eval") / (folder.parent if folder.name == "model" else folder).name / suite

"""manzano eval: suites of benchmarks, and what becomes of their score files."""

import argparse
import importlib
from pathlib import Path

SUITES = {
    "text-rich": "manzano.eval.text_rich",
    "geneval": "manzano.eval.picture_suites",
    "dpg": "manzano.eval.picture_suites",
    "wise": "manzano.eval.picture_suites",
    "t2i-compbench": "manzano.eval.picture_suites",
    "oneig": "manzano.eval.picture_suites",
    "concepts": "manzano.eval.picture_suites",
    "gedit": "manzano.eval.picture_suites",
    "imgedit": "manzano.eval.picture_suites",
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


def add_drawing_arguments(evaluate: argparse.ArgumentParser) -> None:
    """What suites of drawings and edits take."""
    pictures = evaluate.add_argument_group("drawing and editing")
    pictures.add_argument(
        "--prompts", type=Path, metavar="FILE", help="the benchmark's own prompt file or folder"
    )
    pictures.add_argument(
        "--images", type=Path, metavar="DIR",
        help="imgedit: where its pictures lie (default: beside --prompts)",
    )  # fmt: skip
    pictures.add_argument(
        "--results", type=Path, metavar="FILE",
        help="what the official scorer found (file or folder), to be put into scores.json; nothing "
        "is drawn",
    )  # fmt: skip
    pictures.add_argument("--height", type=int, help="of drawings, pixels; by default as trained")
    pictures.add_argument("--width", type=int, help="of drawings, pixels")
    pictures.add_argument(
        "--guidance", type=float, default=2.0, metavar="SCALE",
        help="how far ids follow words and reference (default 2)",
    )  # fmt: skip
    pictures.add_argument(
        "--decoder-guidance", type=float, default=3.0, metavar="SCALE",
        help="how far the decoder follows the ids (default 3)",
    )  # fmt: skip
    pictures.add_argument(
        "--reference-guidance", type=float, default=1.0, metavar="SCALE",
        help="how far the decoder keeps to the picture that is edited (default 1: no guidance)",
    )  # fmt: skip
    pictures.add_argument("--steps", type=int, default=20, help="steps of the decoder (default 20)")


def run_eval(arguments: argparse.Namespace) -> int:
    from manzano.cli import quiet_libraries

    quiet_libraries()
    arguments.output = arguments.output or default_output(arguments.model, arguments.suite)
    print(importlib.import_module(SUITES[arguments.suite]).run(arguments))
    return 0


def default_output(model: str, suite: str) -> Path:
    """runs/eval/, the model's name, the suite."""
    return Path("runs/eval") / model_name(model) / suite


def model_name(model: str) -> str:
    """Of a model's folder, or where that is called "model" of the one around it."""
    folder = Path(model).resolve()
    return (folder.parent if folder.name == "model" else folder).name

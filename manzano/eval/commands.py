"""manzano eval: suites of benchmarks, and what becomes of their score files."""

import argparse
import importlib
import os
from pathlib import Path

from manzano.eval.provenance import model_name

SUITES = {
    "text-rich": "manzano.eval.text_rich.suite",
    "geneval": "manzano.eval.pictures.suite",
    "dpg": "manzano.eval.pictures.suite",
    "wise": "manzano.eval.pictures.suite",
    "t2i-compbench": "manzano.eval.pictures.suite",
    "oneig": "manzano.eval.pictures.suite",
    "concepts": "manzano.eval.pictures.suite",
    "gedit": "manzano.eval.pictures.suite",
    "imgedit": "manzano.eval.pictures.suite",
    "held-out": "manzano.eval.held_out.suite",
}
"""The module of each suite; its `run(arguments)` returns the path of the score file it wrote."""


QUESTIONS = ("data", "tasks", "max_tiles", "prompt", "floors")
DRAWINGS = ("height", "width", "guidance", "decoder_guidance", "reference_guidance", "steps")
TAKES = (
    {suite: ("prompts", "results", *DRAWINGS) for suite in SUITES}
    | {
        "imgedit": ("prompts", "images", "results", *DRAWINGS),
        "text-rich": QUESTIONS,
        "held-out": ("data", "text", "lpips", "lpips_network", "inception", *DRAWINGS),
    }
)  # fmt: skip
"""The arguments of each suite, besides those of all."""


def add_eval_commands(commands: argparse._SubParsersAction) -> None:
    """eval, eval compare, eval results, eval import."""
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
    add_held_out_arguments(evaluate)
    known = {name: evaluate.get_default(name) for own in TAKES.values() for name in own}
    evaluate.set_defaults(run=run_eval, defaults=known)
    add_score_file_commands(commands)


def add_question_arguments(evaluate: argparse.ArgumentParser) -> None:
    """What the suite of questions takes."""
    group = evaluate.add_argument_group("text-rich")
    group.add_argument(
        "--data", type=Path, metavar="DIR",
        help="folder with a sub-folder for each benchmark, of parquet files or WebDataset shards "
        "with the hub's columns; of one task it may be the folder itself. For held-out: a folder "
        "with test-*.tar, as `manzano data` makes it",
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


def add_held_out_arguments(evaluate: argparse.ArgumentParser) -> None:
    """What held-out drawings and edits are scored by."""
    group = evaluate.add_argument_group("held-out")
    group.add_argument(
        "--text", action="store_true",
        help="read what drawings say by two OCR engines, where the prompt has it in quotes",
    )  # fmt: skip
    group.add_argument(
        "--lpips", type=Path, metavar="FILE",
        help="torchvision's weights of the network of LPIPS, the distance from the true picture",
    )  # fmt: skip
    group.add_argument(
        "--lpips-network", choices=("alex", "vgg", "squeeze"), default="alex",
        help="which network that file holds (default: alex)",
    )  # fmt: skip
    group.add_argument(
        "--inception", type=Path, metavar="FILE",
        help="torch-fidelity's weights of Inception, for FID and KID",
    )  # fmt: skip


def add_score_file_commands(commands: argparse._SubParsersAction) -> None:
    """What is done with score files: compare, results, import."""
    compare = commands.add_parser(
        "eval compare", help="what differs between two score files, and whether beyond noise"
    )
    compare.add_argument("a", type=Path, metavar="A.json", help="score file to compare with")
    compare.add_argument("b", type=Path, metavar="B.json", help="score file that is judged")
    compare.add_argument(
        "--unlike", action="store_true",
        help="compare what was made from other data or with other settings all the same",
    )  # fmt: skip
    compare.set_defaults(run=run_compare)

    results = commands.add_parser(
        "eval results", help="write a page of the figures in score files beside the paper's"
    )
    results.add_argument(
        "files", type=Path, nargs="*", metavar="FILE",
        help="score files (default: all in docs/scores)",
    )  # fmt: skip
    results.add_argument(
        "-o", "--output", type=Path, default=Path("docs/results.md"), metavar="FILE",
        help="where the page goes (default: docs/results.md)",
    )  # fmt: skip
    results.set_defaults(run=run_results)

    imports = commands.add_parser("eval import", help="make a score file of lmms-eval's output")
    imports.add_argument("model", type=Path, metavar="MODEL", help="Manzano folder that answered")
    imports.add_argument(
        "results", type=Path, metavar="RESULTS",
        help="its --output_path, or the one DATE_results.json in it that is meant",
    )  # fmt: skip
    imports.add_argument("-o", "--output", type=Path, required=True, metavar="FILE")
    imports.set_defaults(run=run_import)


def run_eval(arguments: argparse.Namespace) -> int:
    from manzano.cli import quiet_libraries

    quiet_libraries()
    refuse_foreign(arguments)
    arguments.output = arguments.output or default_output(arguments.model, arguments.suite)
    path = importlib.import_module(SUITES[arguments.suite]).run(arguments)
    show_scores(path)
    print(path)
    return 0


def refuse_foreign(arguments: argparse.Namespace) -> None:
    """Raises ValueError for arguments of other suites, which would do nothing."""
    own = TAKES[arguments.suite]
    for name, default in arguments.defaults.items():
        if name not in own and getattr(arguments, name) != default:
            suites = ", ".join(suite for suite, takes in TAKES.items() if name in takes)
            option = f"--{name.replace('_', '-')}"
            raise ValueError(f"--suite {arguments.suite} takes no {option}: that is of {suites}")


def show_scores(path: Path) -> None:
    """Prints the figures of a score file."""
    from rich import get_console

    from manzano.eval.results.tables import score_table
    from manzano.eval.scores import read_scores

    file = read_scores(path)
    if any(task.scores for task in file.tasks.values()):
        get_console().print(score_table(file))


def default_output(model: str, suite: str) -> Path:
    """runs/eval/, the model's name, the suite."""
    return Path("runs/eval") / model_name(model) / suite


def run_compare(arguments: argparse.Namespace) -> int:
    """Returns 0 whatever the verdict; files that cannot be compared are an error, code 2."""
    from rich import get_console

    from manzano.eval.results.compare import compare
    from manzano.eval.results.tables import tables
    from manzano.eval.scores import read_scores

    a, b = read_scores(arguments.a), read_scores(arguments.b)
    get_console().print(tables(compare(a, b, unlike=arguments.unlike)))
    return 0


def run_results(arguments: argparse.Namespace) -> int:
    from manzano.eval.record import write_atomically
    from manzano.eval.results.page import results_page
    from manzano.eval.scores import read_scores

    paths = arguments.files or sorted(Path("docs/scores").glob("*.json"))
    folder = arguments.output.resolve().parent
    links = {Path(os.path.relpath(path.resolve(), folder)).as_posix(): path for path in paths}
    page = results_page({link: read_scores(path) for link, path in links.items()})
    write_atomically(arguments.output, page)
    print(arguments.output)
    return 0


def run_import(arguments: argparse.Namespace) -> int:
    from manzano.eval.results.from_lmms_eval import from_lmms_eval
    from manzano.eval.scores import write_scores

    write_scores(from_lmms_eval(arguments.results, arguments.model), arguments.output)
    print(arguments.output)
    return 0

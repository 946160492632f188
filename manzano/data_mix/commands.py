"""The `manzano data` commands: build, check, convert."""

import argparse
from pathlib import Path


def add_data_commands(commands: argparse._SubParsersAction) -> None:
    """`manzano data` with its own commands."""
    data = commands.add_parser("data", help="build, convert or check data").add_subparsers(
        dest="data_command", required=True, metavar="COMMAND"
    )
    build = data.add_parser("build", help="build a corpus")
    build.add_argument(
        "corpus", choices=["demo", "editing"], help="editing: more kinds of edits than the demo's"
    )
    build.add_argument(
        "--output", metavar="DIR", help="default: runs/demo/data, runs/demo_editing/data"
    )
    build.set_defaults(run=run_data_build)
    check = data.add_parser("check", help="name every sample that is not as it must be")
    check.add_argument("directory", metavar="DIR", help="a source's folder, or a folder of sources")
    check.set_defaults(run=run_data_check)
    add_convert_command(data)


def add_convert_command(data: argparse._SubParsersAction) -> None:
    """Makes sources of others' data."""
    convert = data.add_parser("convert", help="make a source of others' data").add_subparsers(
        dest="format", required=True, metavar="FORMAT"
    )
    triplets = convert.add_parser(
        "triplets", help="editing data: pictures, instructions, edited pictures"
    )
    triplets.add_argument(
        "source", help="folder or file: parquet, InstructPix2Pix's folders, JSONL or WebDataset tar"
    )
    triplets.add_argument("output", metavar="DIR", help="the source's folder; must not be there")
    triplets.add_argument("--name", help="of the source (default: the name of its folder)")
    triplets.add_argument("--licence", required=True, help="e.g. CC-BY-4.0; kept in every sample")
    triplets.add_argument("--kind", default="", help="of edit (default: instruction or inpainting)")
    triplets.add_argument(
        "--test-percent", type=int, default=1, metavar="N", help="of source pictures (default 1)"
    )
    for column in ("before", "instruction", "after", "mask", "concept"):
        triplets.add_argument(f"--{column}", metavar="COLUMN", help=f"which one holds the {column}")
    triplets.set_defaults(run=run_data_convert)


def run_data_build(arguments: argparse.Namespace) -> int:
    from manzano.data_mix.build import build_demo, build_editing

    if arguments.corpus == "demo":
        output, build = arguments.output or "runs/demo/data", build_demo
    else:
        output, build = arguments.output or "runs/demo_editing/data", build_editing
    build(output)
    print(output)
    return 0


def run_data_check(arguments: argparse.Namespace) -> int:
    from rich.progress import Progress

    from manzano.data_mix.check import check

    with Progress(transient=True) as progress:
        task = progress.add_task("checking", total=None)
        faults = check(
            arguments.directory,
            on_shard=lambda done, total: progress.update(task, completed=done, total=total),
        )
    for fault in faults:
        print(fault)
    print(f"{len(faults)} fault(s)" if faults else "no faults")
    return 1 if faults else 0


def run_data_convert(arguments: argparse.Namespace) -> int:
    from rich.progress import Progress

    from manzano.data_mix.triplets import Settings, convert_triplets

    given = {
        column: name
        for column in ("before", "instruction", "after", "mask", "concept")
        if (name := getattr(arguments, column))
    }
    settings = Settings(
        name=arguments.name or Path(arguments.output).name, licence=arguments.licence,
        kind=arguments.kind, test_percent=arguments.test_percent, columns=given,
    )  # fmt: skip
    with Progress(transient=True) as progress:
        bars = {split: progress.add_task(split, total=None) for split in ("test", "train")}
        made = convert_triplets(
            arguments.source, arguments.output, settings,
            on_row=lambda split, done: progress.update(bars[split], completed=done),
        )  # fmt: skip
    counts = ", ".join(f"{count} {split}" for split, count in made.count.items())
    print(f"{arguments.output}: {counts}; {len(made.skipped)} left out")
    return 0

"""The `manzano` command."""

import argparse
import logging
import os
import sys
from pathlib import Path


def main(argv: list[str] | None = None) -> int:
    """Runs a command, returns its exit code; what a user can mend ends in a sentence and code 2."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        return arguments.run(arguments)
    except (ValueError, OSError) as error:
        print(f"manzano {arguments.command}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on where it was", file=sys.stderr)
        return 130


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="manzano", description="One model that reads, draws and edits images.",
        epilog="Training: python train.py {vision,vae,tokenizer,llm,decoder} --config FILE",
    )  # fmt: skip
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_use_commands(commands)
    add_making_commands(commands)
    return parser


def add_use_commands(commands: argparse._SubParsersAction) -> None:
    """What one does with a Manzano folder: ask, draw, edit."""
    ask = commands.add_parser("ask", help="answer a question about an image")
    ask.add_argument("question")
    ask.add_argument(
        "--image", action="append", required=True, help="image file; may be given several times"
    )
    ask.set_defaults(run=run_ask)

    draw = commands.add_parser("draw", help="draw what a prompt says")
    draw.add_argument("prompt")
    draw.add_argument("--height", type=int, help="pixels; by default what the model was trained on")
    draw.add_argument("--width", type=int, help="pixels")
    draw.set_defaults(run=run_draw)

    edit = commands.add_parser("edit", help="change an image as an instruction says")
    edit.add_argument("instruction")
    edit.add_argument("--image", required=True, help="image file")
    edit.set_defaults(run=run_edit)

    for command in (ask, draw, edit):
        command.add_argument("--model", required=True, metavar="DIR", help="Manzano folder")
        command.add_argument("--device", default="cpu", help="cpu (default), cuda, mps")
    for command in (draw, edit):
        command.add_argument(
            "-o",
            "--output",
            required=True,
            metavar="FILE",
            help="where the image goes, e.g. out.png",
        )
        command.add_argument(
            "--seed", type=int, default=0, help="another seed draws another image (default 0)"
        )
        command.add_argument(
            "--guidance",
            type=float,
            default=2.0,
            help="how far ids follow words and reference (default 2)",
        )
        command.add_argument(
            "--steps", type=int, default=20, help="steps of the decoder (default 20)"
        )


def add_making_commands(commands: argparse._SubParsersAction) -> None:
    """What makes one: data, assemble, demo."""
    assemble = commands.add_parser(
        "assemble", help="make a Manzano folder from the exports of the stages"
    )
    assemble.add_argument("--llm", required=True, metavar="DIR", help="export of the llm stage")
    assemble.add_argument(
        "--decoder", required=True, metavar="DIR", help="export of the decoder stage"
    )
    assemble.add_argument(
        "--vae", required=True, metavar="DIR", help="the VAE that the decoder was trained with"
    )
    assemble.add_argument("-o", "--output", required=True, metavar="DIR")
    assemble.set_defaults(run=run_assemble)

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

    demo = commands.add_parser(
        "demo", help="train a small Manzano on this machine, from data to report"
    )
    demo.add_argument(
        "--config",
        nargs="+",
        default=["configs/demo"],
        metavar="DIR",
        help="folder of the stages' configurations (default: configs/demo); of several folders, "
        "the first that has a stage's file counts",
    )
    demo.set_defaults(run=run_demo)


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


def open_pipeline(arguments: argparse.Namespace):
    from manzano.pipeline import ManzanoPipeline

    quiet_libraries()
    return ManzanoPipeline.from_pretrained(arguments.model, device=arguments.device)


def quiet_libraries() -> None:
    """Keeps the libraries' progress bars and advice out of the output; their errors still show."""
    os.environ["TQDM_DISABLE"] = "1"  # read when tqdm is imported; energon's loaders have no switch
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for library in (transformers_logging, diffusers_logging):
        library.set_verbosity_error()
        library.disable_progress_bar()


def check_output(path: str) -> Path:
    """The path, if an image can be written there: found out before the work, not after it."""
    from PIL import Image

    output = Path(path)
    if Image.registered_extensions().get(output.suffix.lower()) not in Image.SAVE:
        raise ValueError(f"-o {path}: give a file name that ends in .png, .jpg or .webp")
    if not output.parent.is_dir():
        raise ValueError(f"-o {path}: there is no folder {output.parent}")
    if output.is_dir() or not os.access(output.parent, os.W_OK):
        raise ValueError(f"-o {path}: this cannot be written; give a file in a folder of yours")
    return output


def drawing_settings(arguments: argparse.Namespace):
    from manzano.pipeline import DrawingSettings

    return DrawingSettings(guidance_scale=arguments.guidance, num_steps=arguments.steps)


def save_image(image, output: Path) -> None:
    """Writes under a temporary name first: a full disk leaves no half image."""
    temporary = output.with_name(f".{output.stem}.tmp{output.suffix}")
    try:
        image.save(temporary)
        temporary.replace(output)
    finally:
        temporary.unlink(missing_ok=True)
    print(output)


def run_ask(arguments: argparse.Namespace) -> int:
    from manzano.data_mix.images import ImageSource, load_image

    # Before the model: a bad file fails at once.
    images: list[ImageSource] = [load_image(path) for path in arguments.image]
    print(open_pipeline(arguments).ask(images, arguments.question))
    return 0


def run_draw(arguments: argparse.Namespace) -> int:
    output, settings = check_output(arguments.output), drawing_settings(arguments)
    image = open_pipeline(arguments).draw(
        arguments.prompt,
        height=arguments.height,
        width=arguments.width,
        seed=arguments.seed,
        settings=settings,
    )
    save_image(image, output)
    return 0


def run_edit(arguments: argparse.Namespace) -> int:
    from manzano.data_mix.images import load_image

    output, settings = check_output(arguments.output), drawing_settings(arguments)
    source = load_image(arguments.image)
    image = open_pipeline(arguments).edit(
        source, arguments.instruction, seed=arguments.seed, settings=settings
    )
    save_image(image, output)
    return 0


def run_assemble(arguments: argparse.Namespace) -> int:
    from manzano.assemble import assemble_folder

    print(
        assemble_folder(
            arguments.output, llm=arguments.llm, decoder=arguments.decoder, vae=arguments.vae
        )
    )
    return 0


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


def show_log() -> None:
    """Lets the package say what it does: above a terminal's progress bar, else in plain lines."""
    from rich.logging import RichHandler

    plain = logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S")
    handler: logging.Handler = logging.StreamHandler()
    if sys.stderr.isatty():
        handler = RichHandler(show_level=False, show_path=False, log_time_format="%X")
        plain = logging.Formatter("%(message)s")
    handler.setFormatter(plain)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("manzano").setLevel(logging.INFO)


def run_demo(arguments: argparse.Namespace) -> int:
    from manzano.eval.demo import run_demo

    quiet_libraries()
    show_log()
    print(run_demo(*map(Path, arguments.config)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

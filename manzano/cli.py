"""The `manzano` command."""

import argparse
import logging
import os
import sys
from pathlib import Path

from manzano.data_mix.commands import add_data_commands
from manzano.eval.commands import add_eval_commands
from manzano.serve.commands import add_serve_command


def main(argv: list[str] | None = None) -> int:
    """Runs a command, returns its exit code; what a user can mend ends in a sentence and code 2."""
    parser = build_parser()
    arguments = parser.parse_args(words(sys.argv[1:] if argv is None else argv))
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        return arguments.run(arguments)
    except (ValueError, OSError) as error:
        print(f"manzano {arguments.command}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        goes_on = arguments.command in ("demo", "eval")
        print("\nstopped" + "; the same command goes on where it was" * goes_on, file=sys.stderr)
        return 130


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="manzano", description="One model that reads, draws and edits images.",
        epilog="Training: python train.py {vision,vae,tokenizer,llm,decoder} --config FILE",
    )  # fmt: skip
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_use_commands(commands)
    add_serve_command(commands)
    add_making_commands(commands)
    add_eval_commands(commands)
    return parser


def words(argv: list[str]) -> list[str]:
    """The arguments, the names of commands of two words joined: `eval compare` beside `eval`."""
    if argv[:1] == ["eval"] and argv[1:2] in (["compare"], ["results"], ["import"]):
        return [" ".join(argv[:2]), *argv[2:]]
    return argv


def add_use_commands(commands: argparse._SubParsersAction) -> None:
    """What one does with a Manzano folder: ask, draw, edit."""
    ask = commands.add_parser("ask", help="answer a question about an image")
    ask.add_argument("question")
    ask.add_argument(
        "--image", action="append", required=True, help="image file; may be given several times"
    )
    ask.add_argument(
        "--max-tiles",
        type=int,
        metavar="N",
        help="tiles a large image is split into at most, to read small print; by default as in "
        "training, 1 splits none",
    )
    ask.set_defaults(run=run_ask)

    draw = commands.add_parser("draw", help="draw what a prompt says")
    draw.add_argument("prompt")
    draw.add_argument("--height", type=int, help="pixels; by default what the model was trained on")
    draw.add_argument("--width", type=int, help="pixels")
    draw.add_argument(
        "--number", type=int, default=1, metavar="N",
        help="draw N pictures, of the seeds from --seed on, into out-1.png, out-2.png, ...",
    )  # fmt: skip
    draw.set_defaults(run=run_draw)

    edit = commands.add_parser("edit", help="change an image as an instruction says")
    edit.add_argument("instruction")
    edit.add_argument("--image", required=True, help="image file")
    edit.add_argument(
        "--mask", help="image file: white is painted anew, black is kept to the pixel"
    )
    edit.add_argument(
        "--strength", type=float, default=1.0,
        help="how much is painted over, up to 1 (default): less keeps more of the picture",
    )  # fmt: skip
    edit.add_argument(
        "--height", type=int,
        help="pixels of the result; by default the image's. Another shape extends the image",
    )  # fmt: skip
    edit.add_argument("--width", type=int, help="pixels")
    edit.add_argument(
        "--reference-guidance", type=float, default=1.0, metavar="SCALE",
        help="how far the decoder keeps to the image (default 1: no guidance)",
    )  # fmt: skip
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
            "--decoder-guidance",
            type=float,
            default=3.0,
            metavar="SCALE",
            help="how far the decoder follows the ids (default 3)",
        )
        command.add_argument(
            "--steps", type=int, default=20, help="steps of the decoder (default 20)"
        )
        command.add_argument("--timing", action="store_true", help="print where the time goes")


def add_making_commands(commands: argparse._SubParsersAction) -> None:
    """What makes one: assemble, export, data, demo."""
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
    assemble.add_argument(
        "--metrics", type=Path, metavar="FILE", help="metrics.json of an evaluation, for the card"
    )
    assemble.set_defaults(run=run_assemble)

    export = commands.add_parser(
        "export", help="make a Hugging Face folder from a checkpoint, shard by shard"
    )
    export.add_argument("checkpoint", help="run folder (its newest checkpoint), or one checkpoint")
    export.add_argument("output", help="folder that does not exist yet")
    export.add_argument(
        "--shard-size",
        default="5GB",
        metavar="SIZE",
        help="largest file of weights, and about what is held in memory (default: %(default)s)",
    )
    export.set_defaults(run=run_export)
    for command in (assemble, export):
        command.add_argument(
            "--licence", default="", help="of the weights, for the model card, e.g. apache-2.0"
        )

    add_data_commands(commands)

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


def open_pipeline(arguments: argparse.Namespace):
    from manzano.pipeline import ManzanoPipeline

    quiet_libraries()
    pipeline = ManzanoPipeline.from_pretrained(arguments.model, device=arguments.device)
    pipeline.progress = sys.stderr.isatty()
    return pipeline


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
    from manzano.drawing import DrawingSettings

    return DrawingSettings(
        guidance_scale=arguments.guidance,
        decoder_guidance_scale=arguments.decoder_guidance,
        reference_guidance_scale=getattr(arguments, "reference_guidance", 1.0),
        num_steps=arguments.steps,
    )


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
    pipeline = open_pipeline(arguments)
    print(pipeline.ask(images, arguments.question, max_tiles=arguments.max_tiles))
    return 0


def run_draw(arguments: argparse.Namespace) -> int:
    outputs = numbered(check_output(arguments.output), arguments.number)
    settings, pipeline = drawing_settings(arguments), open_pipeline(arguments)
    images = pipeline.draw_batch(
        [arguments.prompt] * len(outputs),
        height=arguments.height,
        width=arguments.width,
        seed=arguments.seed,
        settings=settings,
    )
    for image, output in zip(images, outputs, strict=True):
        save_image(image, output)
    if arguments.timing:
        print(pipeline.watch.summary())
    return 0


def numbered(output: Path, number: int) -> list[Path]:
    """The output itself for one picture; for more, with -1, -2, ... before the suffix."""
    if number < 1:
        raise ValueError(f"--number {number}: draw one picture or more")
    if number == 1:
        return [output]
    return [output.with_stem(f"{output.stem}-{index + 1}") for index in range(number)]


def run_edit(arguments: argparse.Namespace) -> int:
    from manzano.data_mix.images import load_image
    from manzano.data_mix.masks import load_mask

    output, settings = check_output(arguments.output), drawing_settings(arguments)
    source = load_image(arguments.image)
    mask = load_mask(arguments.mask, source.size) if arguments.mask else None
    pipeline = open_pipeline(arguments)
    image = pipeline.edit(
        source,
        arguments.instruction,
        mask=mask,
        strength=arguments.strength,
        height=arguments.height,
        width=arguments.width,
        seed=arguments.seed,
        settings=settings,
    )
    save_image(image, output)
    if arguments.timing:
        print(pipeline.watch.summary())
    return 0


def run_assemble(arguments: argparse.Namespace) -> int:
    from manzano.assemble import assemble_folder

    folder = assemble_folder(
        arguments.output,
        llm=arguments.llm,
        decoder=arguments.decoder,
        vae=arguments.vae,
        metrics=arguments.metrics,
        licence=arguments.licence,
    )
    print(folder)
    return 0


def run_export(arguments: argparse.Namespace) -> int:
    from manzano.training.streaming import export_checkpoint

    quiet_libraries()
    try:
        folder = export_checkpoint(
            arguments.checkpoint,
            arguments.output,
            shard_size=arguments.shard_size,
            licence=arguments.licence,
        )
    except (RuntimeError, argparse.ArgumentError) as error:  # damaged, or of another version
        raise ValueError(str(error)) from error
    print(folder)
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

"""The `manzano serve` command."""

import argparse
import os
from pathlib import Path

DTYPES = ("float32", "bfloat16", "float16")


def add_serve_command(commands: argparse._SubParsersAction) -> None:
    serve = commands.add_parser("serve", help="serve a model by OpenAI's API")
    serve.add_argument(
        "model", metavar="DIR", help="Manzano folder, or the export of an llm stage (chat only)"
    )
    serve.add_argument("--host", default="127.0.0.1", help="default: this machine only")
    serve.add_argument("--port", type=int, default=8000, help="default %(default)s")
    serve.add_argument("--name", help="of the model in requests (default: the folder's)")
    serve.add_argument("--device", default="cpu", help="cpu (default), cuda, mps")
    serve.add_argument("--dtype", choices=DTYPES, help="default: as the weights are saved")
    serve.add_argument(
        "--api-key", metavar="KEY", help="asked of every request (default: $MANZANO_API_KEY)"
    )
    serve.add_argument(
        "--max-batch", type=int, default=16, metavar="N",
        help="requests that are answered together at most (default %(default)s)",
    )  # fmt: skip
    serve.add_argument(
        "--max-waiting", type=int, default=128, metavar="N",
        help="requests that may wait; further ones are refused (default %(default)s)",
    )  # fmt: skip
    serve.add_argument(
        "--max-tiles", type=int, metavar="N",
        help="tiles a large image is split into at most; by default as in training",
    )  # fmt: skip
    serve.set_defaults(run=run_serve)


def run_serve(arguments: argparse.Namespace) -> int:
    try:
        import uvicorn

        from manzano.serve.app import build_app
    except ModuleNotFoundError as error:
        raise ValueError(
            f"the server needs {error.name}, which is not installed: pip install manzano[serve]"
        ) from error
    import torch

    from manzano.cli import quiet_libraries
    from manzano.eval.provenance import model_name
    from manzano.serve.engine import Engine

    for option in ("max_batch", "max_waiting", "max_tiles"):
        if getattr(arguments, option) is not None and getattr(arguments, option) < 1:
            raise ValueError(f"--{option.replace('_', '-')} must be 1 or more")
    quiet_libraries()
    folder = Path(arguments.model)
    dtype = getattr(torch, arguments.dtype) if arguments.dtype else None
    engine = Engine.from_pretrained(
        folder, device=arguments.device, dtype=dtype, max_tiles=arguments.max_tiles
    )
    app = build_app(
        engine,
        name=arguments.name or model_name(folder),
        api_key=arguments.api_key or os.environ.get("MANZANO_API_KEY") or None,
        max_batch=arguments.max_batch,
        max_waiting=arguments.max_waiting,
    )
    uvicorn.run(app, host=arguments.host, port=arguments.port, access_log=False)
    return 0

"""Edits of every kind on held-out pictures: figures beside their floors, and a picture of some.

    python benchmarks/edits.py --model runs/demo_editing/model
    python benchmarks/edits.py --model runs/demo/model --output runs/demo/edits

The kinds are inpainting, outpainting, style and depth, of the corpus of `manzano data build
editing`, and the demo's own edits by instruction. It writes metrics.json and edits.png (for each
kind: what the model was shown, what it made, what is true) into --output.
"""

import argparse
import json
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.table import Table

from manzano.cli import quiet_libraries
from manzano.eval.edit_kinds import Edits, edit_kinds
from manzano.eval.generation import editing
from manzano.eval.glyph_judge import GlyphJudge
from manzano.pipeline import ManzanoPipeline

COLUMNS = 16
MARGIN = 4


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="Manzano folder")
    parser.add_argument("--edits", type=Path, default=Path("runs/demo_editing/data"))
    parser.add_argument("--demo", type=Path, default=Path("runs/demo/data"))
    parser.add_argument("--output", type=Path, default=Path("runs/demo_editing/figures"))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    quiet_libraries()
    pipeline, judge = ManzanoPipeline.from_pretrained(arguments.model), GlyphJudge()
    figures, edits = edit_kinds(pipeline, arguments.edits, judge, seed=arguments.seed)
    more, edits["instruction"] = editing(pipeline, arguments.demo, judge, seed=arguments.seed)
    figures += more

    arguments.output.mkdir(parents=True, exist_ok=True)
    record = {
        f.name: {"value": f.value, "floor": f.floor, "n": f.n, "note": f.note} for f in figures
    }
    (arguments.output / "metrics.json").write_text(json.dumps(record, indent=2) + "\n")
    grid(edits).save(arguments.output / "edits.png")
    table = Table("figure", "value", "floor", "n", "note")
    for f in figures:
        table.add_row(f.name, f"{f.value:.3f}", f"{f.floor:.3f}", str(f.n), f.note)
    Console(width=140).print(table)


def grid(edits: Edits) -> Image.Image:
    """Three rows a kind: shown, made, true."""
    rows = [
        [getattr(edit, part) for edit in some[:COLUMNS]]
        for some in edits.values()
        for part in ("source", "edited", "target")
    ]
    side = rows[0][0].width + MARGIN
    sheet = Image.new("RGB", (COLUMNS * side, len(rows) * side), "white")
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            sheet.paste(picture, (x * side, y * side))
    return sheet


if __name__ == "__main__":
    main()

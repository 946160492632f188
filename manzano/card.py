"""The model card: README.md of a folder that is to be shared, with metadata that the Hub reads."""

import json
from pathlib import Path
from typing import Literal

from huggingface_hub import ModelCard, ModelCardData

from manzano.eval.results.page import bounds, interval, markdown
from manzano.eval.scores import ScoreFile, read_scores

_UNTOLD = ("step", "lr", "grad_norm", "data_wait")
_TIMED = ("_per_second", "seconds_elapsed", "seconds_left")
_TEXT = """---
{metadata}
---

# {title}

{about}

Made with the open code of Manzano, one model that reads, draws and edits images, after the paper
[arXiv 2509.16197](https://arxiv.org/abs/2509.16197). The weights are not the paper's.

## Figures

{figures}

## Licence

{licence}
"""
_ABOUT = {
    "transformers": "A unified model: pictures and text in, text and image ids out.\n\n"
    "```python\nfrom manzano.pipeline import ManzanoPipeline  # with the decoder beside it\n"
    "from manzano.model import ManzanoForConditionalGeneration  # the language model alone\n```",
    "diffusers": "An image decoder: image ids in, latents of a VAE out.\n\n"
    "```python\nfrom manzano.decoder.dit_air import DiTAir\n```",
}


def write_card(
    folder: Path,
    *,
    library: Literal["transformers", "diffusers"],
    metrics: Path | None = None,
    step: int | None = None,
    licence: str = "",
    title: str = "Manzano",
) -> None:
    """Writes `folder`/README.md.

    Args:
        library: reads the weights.
        metrics: what was measured: metrics.jsonl of a run, metrics.json of the demo's evaluation,
            or scores.json of `manzano eval`. None, or a file that is not there, is said to be "not
            measured".
        step: of the weights; of metrics.jsonl the last line up to it counts, by default the last.
        licence: identifier of the Hub, such as apache-2.0; "" leaves it to the user.
    """
    data = ModelCardData(
        library_name=library, pipeline_tag="any-to-any", license=licence or None, tags=["manzano"]
    )
    figures = _table(metrics, step) if metrics is not None and metrics.is_file() else ""
    said = licence or "None was given: add one before you share this, that of the data included."
    text = _TEXT.format(
        metadata=data.to_yaml(), title=title, about=_ABOUT[library],
        figures=figures or "Not measured.", licence=said,
    )  # fmt: skip
    ModelCard(text).save(folder / "README.md")


def _table(metrics: Path, step: int | None) -> str:
    """A Markdown table of what was measured; "" where nothing was."""
    text = metrics.read_text(encoding="utf-8")
    if metrics.suffix == ".jsonl":
        return _logged(text, step)
    tree = json.loads(text)
    return _scored(read_scores(metrics)) if "tasks" in tree else _evaluated(tree)


def _logged(text: str, step: int | None) -> str:
    whole = (line for line in text.splitlines(keepends=True) if line.endswith("\n"))
    lines = [json.loads(line) for line in whole]  # the last may be being written
    lines = [line for line in lines if step is None or line["step"] <= step]
    if not lines:
        return ""
    rows = [
        f"| {name} | {value:.4g} |"
        for name, value in lines[-1].items()
        if name not in _UNTOLD and not name.endswith(_TIMED)
    ]
    measured = any(name.startswith("validation/") for name in lines[-1])
    held_out = "`validation/` is of held-out data, the rest not" if measured else (
        "nothing was measured on held-out data"
    )  # fmt: skip
    head = f"Of training, at step {lines[-1]['step']}; {held_out}."
    return "\n".join([head, "", "| figure | value |", "|---|---|", *rows])


def _evaluated(tree: dict) -> str:
    rows = []
    for name, entry in tree.items():
        if isinstance(entry, dict) and entry.keys() >= {"value", "floor", "n"}:
            floor = "" if entry["floor"] is None else f"{entry['floor']:.4g}"
            rows.append(f"| {name} | {entry['value']:.4g} | {floor} | {entry['n']} |")
    head = ["On held-out data; the floor is what a trivial answer reaches.", ""]
    table = ["| figure | value | floor | samples |", "|---|---|---|---|"]
    return "\n".join([*head, *table, *rows]) if rows else ""


def _scored(file: ScoreFile) -> str:
    """The first measure of each task, which is the one that is quoted."""
    rows = []
    for task, scores in file.tasks.items():
        for name, score in list(scores.scores.items())[:1]:
            cells = [f"{task}, {name}", f"{score.value:.4g}", interval(score)]
            rows.append([*cells, bounds(score.floors), str(score.n)])
    head = f"Of `manzano eval`, suite {file.suite}, way {file.way}, {file.started[:10]}.\n\n"
    names = ["figure", "value", "95 % interval", "floors", "samples"]
    return head + markdown(names, rows).rstrip() if rows else ""

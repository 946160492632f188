"""The report of a run: one HTML file that needs nothing beside it.

Style, pictures (PNG, base64) and curves (SVG) are inline, so the file can be mailed or kept. The
order is the reader's: the figures, then what was trained, then pictures and answers, and at the
end what is needed to do it again.
"""

import base64
import io
import json
from collections.abc import Iterable
from html import escape
from importlib.resources import files
from pathlib import Path

from PIL import Image

from manzano.eval.curves import chart, read_series
from manzano.eval.record import (
    Answer,
    CodeUse,
    Drawing,
    Edit,
    Figure,
    Reconstruction,
    Report,
    StageRecord,
    write_atomically,
)


def write_report(report: Report, path: Path) -> None:
    """Write the page; a reader finds the whole file or none."""
    write_atomically(path, render(report))


def render(report: Report) -> str:
    """The whole HTML document."""
    style = files("manzano.eval").joinpath("report.css").read_text(encoding="utf-8")
    parts = (
        f"<header><h1>{escape(report.title)}</h1><p>{escape(report.summary)}</p></header>",
        _section("Figures", _figures(report.figures)),
        _section("Questions and answers", _grid(map(_answer, report.answers))),
        _section("Drawn from a prompt", _grid(map(_drawing, report.drawings), "strips")),
        _section("Edited by instruction", _grid(map(_edit, report.edits), "strips")),
        _section("Seen through the tokenizer", _reconstructions(report)),
        _section("Training", _stages(report)),
        _section("What the figures do not show", _list(report.remarks)),
        _section("To do it again", _details(report)),
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(report.title)}</title><style>{style}</style></head>\n"
        f"<body><main>\n{''.join(parts)}</main></body></html>\n"
    )


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>\n{body}</section>\n" if body else ""


def _grid(cards: Iterable[str], kind: str = "") -> str:
    inner = "".join(cards)
    return f'<div class="cards {kind}">{inner}</div>\n' if inner else ""


def _picture(picture: Image.Image, description: str) -> str:
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, format="PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f'<img src="data:image/png;base64,{data}" alt="{escape(description)}">'


def _captioned(picture: Image.Image, caption: str, mark: str = "") -> str:
    words = f"<figcaption>{escape(caption)}{mark}</figcaption>" if caption or mark else ""
    return f"<figure>{_picture(picture, caption)}{words}</figure>"


def _mark(correct: bool | None) -> str:
    if correct is None:
        return ""
    return '<b class="yes">&#10003;</b>' if correct else '<b class="no">&#10007;</b>'


# ---- figures


def _figures(figures: Iterable[Figure]) -> str:
    rows = "".join(map(_figure_row, figures))
    if not rows:
        return ""
    head = (
        '<th></th><th>value</th><th></th><th><i class="tick"></i>floor</th>'
        '<th><i class="tick target"></i>target</th><th>n</th>'
    )
    return f'<table class="figures"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>\n'


def _figure_row(figure: Figure) -> str:
    note = f"<small>{escape(figure.note)}</small>" if figure.note else ""
    sign = "&le; " if figure.lower_is_better else "&ge; "
    target = "" if figure.target is None else sign + _number(figure.target, figure.unit)
    floor = "" if figure.floor is None else _number(figure.floor, figure.unit)
    return (
        f'<tr><th scope="row">{escape(figure.label)}{note}</th>'
        f'<td class="value">{_number(figure.value, figure.unit)}</td>'
        f"<td>{_bar(figure)}</td><td>{floor}</td>"
        f"<td>{target} {_mark(figure.reached)}</td><td>{figure.n:,}</td></tr>\n"
    )


def _number(value: float, unit: str) -> str:
    if unit == "share":
        return f"{value:.3f}"
    return f"{value:.3g} {escape(unit)}".rstrip()


def _bar(figure: Figure) -> str:
    """A share as a bar from 0 to 1, with the floor and the target as ticks."""
    if figure.unit != "share":
        return ""
    ticks = "".join(
        f'<i class="tick {name}" style="left:{100 * value:.1f}%" title="{name} {value:.3f}"></i>'
        for name, value in (("floor", figure.floor), ("target", figure.target))
        if value is not None
    )
    return f'<div class="bar"><span style="width:{100 * figure.value:.1f}%"></span>{ticks}</div>'


# ---- training


def _stages(report: Report) -> str:
    if not report.stages:
        return ""
    rows = "".join(_stage_row(stage, report.wall_seconds[stage.name]) for stage in report.stages)
    heads = ("stage", "trained parameters", "steps", "samples seen", "time")
    head = "".join(f"<th>{name}</th>" for name in heads)
    names = {stage.name for stage in report.stages}
    rest = ", ".join(
        f"{escape(name)} {_duration(seconds)}"
        for name, seconds in report.wall_seconds.items()
        if name not in names
    )
    total = _duration(sum(report.wall_seconds.values()))
    others = f"; the rest: {rest}" if rest else ""
    return (
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>\n"
        f"<p>{total} in all{others}.</p>\n"
        f'<div class="charts">{"".join(map(_curves, report.stages))}</div>\n'
    )


def _stage_row(stage: StageRecord, seconds: float) -> str:
    return (
        f'<tr><th scope="row">{escape(stage.name)}<small>{escape(stage.what)}</small></th>'
        f"<td>{_count(stage.parameters)}</td><td>{stage.steps:,}</td>"
        f"<td>{stage.samples:,}</td><td>{_duration(seconds)}</td></tr>\n"
    )


def _count(number: int) -> str:
    return f"{number / 1e6:.2f} M" if number >= 1e5 else f"{number:,}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _curves(stage: StageRecord) -> str:
    if stage.metrics is None:
        return ""
    return "".join(
        f"<figure><figcaption>{escape(stage.name)}: {escape(key)}</figcaption>"
        f"{chart(read_series(stage.metrics, key), title=f'{stage.name} {key}')}</figure>"
        for key in stage.curves
    )


# ---- pictures and answers


def _answer(answer: Answer) -> str:
    right = "" if answer.correct else f"<small>right: {escape(answer.right_answer)}</small>"
    return (
        f'<article class="answer">{_picture(answer.picture, "the picture asked about")}'
        f'<div><p class="question">{escape(answer.question)}</p>'
        f"<p>{_mark(answer.correct)} {escape(answer.answer) or '(nothing)'}{right}</p>"
        "</div></article>\n"
    )


def _drawing(drawing: Drawing) -> str:
    verdicts = drawing.correct or (None,) * len(drawing.pictures)
    pictures = "".join(
        _captioned(picture, "", _mark(verdict))
        for picture, verdict in zip(drawing.pictures, verdicts, strict=True)
    )
    return (
        f'<article><p class="question">{escape(drawing.prompt)}</p>'
        f'<div class="strip">{pictures}</div></article>\n'
    )


def _edit(edit: Edit) -> str:
    pictures = (
        _captioned(edit.source, "source")
        + _captioned(edit.edited, "edited ", _mark(edit.correct))
        + _captioned(edit.target, "target")
    )
    return (
        f'<article><p class="question">{escape(edit.instruction)}</p>'
        f'<div class="strip">{pictures}</div></article>\n'
    )


def _reconstructions(report: Report) -> str:
    words = _code_use(report.codes) if report.codes else ""
    return words + _grid(map(_reconstruction, report.reconstructions), "strips")


def _code_use(codes: CodeUse) -> str:
    return (
        f"<p>{codes.used:,} of {codes.size:,} codes occur in {codes.n:,} held-out pictures; "
        f"perplexity {codes.perplexity:,.0f}.</p>\n"
    )


def _reconstruction(item: Reconstruction) -> str:
    return (
        '<article><div class="strip">'
        + _captioned(item.picture, "picture")
        + _captioned(item.vae, "VAE")
        + _captioned(item.decoder, "decoder, from its ids")
        + "</div></article>\n"
    )


# ---- the end of the page


def _list(sentences: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return f"<ul>{items}</ul>\n" if items else ""


def _details(report: Report) -> str:
    versions = "\n".join(f"{name} {version}" for name, version in report.versions.items())
    blocks = [(f"Seed {report.seed}, versions", versions)]
    blocks += [
        (f"Config of {name}", json.dumps(config, indent=2))
        for name, config in report.configs.items()
    ]
    return "".join(
        f"<details><summary>{escape(title)}</summary><pre>{escape(text)}</pre></details>\n"
        for title, text in blocks
    )

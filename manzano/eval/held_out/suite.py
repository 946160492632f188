"""manzano eval --suite held-out: samples of the test split drawn or edited, and scored by what is
true of them.

scores.json       the score file
held-out.jsonl    a line a sample: seed, file, why it failed if it did
held-out/KEY.png  the pictures
"""

from argparse import Namespace
from datetime import datetime, timezone
from pathlib import Path

from manzano.eval.held_out.judges import Judging, load_judges
from manzano.eval.held_out.samples import open_held_out
from manzano.eval.pictures.layouts.registry import read_items
from manzano.eval.pictures.suite import (
    check_can_draw,
    data_record,
    draw_all,
    say,
    tasks,
    tell,
)
from manzano.eval.provenance import environment, model_record
from manzano.eval.scores import ScoreFile, write_scores

PACKAGES = ("torchmetrics", "torch-fidelity", "rapidocr", "easyocr")


def run(arguments: Namespace) -> Path:
    """Draws what is not drawn yet, scores it and returns the path of the score file.

    Raises:
        ValueError: if the samples are not of drawings or edits, weights or packages are missing, or
            the model cannot draw: before anything is drawn.
    """
    started = datetime.now(timezone.utc).isoformat(timespec="seconds")
    layout = open_held_out(arguments)
    items = read_items(layout, arguments.limit)
    check_can_draw(Path(arguments.model))
    judges = load_judges(arguments, layout, items)
    model, data = model_record(arguments.model), data_record(layout, arguments.limit)
    artist, log = draw_all(arguments, layout, items, model, data)
    judging = Judging(layout=layout, pipeline=artist.pipeline, judges=judges, seed=arguments.seed)
    failed = {record["key"]: record["error"] for record in log.records if record["error"]}
    scores = judging.judge(items, failed)
    data |= {"split": "test", "not_scored": judging.refused}
    drawn = tasks(log.records, data, artist.record() | judges.settings, {layout.task: scores})
    path = arguments.output / "scores.json"
    write_scores(
        ScoreFile(
            suite=layout.suite, model=model, seed=arguments.seed, tasks=drawn, started=started,
            environment=environment(arguments.device, packages=PACKAGES),
            wall_seconds=log.seconds,
        ),
        path,
    )  # fmt: skip
    for key, reason in list(judging.refused.items())[:10]:
        tell(f"{key} is not scored in all: {reason}")
    say(layout.scorer(*artist.size), log.records)
    return path

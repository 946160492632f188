"""From a stage's name and a command line to a finished run: what `train.py` calls."""

import difflib
import logging
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import yaml

from manzano.training import config as configuration
from manzano.training.command_line import fail, parse
from manzano.training.config import HARMLESS, TrainConfig

logger = logging.getLogger(__name__)


def run(stage_name: str, argv: Sequence[str]) -> Path:
    """Train one stage as the command line `argv` says; returns the folder of the export.

    A run that is already finished returns at once. A wrong command line exits with code 2, a signal
    with 128 plus its number after saving.
    """
    from manzano.training.stages import STAGES, load_stage

    if stage_name not in STAGES:
        near = difflib.get_close_matches(stage_name, STAGES, n=1, cutoff=0.0)
        known = ", ".join(STAGES)
        fail("train.py", f"unknown stage {stage_name!r}; did you mean {near[0]!r}? Known: {known}.")
    config_class, stage_class = load_stage(stage_name)
    config: TrainConfig = parse(config_class, argv, prog=f"train.py {stage_name}")
    export = Path(config.loop.output) / "export"
    if finished(config):
        logger.info("%s is finished already; delete it to train again.", export)
        return export

    # torch is imported only now, so that --help is quick
    from manzano.training import distributed, random_state
    from manzano.training.interrupt import Interrupted
    from manzano.training.loop import train

    random_state.seed(config.loop.seed)  # the same initial weights on every rank
    try:
        distributed.setup(config.loop.device)
        with (
            ExitStack() as turn
        ):  # of a node's ranks, one at a time has the whole model on the host
            turn.enter_context(distributed.turn())
            export = train(stage_class(config), config, placed=turn.close)
    except Interrupted as stopped:
        distributed.shut_down()
        logger.warning("%s", stopped)
        raise SystemExit(128 + stopped.signum) from None
    distributed.shut_down()
    return export


def finished(config: TrainConfig) -> bool:
    """Whether the run's export is there and was made by this configuration."""
    record = Path(config.loop.output) / "export" / "training.yaml"
    if not record.exists():
        return False
    made_by = configuration.with_defaults(
        yaml.safe_load(record.read_text(encoding="utf-8")), config
    )
    changed = configuration.differences(made_by, configuration.to_dict(config)).keys()
    return not changed - (HARMLESS - {"loop.max_steps"})

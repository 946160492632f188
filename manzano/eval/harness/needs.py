"""What a task of lmms-eval needs to give scores, checked before the work and not after it.

Without its judge, or without its pictures, a task of lmms-eval scores 0 or fails when all has been
answered. Tasks are known by their functions, so that one's own task that uses them is known too.
"""

import os
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a task needs besides answers."""

    keys: tuple[str, ...]
    """Environment variables, one of which has the key of the judge."""
    url: str
    """The variable with the address of another judge than OpenAI's."""
    by_api_type: bool = False
    """Whether the variable API_TYPE may name another service, with variables of its own."""
    pictures: bool = False
    """Whether the scores are those of pictures that lmms-eval does not load unasked."""
    advice: str = ""


NEEDS = {
    "mathvista_process_results": Needs(
        keys=("OPENAI_API_KEY",), url="OPENAI_API_URL", by_api_type=True
    ),
    "mmbench_aggregate_dev_results_eval": Needs(
        keys=("OPENAI_API_KEY",), url="OPENAI_API_URL", by_api_type=True,
        advice=", or run mmbench_en_dev_static, which needs no judge",
    ),
    "gedit_bench_process_results": Needs(
        keys=("VIESCORE_API_KEY",), url="VIESCORE_API_BASE", pictures=True
    ),
    "imgedit_process_results": Needs(
        keys=("IMGEDIT_API_KEY",), url="IMGEDIT_BASE_URL", pictures=True
    ),
    "wise_process_results": Needs(
        keys=("WISE_API_KEY", "OPENAI_API_KEY"), url="WISE_BASE_URL"
    ),
}  # fmt: skip
MODES = {
    "gedit_bench_doc_to_text": "edit",
    "imgedit_doc_to_text": "edit",
    "wise_doc_to_text": "draw",
}
"""Known also where nothing is scored (`--predict_only`)."""


def check_task(task: Any, mode: str) -> None:
    """Raises ValueError if a task (of lmms-eval) cannot be scored, or asks for another mode."""
    name = task.config.task
    asked = MODES.get(_name(task.config.doc_to_text), mode)
    if asked != mode:
        raise ValueError(f"the task {name} needs --model_args ...,mode={asked}, got mode={mode}")
    scored_by = [task.config.process_results, *task._aggregation_list.values()]
    for needs in (NEEDS[f] for f in map(_name, scored_by) if f in NEEDS):
        elsewhere = needs.by_api_type and os.environ.get("API_TYPE", "openai") != "openai"
        if not elsewhere and not any(os.environ.get(key) for key in needs.keys):
            raise ValueError(
                f"{name} is scored by a judge, and none is configured: set "
                f"{' or '.join(needs.keys)} ({needs.url} for a judge of your own){needs.advice}, "
                "or give --predict_only to keep the answers without a score"
            )
        if needs.pictures and not getattr(task.args, "process_with_media", True):
            raise ValueError(
                f"{name} compares pictures: give --process_with_media, or all its scores are 0"
            )


def _name(function: Any) -> str:
    return getattr(function, "__name__", "")

"""The five stages: each module has `Config` (what its YAML says) and `Stage` (what is trained)."""

import importlib
from collections.abc import Collection
from dataclasses import fields

STAGES = ("vision", "vae", "tokenizer", "llm", "decoder")
"""In the order in which a model is made from nothing."""


def load_stage(name: str) -> tuple[type, type]:
    """The configuration class and the stage class of a stage; imports only that stage."""
    module = importlib.import_module(f"manzano.training.stages.{name}")
    return module.Config, module.Stage


def stage_of(keys: Collection[str]) -> str:
    """The stage that a configuration with these top-level keys is of.

    Raises:
        ValueError: where no stage has them all.
    """
    for name in STAGES:
        if set(keys) <= {field.name for field in fields(load_stage(name)[0])}:
            return name
    raise ValueError(f"no stage has all the keys {', '.join(keys)}: of another version?")

"""The five stages: each module has `Config` (what its YAML says) and `Stage` (what is trained)."""

import importlib

STAGES = ("vision", "vae", "tokenizer", "llm", "decoder")
"""In the order in which a model is made from nothing."""


def load_stage(name: str) -> tuple[type, type]:
    """The configuration class and the stage class of a stage; imports only that stage."""
    module = importlib.import_module(f"manzano.training.stages.{name}")
    return module.Config, module.Stage

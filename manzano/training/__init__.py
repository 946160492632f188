"""Training: one loop for all stages. `run("llm", ["--config", "configs/demo/llm.yaml"])` is `python
train.py llm ...`."""

from manzano.training.launch import run

__all__ = ["run"]

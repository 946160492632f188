"""What lmms-eval reads at its start, through an entry point: where the model's class is.

Light, for lmms-eval reads it also when another model is run.
"""

from lmms_eval.models.registry_v2 import ModelManifest


def manifest() -> ModelManifest:
    return ModelManifest("manzano", chat_class_path="manzano.eval.harness.model.ManzanoChat")

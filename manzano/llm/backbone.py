"""Language-model backbones: any causal language model that transformers' Auto classes know.

Ours, with nonlinear RNNs in place of attention, is among them: model_type pararnn.
"""

from difflib import get_close_matches

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

import manzano.llm.pararnn.modeling  # noqa: F401  (registers model_type pararnn)


def language_config(settings: dict) -> PreTrainedConfig:
    """The transformers config of a causal language model, e.g. {"model_type": "qwen3"}.

    Raises:
        ValueError: for a model_type transformers does not know, or a key that the config lacks,
            with the nearest name.
    """
    settings = dict(settings)
    model_type = settings.pop("model_type", None)
    if model_type is None:
        raise ValueError(
            f"a language model's config needs model_type (e.g. qwen3), got keys {sorted(settings)}"
        )
    config = AutoConfig.for_model(model_type)
    known = config.to_dict() | {"attn_implementation": None, "dtype": None, "architectures": None}
    for key in settings:
        if key not in known and not hasattr(config, key):
            near = get_close_matches(key, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"{model_type} has no setting {key!r}{hint}")
    return AutoConfig.for_model(model_type, **settings)


def load_pretrained(settings: dict, vocab_size: int) -> PreTrainedModel | None:
    """The model of `{"pretrained": NAME}` with `vocab_size` rows; None for other settings.

    Rows it lacks begin as a draw from its text rows' mean and covariance.

    Raises:
        ValueError: if there are other settings beside the name.
    """
    if "pretrained" not in settings:
        return None
    if len(settings) > 1:
        others = sorted(settings.keys() - {"pretrained"})
        raise ValueError(f"llm.pretrained brings its own settings along: remove {others}")
    # Trained weights are fp32, whatever they were saved in; precision is the loop's matter.
    model = AutoModelForCausalLM.from_pretrained(settings["pretrained"], dtype=torch.float32)
    model.config.dtype = torch.float32
    model.resize_token_embeddings(vocab_size, mean_resizing=True)
    return model

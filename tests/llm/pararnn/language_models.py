"""ParaRNN language models small enough for tests."""

import torch
from transformers import AutoModelForCausalLM

from manzano.llm.backbone import language_config
from manzano.llm.pararnn.modeling import ParaRNNForCausalLM

PARARNN = {
    "model_type": "pararnn",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_heads": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "solver": "sequential",
}
HYBRID = {"layer_types": ["pararnn", "full_attention", "pararnn"]}
KINDS = {
    "gru": {"cell": "gru"},
    "lstm": {"cell": "lstm"},
    "hybrid": {"cell": "gru", **HYBRID},
}
VOCABULARY = 50


def language_model(kind: str = "gru", **changes) -> ParaRNNForCausalLM:
    """With random weights, its biases and scales too, in eval mode."""
    settings = PARARNN | {"vocab_size": VOCABULARY} | KINDS[kind] | changes
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(language_config(settings))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
    return model.eval()


def tokens(*shape: int, seed: int = 1) -> torch.Tensor:
    """Random ids."""
    return torch.randint(VOCABULARY, shape, generator=torch.Generator().manual_seed(seed))

"""ParaRNNConfig: what the `config.json` of a ParaRNN language model holds."""

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

RECURRENT = "pararnn"
"""A layer that mixes over time by a nonlinear RNN."""
ATTENTION = "full_attention"
"""A layer that mixes over time by causal attention, as in Qwen3."""
CELL_NAMES = ("gru", "lstm")


@strict
class ParaRNNConfig(PreTrainedConfig):
    """Sizes of a ParaRNN language model (arXiv 2510.21450, Sec. 5.2 and App. C.1).

    The defaults are the 400M model of the paper; `presets.py` has the others.

    Args:
        intermediate_size: of the SwiGLU MLP; by default 8/3 of the hidden size, rounded up to a
            multiple of 256.
        cell: "gru" or "lstm".
        num_heads: blocks of the cell's input projection.
        conv_kernel: taps of the causal depthwise convolution in front of the cell.
        recurrent_bound: recurrent weights are clamped to +- this; None leaves them free.
        keep_bias: initial bias of the gate that keeps the cell's state, towards keeping: of 3, a
            step keeps sigmoid(3) = .95 of it at first; of 0, the paper's, half.
        solver: a name of manzano.llm.pararnn.solver.SOLVERS, or "auto".
        layer_types: "pararnn" or "full_attention" for each layer; by default all are "pararnn".
        num_attention_heads, num_key_value_heads, head_dim, attention_bias, attention_dropout,
        rope_parameters, max_position_embeddings: of the attention layers, as in Qwen3Config.

    Raises:
        ValueError: for an unknown cell or layer type, heads that do not divide the hidden size, a
            kernel below 1, or layer_types of another number than the layers.
    """

    model_type = "pararnn"
    keys_to_ignore_at_inference = ["past_key_values"]

    vocab_size: int = 50_432
    hidden_size: int = 1024
    intermediate_size: int | None = None
    num_hidden_layers: int = 24
    cell: str = "gru"
    num_heads: int = 4
    conv_kernel: int = 4
    recurrent_bound: float | int | None = 0.5
    keep_bias: float | int = 0.0
    solver: str = "auto"
    hidden_act: str = "silu"
    rms_norm_eps: float = 1e-6
    layer_types: list[str] | None = None
    num_attention_heads: int = 8
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    attention_bias: bool = False
    attention_dropout: float | int = 0.0
    rope_parameters: dict | None = None
    max_position_embeddings: int = 32_768
    use_cache: bool = True
    tie_word_embeddings: bool = False
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    def __post_init__(self, **kwargs):
        if self.intermediate_size is None:
            self.intermediate_size = -(-8 * self.hidden_size // (3 * 256)) * 256
        if self.layer_types is None:
            self.layer_types = [RECURRENT] * self.num_hidden_layers
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        if self.cell not in CELL_NAMES:
            raise ValueError(f"cell is one of {', '.join(CELL_NAMES)}, got {self.cell!r}")
        heads = {"num_heads": self.num_heads}
        if ATTENTION in self.layer_types and self.head_dim is None:
            heads["num_attention_heads"] = self.num_attention_heads
        for name, number in heads.items():
            if number < 1 or self.hidden_size % number:
                raise ValueError(f"{name} {number} must divide hidden_size {self.hidden_size}")
        if self.conv_kernel < 1:
            raise ValueError(f"conv_kernel must be at least 1, got {self.conv_kernel}")
        if self.head_dim is None:
            self.head_dim = self.hidden_size // self.num_attention_heads
        super().__post_init__(**kwargs)
        self.validate_layer_type()

    def validate_layer_type(self):
        """In place of transformers' check, which knows no nonlinear recurrent layers."""
        layer_types = self.layer_types or []
        unknown = sorted(set(layer_types) - {RECURRENT, ATTENTION})
        if unknown:
            raise ValueError(
                f"layer_types holds {unknown}; a layer is {RECURRENT!r} or {ATTENTION!r}"
            )
        if len(layer_types) != self.num_hidden_layers:
            raise ValueError(
                f"layer_types names {len(layer_types)} layers, num_hidden_layers is "
                f"{self.num_hidden_layers}: give one type for each layer"
            )


AutoConfig.register(ParaRNNConfig.model_type, ParaRNNConfig, exist_ok=True)

"""ParaRNN language models in transformers' terms (arXiv 2510.21450, Sec. 5.2).

A Transformer with a nonlinear RNN in place of attention in all layers or in some (`layer_types`):

    x = residual_scale * x + mixer(norm(x))       recurrent layers; attention layers have no scale
    x = x + mlp(norm(x))

Norm, MLP, attention and rotary embedding are transformers' Qwen3 ones.

Letters: B rows, T tokens, D width, V vocabulary.
"""

import math
from typing import cast

import torch
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    Cache,
    DynamicCache,
    GenerationMixin,
    PreTrainedModel,
)
from transformers import initialization as init
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.models.qwen3.configuration_qwen3 import Qwen3Config
from transformers.models.qwen3.modeling_qwen3 import (
    Qwen3Attention,
    Qwen3MLP,
    Qwen3RMSNorm,
    Qwen3RotaryEmbedding,
)
from transformers.utils import can_return_tuple
from transformers.utils.output_capturing import capture_outputs

from manzano.llm.pararnn.configuration import ATTENTION, ParaRNNConfig
from manzano.llm.pararnn.layers import ParaRNNLayer
from manzano.llm.pararnn.mixer import CausalConvolution, ParaRNNMixer
from manzano.llm.pararnn.rows import PackedRows, padded_rows, several_sequences


class ParaRNNDecoderLayer(GradientCheckpointingLayer):
    """A mixer, recurrent or attention, and an MLP."""

    def __init__(self, config: ParaRNNConfig, layer_idx: int):
        super().__init__()
        assert config.layer_types is not None  # its __post_init__ saw to it
        qwen3 = cast(Qwen3Config, config)  # has all that is read of it
        self.layer_idx = layer_idx
        self.mixer_norm = Qwen3RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        if config.layer_types[layer_idx] == ATTENTION:
            self.self_attn = Qwen3Attention(qwen3, layer_idx)
        else:
            self.mixer = ParaRNNMixer(config, layer_idx)
            self.residual_scale = nn.Parameter(torch.ones(config.hidden_size))
        self.mlp_norm = Qwen3RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = Qwen3MLP(qwen3)

    def forward(
        self,
        hidden: Tensor,
        sequences: PackedRows | None = None,
        attention_mask: Tensor | None = None,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        past_key_values: Cache | None = None,
        **kwargs,
    ) -> Tensor:
        """hidden (B, T, D) -> (B, T, D). `sequences` is for recurrent layers, the mask and the
        rotary embeddings are for attention."""
        normed = self.mixer_norm(hidden)
        if hasattr(self, "mixer"):
            mixed = self.mixer(normed, sequences, past_key_values)
            hidden = torch.addcmul(mixed, hidden, self.residual_scale.to(hidden.dtype))
        else:
            assert position_embeddings is not None
            mixed, _ = self.self_attn(
                normed, position_embeddings=position_embeddings, attention_mask=attention_mask,
                past_key_values=past_key_values, **kwargs,
            )  # fmt: skip
            hidden = hidden + mixed
        return hidden + self.mlp(self.mlp_norm(hidden))


class ParaRNNPreTrainedModel(PreTrainedModel):
    """What the model and the model with a head have in common."""

    config_class = ParaRNNConfig
    config: ParaRNNConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["ParaRNNDecoderLayer"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = True
    _supports_attention_backend = True
    _is_stateful = True  # a state cannot be taken back, which assisted generation would need
    _can_record_outputs = {"hidden_states": ParaRNNDecoderLayer, "attentions": Qwen3Attention}

    def _init_weights(self, module: nn.Module) -> None:
        """Linear layers: normal, variance 1 / inputs, cut at 3 sigma; the last layer of a branch is
        divided by sqrt(2 (layer + 1)). The cell and the convolution initialise themselves.

        `init` and, here, `torch.nn.init` leave alone what a checkpoint has filled.
        """
        if isinstance(module, CausalConvolution):
            module.reset_parameters()
        elif isinstance(module, ParaRNNLayer):
            # It fills its tensors itself, not by torch.nn.init.
            loaded = [p for p in module.parameters() if getattr(p, "_is_hf_initialized", False)]
            values = [p.clone() for p in loaded]
            module.reset_parameters()
            for parameter, value in zip(loaded, values, strict=True):
                parameter.copy_(value)
        elif isinstance(module, nn.Linear):
            _truncated_normal(module.weight, module.in_features)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            _truncated_normal(module.weight, module.embedding_dim)
        elif isinstance(module, ParaRNNDecoderLayer):
            last = [module.mlp.down_proj]
            if hasattr(module, "mixer"):
                init.ones_(module.residual_scale)
                last.append(module.mixer.out_proj)
            else:
                last.append(module.self_attn.o_proj)
            for linear in last:
                depth = 2 * (module.layer_idx + 1)
                _truncated_normal(linear.weight, linear.in_features * depth)
        else:
            super()._init_weights(module)


def _truncated_normal(weight: Tensor, inverse_variance: int) -> None:
    std = 1 / math.sqrt(inverse_variance)
    init.trunc_normal_(weight, std=std, a=-3 * std, b=3 * std)


class ParaRNNModel(ParaRNNPreTrainedModel):
    """Embedding, layers and the last norm."""

    def __init__(self, config: ParaRNNConfig):
        super().__init__(config)
        assert config.layer_types is not None
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            ParaRNNDecoderLayer(config, index) for index in range(config.num_hidden_layers)
        )
        self.norm = Qwen3RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        if ATTENTION in config.layer_types:
            self.rotary_emb = Qwen3RotaryEmbedding(cast(Qwen3Config, config))
        self.gradient_checkpointing = False
        self.post_init()

    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPast:
        """See ParaRNNForCausalLM.forward."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        hidden = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        batch, length = hidden.shape[:2]
        sequences = None
        if attention_mask is not None:
            if attention_mask.ndim != 2:
                raise ValueError(
                    "attention_mask is (rows, tokens), 0 at padding: a recurrence can make nothing "
                    f"of one of shape {tuple(attention_mask.shape)}; for several sequences in a "
                    "row give position_ids that restart"
                )
            sequences = padded_rows(attention_mask[:, -length:].to(hidden.device))
        elif position_ids is not None and past_key_values is None:
            sequences = several_sequences(position_ids, batch)
            if sequences is not None and use_cache:
                raise ValueError(
                    "several sequences in a row (position_ids restart) leave nothing to go on "
                    "from: use_cache=False"
                )
            use_cache = use_cache if sequences is None else False
        use_cache = self._caching(use_cache)
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)

        mask = rotary = None
        if hasattr(self, "rotary_emb"):
            if position_ids is None:
                past = 0 if past_key_values is None else past_key_values.get_seq_length()
                position_ids = torch.arange(past, past + length, device=hidden.device)[None]
            rotary = self.rotary_emb(hidden, position_ids)
            mask = create_causal_mask(
                config=self.config, inputs_embeds=hidden, attention_mask=attention_mask,
                past_key_values=past_key_values, position_ids=position_ids,
            )  # fmt: skip
        for layer in self.layers:
            hidden = layer(
                hidden, sequences=sequences, attention_mask=mask, position_embeddings=rotary,
                past_key_values=past_key_values, use_cache=use_cache, **kwargs,
            )  # fmt: skip
        return BaseModelOutputWithPast(
            last_hidden_state=self.norm(hidden), past_key_values=past_key_values
        )

    def _caching(self, use_cache: bool | None) -> bool:
        if self.gradient_checkpointing and self.training:
            return False  # layers are run a second time, as transformers has it
        return self.config.use_cache if use_cache is None else use_cache


class ParaRNNForCausalLM(ParaRNNPreTrainedModel, GenerationMixin):
    """A ParaRNN language model."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: ParaRNNConfig):
        super().__init__(config)
        self.model = ParaRNNModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs,
    ) -> CausalLMOutputWithPast:
        """Logits, and the loss of the next token where there are labels.

        Args:
            input_ids: (B, T); or inputs_embeds (B, T, D).
            attention_mask: (B, T), or (B, all tokens so far); 0 at padding, which may be anywhere
                and changes no state.
            position_ids: (B or 1, T). Without attention_mask and past_key_values, a new sequence
                begins wherever they do not go on by 1: nothing passes from one to the next.
            past_key_values: what the call before returned, or DynamicCache(config=model.config).
            labels: (B, T), -100 where nothing is predicted; not shifted.
            use_cache: by default config.use_cache, but False for rows of several sequences.
            logits_to_keep: only for the last so many tokens (0: all), or for these.

        Raises:
            ValueError: for both or neither of input_ids and inputs_embeds; a mask that is not 2-D;
                a cache of another model; use_cache with several sequences in a row.
        """
        out = self.model(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids,
            past_key_values=past_key_values, inputs_embeds=inputs_embeds, use_cache=use_cache,
            **kwargs,
        )  # fmt: skip
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(out.last_hidden_state[:, keep])
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs
            )
        return CausalLMOutputWithPast(
            loss=loss, logits=logits, past_key_values=out.past_key_values,
            hidden_states=out.hidden_states, attentions=out.attentions,
        )  # fmt: skip


AutoModel.register(ParaRNNConfig, ParaRNNModel, exist_ok=True)
AutoModelForCausalLM.register(ParaRNNConfig, ParaRNNForCausalLM, exist_ok=True)

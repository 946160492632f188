"""ManzanoConfig: what a Manzano folder's `config.json` holds."""

from dataclasses import fields

from transformers import AutoConfig, PreTrainedConfig

from manzano.llm.backbone import language_config
from manzano.llm.vocabulary import JointVocabulary
from manzano.tokenizer.hybrid import HybridTokenizerConfig


class ManzanoConfig(PreTrainedConfig):
    """Vision tokenizer, language model and joint vocabulary.

    Args:
        vision_config: the fields of HybridTokenizerConfig.
        text_config: any causal language model of transformers (`model_type` and its fields).
        vocabulary: the fields of JointVocabulary.
        image_weight: weight of the image term of the loss against text's 1 (Manzano, Sec. 3.1).
    """

    model_type = "manzano"
    sub_configs = {"text_config": AutoConfig}  # pyright: ignore[reportAssignmentType]

    vision_config: dict | None = None
    text_config: dict | PreTrainedConfig | None = None
    vocabulary: dict | None = None
    image_weight: float = 0.5
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs):
        if self.vision_config is None:
            self.vision_config = HybridTokenizerConfig().to_dict()
        if isinstance(self.text_config, dict):
            self.text_config = language_config(self.text_config)
        if self.text_config is None:
            self.text_config = language_config({"model_type": "qwen3"})
        super().__post_init__(**kwargs)

    @property
    def vision(self) -> HybridTokenizerConfig:
        known = {f.name for f in fields(HybridTokenizerConfig)}
        return HybridTokenizerConfig(
            **{k: v for k, v in (self.vision_config or {}).items() if k in known}
        )

    @property
    def joint_vocabulary(self) -> JointVocabulary:
        if self.vocabulary is None:
            raise ValueError(
                "this ManzanoConfig has no `vocabulary`: give "
                "joint_vocabulary(tokenizer, codebook_size).to_dict()"
            )
        return JointVocabulary(**self.vocabulary)


AutoConfig.register(ManzanoConfig.model_type, ManzanoConfig, exist_ok=True)

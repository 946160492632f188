"""Stage `tokenizer`: both adapters learn to speak to a language model (Manzano, Sec. 4.2.1).

A small language model sits on the vision tokenizer; for each sequence one adapter is drawn at
random and its embeddings take the place of the picture; the only loss is next-token loss on text.
Nothing is frozen. ViT and adapters stay; the paper throws the language model away.
"""

import logging
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from manzano.data_mix.encoders import SequenceBatch, SequenceEncoder
from manzano.llm.backbone import language_config, load_pretrained
from manzano.llm.loss import count_targets, unified_loss
from manzano.llm.vocabulary import JointVocabulary, joint_vocabulary
from manzano.model import splice
from manzano.tokenizer.fsq import code_usage
from manzano.tokenizer.hybrid import HybridTokenizer, HybridTokenizerConfig
from manzano.tokenizer.vit import load_vit
from manzano.training.config import TrainConfig
from manzano.training.guard import know_nothing
from manzano.training.stages.data import DataConfig, open_loader

logger = logging.getLogger(__name__)

WINDOW = 20_000
"""Codes over which usage and perplexity are taken."""


@dataclass(frozen=True, kw_only=True)
class Config(TrainConfig):
    """Tokenizer training: a ViT, two adapters, a small language model on top."""

    data: DataConfig
    text_tokenizer: str
    """Name or folder of the text tokenizer."""
    tokenizer: HybridTokenizerConfig
    """Sizes of the vision tokenizer."""
    vit_weights: str = ""
    """Pretrained ViT: a .safetensors file, the export folder of the vision stage, or timm:NAME; ""
    starts from random weights."""
    llm: dict = field(default_factory=dict)
    """The small language model: model_type and its settings, or {pretrained: NAME}."""
    row_length: int = 2048
    """Tokens in a packed row."""
    max_questions: int = 4
    """Questions drawn of a sample that asks more about its picture."""
    discrete_probability: float = 0.5
    """How often the discrete adapter is drawn."""
    collapse_perplexity: float = 8.0
    """Effective number of codes below which a warning says that the codebook has collapsed."""


class AlignmentModel(nn.Module):
    """A vision tokenizer and the small language model that reads it."""

    code_counts: Tensor

    def __init__(
        self, vision: HybridTokenizer, language_model: PreTrainedModel, vocabulary: JointVocabulary
    ):
        super().__init__()
        self.vision = vision
        self.language_model = language_model
        self.vocabulary = vocabulary
        self.register_buffer("code_counts", torch.zeros(vision.config.codebook_size))
        self._no_split_modules = ["Block", *(language_model._no_split_modules or [])]

    def forward(self, batch: SequenceBatch, discrete: Tensor) -> tuple[Tensor, Tensor]:
        """discrete (M,) bool: which blocks enter through the discrete adapter.

        Returns logits (B, T, V) and the codes' ids (P, N).
        """
        features = self.vision.features(batch.pixel_values)  # (P, rows, columns, C)
        codes, ids = self.vision.discrete_adapter.quantize(features)
        branches = torch.stack(
            [
                self.vision.continuous_adapter(features),
                self.vision.discrete_adapter.embed_codes(codes),
            ]
        )  # (2, P, N, D)
        blocks = branches[discrete.long(), batch.image_index]  # (M, N, D)
        embeds = self.language_model.get_input_embeddings()(batch.input_ids)
        embeds = splice(embeds, batch.input_ids == self.vocabulary.image, blocks)
        out = self.language_model(
            inputs_embeds=embeds, position_ids=batch.position_ids, use_cache=False
        )
        return out.logits, ids


class Stage:
    """Trains an AlignmentModel and exports its HybridTokenizer."""

    def __init__(self, config: Config):
        self.config = config
        self.text = AutoTokenizer.from_pretrained(config.text_tokenizer)
        self.vocabulary = joint_vocabulary(self.text, image_size=0)
        vision = HybridTokenizer(config.tokenizer)
        if config.vit_weights:
            load_vit(vision.vit, config.vit_weights)
        language_model = load_pretrained(config.llm, self.vocabulary.size)
        if language_model is None:
            settings = language_config({**config.llm, "vocab_size": self.vocabulary.size})
            language_model = AutoModelForCausalLM.from_config(settings)
        width = language_model.config.hidden_size
        if (config.tokenizer.width, config.tokenizer.discrete_width) != (width, width):
            raise ValueError(
                "tokenizer.width and tokenizer.discrete_width must be the language model's width "
                f"{width}, got {config.tokenizer.width} and {config.tokenizer.discrete_width}"
            )
        self.model = AlignmentModel(vision, language_model, self.vocabulary)
        self.batches_seen = 0

    def batches(self, *, rank: int, world_size: int):
        encoder = SequenceEncoder(
            self.text, image_size=self.config.tokenizer.image_size,
            num_tokens=self.model.vision.num_tokens, row_length=self.config.row_length,
            max_questions=self.config.max_questions,
        )  # fmt: skip
        return open_loader(
            self.config.data,
            encoder,
            seed=self.config.loop.seed,
            rank=rank,
            world_size=world_size,
            packed=True,
        )

    def targets(self, batch: SequenceBatch) -> dict[str, int]:
        if batch.target_pixel_values is not None:
            raise ValueError(
                "the tokenizer stage learns from text alone, and its mixture holds pictures to be "
                "drawn: leave the sources for drawing and editing out of data.mixture.sources"
            )
        count = count_targets(batch.labels, self.vocabulary)
        return count | {"tokens": batch.input_ids.numel(), "samples": len(batch.pixel_values)}

    def loss(
        self, batch: SequenceBatch, totals: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        sequences = int(batch.image_sequence.max()) + 1 if len(batch.image_sequence) else 0
        drawn = torch.rand(sequences) < self.config.discrete_probability
        discrete = drawn.to(batch.input_ids.device)[batch.image_sequence]
        logits, ids = self.model(batch, discrete)
        loss, terms = unified_loss(logits, batch.labels, self.vocabulary, totals)
        usage, perplexity = self.count_codes(ids)
        share = len(batch.pixel_values) / totals["samples"]
        return loss, {
            "text": terms["text"].detach(),
            "code_usage": usage * share,
            "code_perplexity": perplexity * share,
        }

    def ceilings(self) -> dict[str, float]:
        return {"text": know_nothing(self.vocabulary.size)}

    @torch.no_grad()
    def count_codes(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Usage and perplexity over the last WINDOW codes or so; at times looks for a collapse."""
        counts = self.model.code_counts
        counts *= 1 - min(1.0, ids.numel() / WINDOW)
        counts += torch.bincount(ids.flatten(), minlength=len(counts))
        counts[counts < 0.5] = 0  # so old that it is out of the window
        usage, perplexity = code_usage(counts)
        self.batches_seen += 1
        if self.batches_seen % 200 == 0 and perplexity < self.config.collapse_perplexity:
            logger.warning(
                "the codebook has collapsed: %.1f codes in effect of %d. Start from a pretrained "
                "ViT (vit_weights), lower optim.lr, or raise data.batch_size; see docs/training.md",
                float(perplexity), len(counts),
            )  # fmt: skip
        return usage, perplexity

    def preview(self, directory: Path, step: int) -> None:
        """Nothing to look at: losses and code usage tell."""

    def export(self, directory: Path) -> None:
        """The vision tokenizer; and in `llm/` the small language model, with which a unified one of
        its size may start where there is no pretrained one."""
        self.model.vision.save(directory)
        self.model.language_model.save_pretrained(directory / "llm")

"""Stage `tokenizer`: both adapters learn to speak to a language model (Manzano, Sec. 4.2.1).

A small language model sits on the vision tokenizer; for each sequence one adapter is drawn at
random and its embeddings take the place of the picture; the only loss is next-token loss on text.
Nothing is frozen. ViT and adapters stay; the paper throws the language model away.

Pre-training, continued pre-training and fine-tuning are configurations of this one stage.
"""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from manzano.data_mix.encoders import SequenceBatch, SequenceEncoder
from manzano.llm.backbone import build_language_model
from manzano.llm.loss import count_targets, unified_loss
from manzano.llm.vocabulary import JointVocabulary, joint_vocabulary
from manzano.load_report import strict_report
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
    start: str = ""
    """Export folder of this stage to go on from (continued pre-training, fine-tuning), in place of
    tokenizer, vit_weights and llm."""
    tokenizer: HybridTokenizerConfig = HybridTokenizerConfig()
    """Sizes of the vision tokenizer; left out, and not read, where start brings one."""
    vit_weights: str = ""
    """Pretrained ViT: timm:NAME, a file, or a folder (see `load_vit`); "" starts from random
    weights."""
    llm: dict[str, Any] = field(default_factory=dict)
    """The small language model: model_type and its settings, or {pretrained: NAME}."""
    row_length: int = 2048
    """Tokens in a packed row."""
    max_questions: int = 4
    """Questions drawn of a sample that asks more about its picture."""
    max_tiles: int = 1
    """Tiles that a picture is split into at most, where it is larger than the vision tokenizer's
    square; 1 splits none."""
    discrete_probability: float = 0.5
    """How often the discrete adapter is drawn."""
    collapse_perplexity: float = 8.0
    """Effective number of codes below which a warning says that the codebook has collapsed."""

    def __post_init__(self):
        if not self.start and not self.llm:
            raise ValueError("give start (an export folder of this stage), or tokenizer and llm.")
        sized = self.tokenizer != HybridTokenizerConfig()
        if self.start and (sized or self.vit_weights or self.llm):
            raise ValueError(
                "start brings its own vision tokenizer and language model: remove tokenizer, "
                "vit_weights and llm, or remove start."
            )
        if self.tokenizer.kind == "dual":
            raise ValueError(
                "tokenizer.kind dual is not trained in one piece: its ids learn from pixels (see "
                "manzano/training/stages/pixels.py), the rest as the hybrid's does."
            )


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
                self.vision.read(features),
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


def new_parts(
    config: Config, text: PreTrainedTokenizerBase, vocabulary: JointVocabulary
) -> tuple[HybridTokenizer, PreTrainedModel]:
    """The vision tokenizer and the small language model that `config` describes.

    Raises:
        ValueError: if their widths differ.
    """
    vision = HybridTokenizer(config.tokenizer)
    if config.vit_weights:
        load_vit(vision.vit, config.vit_weights)
    language_model = build_language_model(config.llm, text, vocabulary)
    width = language_model.config.hidden_size
    if (config.tokenizer.width, config.tokenizer.discrete_width) != (width, width):
        raise ValueError(
            "tokenizer.width and tokenizer.discrete_width must be the language model's width "
            f"{width}, got {config.tokenizer.width} and {config.tokenizer.discrete_width}"
        )
    return vision, language_model


def trained_parts(folder: str, rows: int) -> tuple[HybridTokenizer, PreTrainedModel]:
    """Both models of an export folder of this stage, exactly as they were trained.

    Raises:
        FileNotFoundError: if the folder lacks a file, naming it.
        ValueError: if the language model was trained with another text tokenizer.
    """
    vision = HybridTokenizer.load(folder)
    small = Path(folder) / "llm"
    if not small.is_dir():
        raise FileNotFoundError(
            f"no llm/ in {folder}: start needs a whole export of the tokenizer stage, with the "
            "small language model"
        )
    language_model, info = AutoModelForCausalLM.from_pretrained(  # pyright: ignore
        small, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True
    )
    strict_report("language model", str(small), language_model, info).log()
    if language_model.config.vocab_size != rows:
        raise ValueError(
            f"the language model in {small} has {language_model.config.vocab_size} rows, the text "
            f"tokenizer {rows}: give the text_tokenizer that it was trained with"
        )
    return vision, language_model


class Stage:
    """Trains an AlignmentModel and exports its HybridTokenizer."""

    def __init__(self, config: Config):
        self.config = config
        self.text = AutoTokenizer.from_pretrained(config.text_tokenizer)
        self.vocabulary = joint_vocabulary(self.text, image_size=0)
        if config.start:
            vision, language_model = trained_parts(config.start, self.vocabulary.size)
        else:
            vision, language_model = new_parts(config, self.text, self.vocabulary)
        self.model = AlignmentModel(vision, language_model, self.vocabulary)
        self.batches_seen = 0

    def batches(self, *, rank: int, world_size: int):
        encoder = SequenceEncoder(
            self.text, image_size=self.model.vision.config.image_size,
            num_tokens=self.model.vision.num_tokens, row_length=self.config.row_length,
            max_questions=self.config.max_questions, max_tiles=self.config.max_tiles,
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
        """The vision tokenizer; and in `llm/` the small language model, with which this stage goes
        on, and a unified one of its size may start where there is no pretrained one."""
        self.model.vision.save(directory)
        self.model.language_model.save_pretrained(directory / "llm")
        self.text.save_pretrained(directory / "llm")  # says which rows are trained tokens

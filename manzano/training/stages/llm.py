"""Stage `llm`: the unified model learns text, understanding, drawing, editing (Manzano, Sec. 3.3).

Pre-training, continued pre-training and fine-tuning are configurations of this one stage. ViT and
discrete adapter are frozen, which fixes the image vocabulary; language model and continuous adapter
are trained, or as little of them as `train` and `lora` say.
"""

import json
import logging
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase, SiglipImageProcessor

from manzano.answering import answer
from manzano.card import write_card
from manzano.configuration import ManzanoConfig
from manzano.data_mix.encoders import SequenceBatch, SequenceEncoder
from manzano.data_mix.schema import read_samples
from manzano.eval.text_rich.asking import quick_scores
from manzano.eval.text_rich.data import open_benchmarks
from manzano.llm.backbone import build_language_model
from manzano.llm.image_rows import init_image_rows
from manzano.llm.loss import count_targets
from manzano.llm.vocabulary import SPECIAL_TOKENS, joint_vocabulary
from manzano.load_report import strict_report
from manzano.model import ManzanoForConditionalGeneration
from manzano.processing import ManzanoProcessor
from manzano.tokenizer.hybrid import HybridTokenizer, freeze_for_llm, resize_continuous
from manzano.training.config import TrainConfig
from manzano.training.guard import know_nothing
from manzano.training.lora import Adapter, LoraConfig, add_lora, merged
from manzano.training.stages.data import DataConfig, open_loader

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """Text-rich benchmarks that are asked every `loop.validate_every` steps."""

    data: str = ""
    """Folder of their files, as `manzano eval --suite text-rich --data` takes it; "" for none."""
    tasks: tuple[str, ...] = ()
    """Their names; by default all that are in the folder."""
    limit: int = 200
    """Of each the first so many samples."""
    batch_size: int = 16
    """Samples at a time."""


@dataclass(frozen=True, kw_only=True)
class Config(TrainConfig):
    """Training of the unified language model."""

    data: DataConfig
    start: str = ""
    """Manzano folder to go on from (continued pre-training, fine-tuning), in place of
    text_tokenizer, tokenizer and llm."""
    text_tokenizer: str = ""
    """Name or folder of the text tokenizer."""
    tokenizer: str = ""
    """Export folder of the tokenizer stage."""
    llm: dict[str, Any] = field(default_factory=dict)
    """The language model: model_type and its settings (transformers), or {pretrained: NAME}."""
    train: Literal["all", "language_model", "rows"] = "all"
    """all: language model and continuous adapter; language_model: that alone; rows: nothing but the
    rows of image ids and special tokens in its embedding and head."""
    lora: LoraConfig = LoraConfig()
    """Small matrices in place of the language model's own weights."""
    row_length: int = 4096
    """Tokens in a packed row, and the longest prompt the model is meant for."""
    max_questions: int = 4
    """Questions drawn of a sample that asks more about its picture."""
    max_tiles: int = 1
    """Tiles that a picture which is asked about is split into at most, where it is larger than the
    vision tokenizer's square; 1 splits none."""
    drop_prompt: float = 0.1
    """Share of pictures drawn from nothing, neither words nor reference, for classifier-free
    guidance."""
    image_weight: float = 0.5
    """Weight of the loss on image ids against 1 for text."""
    preview_source: str = ""
    """Folder of a source whose test questions are answered in previews; "" for none."""
    validation: ValidationConfig = ValidationConfig()
    """What is measured while it trains."""

    def __post_init__(self):
        if not self.start and not (self.text_tokenizer and self.tokenizer and self.llm):
            raise ValueError("give start (a Manzano folder), or text_tokenizer, tokenizer and llm.")
        if self.start and (self.text_tokenizer or self.tokenizer or self.llm):
            raise ValueError(
                "start brings its own text tokenizer, vision tokenizer and language model: remove "
                "text_tokenizer, tokenizer and llm, or remove start."
            )
        if self.lora.rank and not self.start:
            raise ValueError("lora adapts a model that is on disk: give start, a Manzano folder.")
        if self.lora.rank and self.train == "rows":
            raise ValueError("train: rows leaves nothing for lora to adapt: give one of the two.")
        if bool(self.validation.data) != bool(self.loop.validate_every):
            raise ValueError(
                "validation.data says what is measured in training, loop.validate_every how often: "
                "give both or neither."
            )


def assemble(
    vision: HybridTokenizer, text: PreTrainedTokenizerBase, llm: dict, image_weight: float = 0.5
) -> ManzanoForConditionalGeneration:
    """A new Manzano over a joint vocabulary; its language model is new or pretrained."""
    vocabulary = joint_vocabulary(text, vision.config.codebook_size)
    language_model = build_language_model(llm, text, vocabulary)
    init_image_rows(language_model, vision.config.levels, vocabulary)
    resize_continuous(vision, language_model.config.hidden_size)
    config = ManzanoConfig(
        vision_config=vision.config.to_dict(), text_config=language_model.config,
        vocabulary=vocabulary.to_dict(), image_weight=image_weight,
    )  # fmt: skip
    with torch.device("meta"):  # the parts are there already: hold no second copy of them
        model = ManzanoForConditionalGeneration(config)
    model.vision, model.language_model = vision, language_model
    return model


def make_processor(
    vision: HybridTokenizer, text: PreTrainedTokenizerBase, max_length: int, max_tiles: int = 1
) -> ManzanoProcessor:
    """The processor that goes with a vision tokenizer and a text tokenizer."""
    side = vision.config.image_size
    pictures = SiglipImageProcessor(
        size={"height": side, "width": side}, resample=Image.Resampling.BICUBIC,
        image_mean=[0.5] * 3, image_std=[0.5] * 3, do_convert_rgb=True,
    )  # fmt: skip
    return ManzanoProcessor(
        pictures, text, num_image_tokens=vision.num_tokens, max_length=max_length,
        max_tiles=max_tiles,
    )  # fmt: skip


def continued_processor(config: Config) -> ManzanoProcessor:
    """That of `start`, for prompts as long as `row_length` and pictures of `max_tiles`."""
    processor = ManzanoProcessor.from_pretrained(config.start)
    processor.max_length = max(processor.max_length, config.row_length)
    processor.max_tiles = config.max_tiles
    return processor


def freeze(model: ManzanoForConditionalGeneration, config: Config) -> None:
    """Leaves trainable what `config` trains, and marks the blocks of the language model."""
    model._no_split_modules = list(model.language_model._no_split_modules or [])
    if config.lora.rank:
        add_lora(model, config.lora)  # freezes all else
        model.vision.continuous_adapter.requires_grad_(True)
    freeze_for_llm(model.vision)
    if config.train == "language_model":
        model.vision.requires_grad_(False)
    if config.train == "rows":
        model.requires_grad_(False)
        train_new_rows(model)


def trained_whole(config: Config) -> list[str]:
    """What is trained whole beside matrices that are adapted."""
    return ["vision.continuous_adapter"] if config.train == "all" else []


def train_new_rows(model: ManzanoForConditionalGeneration) -> None:
    """Makes the rows of image ids and special tokens trainable, in the embedding and the head."""
    vocabulary = model.vocabulary
    new = torch.arange(vocabulary.size) >= vocabulary.image_offset
    new[[*(getattr(vocabulary, name) for name in SPECIAL_TOKENS), *vocabulary.sizes]] = True
    layers = model.get_input_embeddings(), model.get_output_embeddings()
    tables = {layer.weight for layer in layers}  # one where they are tied
    names = [name for name, parameter in model.named_parameters() if parameter in tables]
    for name in names:
        model.get_parameter(name).requires_grad_(True)
    model.trained_rows = dict.fromkeys(names, new)  # pyright: ignore[reportArgumentType]


class Stage:
    """Trains a ManzanoForConditionalGeneration and exports it with its processor."""

    def __init__(self, config: Config):
        self.config = config
        if config.start:
            self.model, info = ManzanoForConditionalGeneration.from_pretrained(  # pyright: ignore
                config.start, dtype=torch.float32, output_loading_info=True,
                ignore_mismatched_sizes=True,
            )  # fmt: skip
            strict_report("Manzano", config.start, self.model, info).log()
            self.model.config.image_weight = config.image_weight
            self.processor = continued_processor(config)
        else:
            text = AutoTokenizer.from_pretrained(config.text_tokenizer)
            vision = HybridTokenizer.load(config.tokenizer)
            width = vision.config.width
            self.model = assemble(vision, text, config.llm, config.image_weight)
            if config.train != "all" and vision.config.width != width:
                raise ValueError(
                    f"the continuous adapter gets a new last layer, {width} to "
                    f"{vision.config.width} wide for this language model, which train: "
                    f"{config.train} would leave random: give train: all"
                )
            self.processor = make_processor(
                self.model.vision, text, config.row_length, config.max_tiles
            )
        self.adapter = None
        if config.lora.rank:
            self.adapter = Adapter.of(self.model, config.start, also=trained_whole(config))
        freeze(self.model, config)
        asked = config.validation
        self.benchmarks = (
            open_benchmarks(Path(asked.data), asked.tasks, limit=asked.limit) if asked.data else []
        )

    def batches(self, *, rank: int, world_size: int):
        vision = self.model.vision
        encoder = SequenceEncoder(
            self.processor.tokenizer, image_size=vision.config.image_size,
            num_tokens=vision.num_tokens, row_length=self.config.row_length,
            max_questions=self.config.max_questions, drop_prompt=self.config.drop_prompt,
            max_tiles=self.config.max_tiles,
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
        count = count_targets(batch.labels, self.model.vocabulary)
        begins = (batch.position_ids == 0) & (batch.input_ids != self.model.vocabulary.pad)
        return count | {"tokens": batch.input_ids.numel(), "samples": int(begins.sum())}

    def loss(
        self, batch: SequenceBatch, totals: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        out = self.model(
            input_ids=batch.input_ids, labels=batch.labels, position_ids=batch.position_ids,
            pixel_values=batch.pixel_values, image_index=batch.image_index,
            target_pixel_values=batch.target_pixel_values, totals=totals, use_cache=False,
        )  # fmt: skip
        return out.loss, {f"{name}": term.detach() for name, term in out.terms.items()}

    def ceilings(self) -> dict[str, float]:
        largest = know_nothing(self.model.vocabulary.size)
        if "pretrained" in self.config.llm:  # knows text, but its rows of image ids are new
            return {"text": largest}
        return {"text": largest, "image": largest}

    @torch.no_grad()
    def preview(self, directory: Path, step: int) -> None:
        """Answers to a few test questions."""
        if not self.config.preview_source:
            return
        lines = []
        for sample, _ in zip(
            read_samples(self.config.preview_source, "test"), range(16), strict=False
        ):
            question, answer = sample.pairs()[0]
            inputs = self.processor(
                images=list(sample.images), text=self.processor.prompt(question, len(sample.images))
            ).to(self.model.device)
            said = self.processor.decode_text(self.model.generate(**inputs, max_new_tokens=16))[0]
            lines.append({"key": sample.key, "question": question, "answer": answer, "said": said})
        directory.mkdir(parents=True, exist_ok=True)
        text = "\n".join(json.dumps(line) for line in lines)
        (directory / f"answers-{step:06d}.jsonl").write_text(text + "\n")

    def validate(self) -> dict[str, float]:
        chat = partial(answer, self.model, self.processor)
        measured = quick_scores(self.benchmarks, chat, self.config.validation.batch_size)
        return {f"validation/{name}": value for name, value in measured.items()}

    def export(self, directory: Path) -> None:
        with merged(self.model):
            self.model.save_pretrained(directory)
        if self.adapter:
            self.adapter.save(self.model, directory / "adapter")
        self.processor.save_pretrained(directory)
        metrics = Path(self.config.loop.output) / "metrics.jsonl"
        write_card(directory, library="transformers", metrics=metrics)

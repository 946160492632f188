"""What the stages export, outlined on the meta device: for exports that do not run the stage."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL
from torch import nn
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig

from manzano.configuration import ManzanoConfig
from manzano.decoder.dit_air import DiTAir
from manzano.decoder.vae import vae_folder
from manzano.llm.backbone import language_config
from manzano.llm.vocabulary import joint_vocabulary
from manzano.model import ManzanoForConditionalGeneration
from manzano.processing import ManzanoProcessor
from manzano.tokenizer.hybrid import HybridTokenizerConfig
from manzano.training.lora import add_lora
from manzano.training.stages import decoder, llm


@dataclass(frozen=True, kw_only=True)
class Outline:
    """What a stage exports, without its weights."""

    model: nn.Module
    """On the meta device; frozen and adapted as in training."""
    library: Literal["transformers", "diffusers"]
    """Reads the folder."""
    weights: str
    """Name of the file of weights: transformers' or diffusers'."""
    frozen: Mapping[str, str]
    """By beginning of names: the folder (or name on the Hub) that holds, under the rest of the
    name, what is not trained."""
    write_rest: Callable[[Path], None]
    """Writes all files but the weights."""
    base: str = ""
    """What is adapted, where the model is."""
    also: list[str] = field(default_factory=list)
    """Modules that are trained whole beside adapted ones."""


def outline_llm(config: llm.Config) -> Outline:
    """A Manzano folder without the decoder."""
    model_config, make_processor = _continued(config) if config.start else _assembled(config)
    with torch.device("meta"):
        model = ManzanoForConditionalGeneration(model_config)
        llm.freeze(model, config)
    processor = make_processor(model)

    def write_rest(directory: Path) -> None:
        model.config.architectures, model.config.dtype = [type(model).__name__], "float32"
        model.config.save_pretrained(directory)
        model.generation_config.save_pretrained(directory)
        processor.save_pretrained(directory)

    parts = {"vision.": config.tokenizer, "language_model.": config.llm.get("pretrained", "")}
    return Outline(
        model=model, library="transformers", weights="model.safetensors", write_rest=write_rest,
        frozen={"": config.start} if config.start else parts,
        base=config.start, also=llm.trained_whole(config),
    )  # fmt: skip


Processor = Callable[[ManzanoForConditionalGeneration], ManzanoProcessor]


def _continued(config: llm.Config) -> tuple[ManzanoConfig, Processor]:
    model_config = ManzanoConfig.from_pretrained(config.start)
    model_config.image_weight = config.image_weight
    assert isinstance(model_config.text_config, PreTrainedConfig)
    model_config.text_config.dtype = torch.float32  # as from_pretrained does
    return model_config, lambda model: llm.continued_processor(config)


def _assembled(config: llm.Config) -> tuple[ManzanoConfig, Processor]:
    text = AutoTokenizer.from_pretrained(config.text_tokenizer)
    vision = HybridTokenizerConfig(**_read(config.tokenizer))
    if "pretrained" in config.llm:
        text_config = AutoConfig.from_pretrained(config.llm["pretrained"])
        text_config.dtype = torch.float32
    else:
        text_config = language_config(config.llm)
    model_config = ManzanoConfig(
        vision_config=replace(vision, width=text_config.hidden_size).to_dict(),
        text_config=text_config,
        vocabulary=joint_vocabulary(text, vision.codebook_size).to_dict(),
        image_weight=config.image_weight,
    )
    return model_config, lambda model: llm.make_processor(
        model.vision, text, config.row_length, config.max_tiles
    )


def outline_decoder(config: decoder.Config) -> Outline:
    """A DiTAir in diffusers' layout."""
    with torch.device("meta"):
        if config.start:
            model: Any = DiTAir.from_config(DiTAir.load_config(config.start))  # pyright: ignore
            model.register_to_config(_name_or_path=config.start)  # as from_pretrained does
        else:
            vae: Any = AutoencoderKL.load_config(vae_folder(config.vae))
            model = decoder.new_decoder(config, vae, _read(config.tokenizer)["discrete_width"])
        model.register_to_config(sample_size=config.image_size)
        if config.lora.rank:
            add_lora(model, config.lora)
    return Outline(
        model=model, library="diffusers", weights="diffusion_pytorch_model.safetensors",
        write_rest=model.save_config, frozen={"": config.start}, base=config.start,
    )  # fmt: skip


def _read(folder: str) -> dict[str, Any]:
    return json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))


OUTLINES: dict[str, Callable[[Any], Outline]] = {"llm": outline_llm, "decoder": outline_decoder}
"""By name of the stage. What others export takes more than their weights."""

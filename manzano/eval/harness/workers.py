"""Who does what lmms-eval asks: a reader answers in words, an artist draws or edits."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from manzano.answering import AnswerSettings, Message, answer
from manzano.data_mix.images import ImageSource
from manzano.drawing import DrawingSettings
from manzano.eval.harness.asked import answer_settings
from manzano.load_report import load_whole
from manzano.model import ManzanoForConditionalGeneration
from manzano.pipeline import ManzanoPipeline, check_device
from manzano.processing import ManzanoProcessor

ANOTHER_PICTURE = 1_000_000
"""Between the seeds of pictures of one prompt; more than any benchmark has prompts."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One question of a task, or prompt, or instruction."""

    conversation: Sequence[Message]
    task: str
    doc_id: int
    number: int = 0
    """Of the answers to one question (`--repeats`), from 0."""

    @property
    def words(self) -> str:
        parts = [part for turn in self.conversation for part in turn.content]
        return "\n".join(part for part in parts if isinstance(part, str))

    @property
    def images(self) -> list[Image.Image]:
        return [image for turn in self.conversation for image in turn.images]


class Reader:
    """Answers questions. Needs the model of a Manzano folder, and no decoder.

    Args:
        max_tiles: into which a large picture is split at most; by default as in training.

    Raises:
        FileNotFoundError: if there is no such folder.
    """

    def __init__(
        self, folder: Path, device: str, dtype: torch.dtype | None, *, max_tiles: int | None = None
    ):
        if not (folder / "config.json").is_file():
            raise FileNotFoundError(f"there is no Manzano model in {folder}: it has no config.json")
        check_device(device)
        kwargs = {} if dtype is None else {"dtype": dtype}
        self.model = load_whole(ManzanoForConditionalGeneration, folder, **kwargs).to(device).eval()
        self.processor = ManzanoProcessor.from_pretrained(folder)
        self.max_tiles = max_tiles

    def settings(self, asked: Mapping[str, Any]) -> AnswerSettings:
        return answer_settings(asked)

    def batch(self, samples: Sequence[Sample], settings: AnswerSettings) -> list[str]:
        """Answers; ValueError if one of them cannot be given."""
        conversations = [sample.conversation for sample in samples]
        return answer(self.model, self.processor, conversations, settings, max_tiles=self.max_tiles)


class Artist:
    """Draws prompts, or edits pictures; the answer is JSON, with the words "" and a path.

    Args:
        edits: whether each sample has a picture to be edited.
        output_dir: the picture of document 7 of a task becomes TASK_7_0.png there.
        seed: of the picture of document 0; document 7 has the seed 7 higher.
        steps: of the decoder.
        guidance: how far ids follow words and reference.
        decoder_guidance: how far the decoder follows the ids.
        reference_guidance: how far the decoder keeps to the picture that it edits.

    Raises:
        FileNotFoundError: if the folder cannot draw.
    """

    def __init__(
        self, folder: Path, device: str, dtype: torch.dtype | None, *, edits: bool,
        output_dir: str = "pictures", seed: int = 0, steps: int = 20, guidance: float = 2.0,
        decoder_guidance: float = 3.0, reference_guidance: float = 1.0,
    ):  # fmt: skip
        if folder.is_dir() and not (folder / "transformer").is_dir():
            raise FileNotFoundError(
                f"the model in {folder} reads but cannot draw, it has no decoder: give a folder "
                "that `manzano assemble` made, or mode=understanding"
            )
        self.pipeline = ManzanoPipeline.from_pretrained(folder, device=device, dtype=dtype)
        self.edits, self.seed = edits, seed
        self.output_dir = Path(output_dir).absolute()
        self.output_dir.mkdir(parents=True, exist_ok=True)
        self.drawing = DrawingSettings(
            num_steps=steps, guidance_scale=guidance, decoder_guidance_scale=decoder_guidance,
            reference_guidance_scale=reference_guidance,
        )  # fmt: skip

    def settings(self, asked: Mapping[str, Any]) -> None:
        """None: settings of a task are those of words, and lmms-eval has none of pictures."""

    def batch(self, samples: Sequence[Sample], settings: None) -> list[str]:
        """Pictures, saved; ValueError if one of them cannot be drawn."""
        for sample in samples:
            if len(sample.images) != self.edits:
                raise ValueError(
                    f"{len(sample.images)} pictures came with the words, and mode="
                    + ("edit takes one" if self.edits else "draw takes none; say mode=edit")
                )
        words = [sample.words for sample in samples]
        seeds = [self.seed + s.doc_id + ANOTHER_PICTURE * s.number for s in samples]
        if self.edits:
            images: list[ImageSource] = [sample.images[0] for sample in samples]
            drawn = self.pipeline.edit_batch(images, words, seed=seeds, settings=self.drawing)
        else:
            drawn = self.pipeline.draw_batch(words, seed=seeds, settings=self.drawing)
        return [self.keep(*pair) for pair in zip(samples, drawn, strict=True)]

    def keep(self, sample: Sample, picture: Image.Image) -> str:
        path = self.output_dir / f"{sample.task}_{sample.doc_id}_{sample.number}.png"
        picture.save(path)
        return json.dumps({"text": "", "images": [str(path)]})

"""What the server can do with a Manzano folder: answer, draw and edit, many at once."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from manzano.answering import Answer, AnswerSettings, Message, answers
from manzano.data_mix.images import ImageSource
from manzano.drawing import DrawingSettings
from manzano.load_report import load_whole
from manzano.model import ManzanoForConditionalGeneration
from manzano.pieces import Pieces
from manzano.pipeline import ManzanoPipeline, check_device
from manzano.processing import ManzanoProcessor
from manzano.serve.batching import Abandoned, Job


@dataclass(frozen=True)
class Chat:
    """A conversation to be answered."""

    conversation: list[Message]
    settings: AnswerSettings

    @property
    def key(self) -> Hashable:
        """Sampling by a seed is repeatable only in a batch of its own."""
        return ("chat", self.settings, self.settings.seed is not None and id(self))


@dataclass(frozen=True)
class Drawing:
    """A picture to be drawn, or an edit to be made where there is one already."""

    prompt: str
    size: tuple[int | None, int | None]
    """Height and width, pixels."""
    seed: int
    image: Image.Image | None = None
    mask: Image.Image | None = None

    @property
    def key(self) -> Hashable:
        return ("draw" if self.image is None else "edit", self.size)


class Engine:
    """A model, and its decoder if it has one.

    Args:
        pipeline: None for a model that draws nothing.
        max_tiles: into which a large picture is split at most; by default as in training.
        drawing: settings of all drawings and edits.
    """

    def __init__(
        self,
        model: ManzanoForConditionalGeneration,
        processor: ManzanoProcessor,
        pipeline: ManzanoPipeline | None,
        *,
        max_tiles: int | None = None,
        drawing: DrawingSettings | None = None,
    ):
        self.model, self.processor, self.pipeline = model.eval(), processor, pipeline
        self.max_tiles, self.drawing = max_tiles, drawing or DrawingSettings()

    @classmethod
    def from_pretrained(
        cls, folder: Path, *, device: str = "cpu", dtype: torch.dtype | None = None, **options
    ) -> "Engine":
        """Loads a Manzano folder, or the export of an llm stage, which has no decoder to draw with.

        Raises:
            FileNotFoundError, ValueError: as `ManzanoPipeline.from_pretrained`.
        """
        if (folder / "transformer").exists() or not (folder / "model.safetensors").exists():
            pipeline = ManzanoPipeline.from_pretrained(folder, device=device, dtype=dtype)
            return cls(pipeline.model, pipeline.processor, pipeline, **options)
        check_device(device)
        kwargs = {} if dtype is None else {"dtype": dtype}
        model = load_whole(ManzanoForConditionalGeneration, folder, **kwargs)
        return cls(
            model.to(device),  # pyright: ignore[reportArgumentType]
            ManzanoProcessor.from_pretrained(folder), None, **options,
        )  # fmt: skip

    def run(self, jobs: Sequence[Job]) -> Sequence[Any]:
        """The results of jobs of one key: answers or pictures."""
        if isinstance(jobs[0].task, Chat):
            return self.chat(jobs)
        return self.draw([job.task for job in jobs])

    def chat(self, jobs: Sequence[Job]) -> list[Answer]:
        def check_somebody_waits() -> None:
            if all(job.abandoned for job in jobs):
                raise Abandoned

        settings = jobs[0].task.settings
        pieces = Pieces(
            self.processor, settings.stop, [job.listener for job in jobs], check_somebody_waits
        )
        said = answers(
            self.model, self.processor, [job.task.conversation for job in jobs], settings,
            max_tiles=self.max_tiles, streamer=pieces,
        )  # fmt: skip
        pieces.finish(said)
        return said

    def draw(self, tasks: Sequence[Drawing]) -> list[Image.Image]:
        if self.pipeline is None:
            raise ValueError("this model cannot draw: it was loaded without an image decoder")
        height, width = tasks[0].size
        prompts, seeds = [task.prompt for task in tasks], [task.seed for task in tasks]
        options: dict[str, Any] = {
            "height": height, "width": width, "seed": seeds, "settings": self.drawing,
        }  # fmt: skip
        if tasks[0].image is None:
            return self.pipeline.draw_batch(prompts, **options)
        images: list[ImageSource] = [task.image for task in tasks if task.image is not None]
        masks: list[ImageSource | None] = [task.mask for task in tasks]
        return self.pipeline.edit_batch(images, prompts, masks=masks, **options)

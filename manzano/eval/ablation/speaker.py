"""A model without its pixel decoder: it answers questions, and writes the ids of pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from manzano.answering import AnswerSettings, Message, answer
from manzano.data_mix.sequences import begin_picture
from manzano.data_mix.sizes import nearest_ratio
from manzano.drawing import DrawingSettings, seeded
from manzano.model import ManzanoForConditionalGeneration
from manzano.processing import ManzanoProcessor


@dataclass(frozen=True)
class Speaker:
    """What the `llm` stage exports, in use."""

    model: ManzanoForConditionalGeneration
    processor: ManzanoProcessor

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "Speaker":
        """Loads an export of the `llm` stage, to the GPU if there is one."""
        model = ManzanoForConditionalGeneration.from_pretrained(folder).eval()
        model.to("cuda" if torch.cuda.is_available() else "cpu")  # pyright: ignore
        return cls(model, ManzanoProcessor.from_pretrained(folder))

    def ask_batch(
        self,
        images: list[list[Image.Image]],
        questions: list[str],
        *,
        max_new_tokens: int,
    ) -> list[str]:
        """Answers to questions, each about its own pictures."""
        pairs = zip(questions, images, strict=True)
        asked = [[Message("user", (*own, question))] for question, own in pairs]
        settings = AnswerSettings(max_new_tokens=max_new_tokens)
        return answer(self.model, self.processor, asked, settings)

    def image_ids(self, prompts: Sequence[str], *, seed: int) -> Tensor:
        """ids (B, N), on the CPU, of the squares that prompts ask for; drawn as the pipeline's are,
        the first from `seed`, the next one from `seed` + 1."""
        settings = DrawingSettings()
        begun = begin_picture(self.processor.tokenizer, nearest_ratio(1, 1))
        inputs = self.processor(text=[self.processor.prompt(p) + begun for p in prompts])
        return self.model.generate(
            **inputs.to(self.model.device), generation_mode="image",
            guidance_scale=settings.guidance_scale, temperature=settings.temperature,
            generator=seeded(seed, len(prompts)),
        ).cpu()  # fmt: skip

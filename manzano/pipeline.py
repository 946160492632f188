"""ManzanoPipeline: ask, draw and edit with one folder."""

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor

from manzano.data_mix.images import ImageSource, load_image
from manzano.data_mix.transforms import pixel_transform, to_image
from manzano.decoder.dit_air import DiTAir
from manzano.decoder.flow import resolution_shift
from manzano.decoder.sampling import sample
from manzano.decoder.vae import decode, encode, load_vae
from manzano.llm.vocabulary import SPECIAL_TOKENS
from manzano.model import ManzanoForConditionalGeneration
from manzano.processing import ManzanoProcessor

PARTS = (
    "config.json",
    "model.safetensors",
    "processor_config.json",
    "tokenizer_config.json",
    "transformer/config.json",
    "transformer/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
    "scheduler/scheduler_config.json",
)
"""Files of a Manzano folder; in place of large weights there may be an index of shards."""


@dataclass(frozen=True, kw_only=True)
class DrawingSettings:
    """How ids are sampled and painted; the defaults suit the demo, the README says more."""

    temperature: float = 0.5
    """Of the ids; 0 takes the likeliest."""
    top_k: int | None = None
    """Sample among this many likeliest ids."""
    top_p: float | None = None
    """Sample among the likeliest ids that hold this much probability."""
    guidance_scale: float = 2.0
    """How far ids follow the words and the reference: 1 is no guidance."""
    decoder_guidance_scale: float = 3.0
    """How far the decoder follows the ids: 1 is no guidance."""
    reference_guidance_scale: float = 1.0
    """How far an edit keeps to its reference: 1 is no guidance."""
    num_steps: int = 20
    """Sampling steps of the decoder."""
    max_words: int = 64
    """Tokens that the model may say before it draws, if it was trained to say any."""

    def __post_init__(self):
        if self.num_steps < 1:
            raise ValueError(f"the decoder needs at least one step, got {self.num_steps}")
        if self.temperature < 0:
            raise ValueError(f"temperature must be 0 or more, got {self.temperature}")


class ManzanoPipeline:
    """A Manzano model with its image decoder.

    Args:
        model: answers, and writes image ids.
        processor: its processor.
        transformer: DiT-Air, paints ids.
        vae: latents to pixels.
        scheduler: flow-matching schedule of the decoder.
    """

    def __init__(
        self,
        model: ManzanoForConditionalGeneration,
        processor: ManzanoProcessor,
        transformer: DiTAir,
        vae: AutoencoderKL,
        scheduler: FlowMatchEulerDiscreteScheduler,
    ):
        self.model, self.processor = model.eval(), processor
        self.transformer, self.vae, self.scheduler = transformer.eval(), vae.eval(), scheduler

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *, device: str = "cpu", dtype=None
    ) -> "ManzanoPipeline":
        """Loads a Manzano folder.

        Raises:
            FileNotFoundError: if the folder or one of its files is missing, naming it.
            ValueError: if weights are damaged, or there is no such device.
        """
        check_device(device)
        folder = Path(folder)
        if not folder.is_dir():
            raise FileNotFoundError(
                f"there is no folder {folder}: give one that `manzano assemble` or the demo made"
            )
        for part in PARTS:
            if not any((folder / name).is_file() for name in (part, f"{part}.index.json")):
                raise FileNotFoundError(
                    f"the Manzano folder {folder} lacks {part}: copy it whole, or assemble it again"
                )
        kwargs = {} if dtype is None else {"dtype": dtype}
        scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(folder, subfolder="scheduler")
        try:
            return cls(
                ManzanoForConditionalGeneration.from_pretrained(folder, **kwargs),
                ManzanoProcessor.from_pretrained(folder),
                DiTAir.from_pretrained(folder, subfolder="transformer", **kwargs),
                load_vae(folder / "vae"),
                scheduler,  # pyright: ignore[reportArgumentType]
            ).to(device)
        except SafetensorError as error:
            raise ValueError(f"weights in {folder} are damaged ({error}): copy it again") from error

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes a Manzano folder: the model at its root, the decoder's parts in sub-folders."""
        folder = Path(folder)
        self.model.save_pretrained(folder)
        self.processor.save_pretrained(folder)
        self.transformer.save_pretrained(folder / "transformer")
        self.vae.save_pretrained(folder / "vae")
        self.scheduler.save_pretrained(folder / "scheduler")

    def to(self, device: str) -> "ManzanoPipeline":
        for part in (self.model, self.transformer, self.vae):
            part.to(device)  # pyright: ignore[reportArgumentType]
        return self

    @property
    def device(self) -> torch.device:
        return self.model.device

    def ask(
        self,
        image: ImageSource | list[ImageSource],
        question: str,
        *,
        max_new_tokens: int = 64,
        max_tiles: int | None = None,
    ) -> str:
        """Answers a question about a picture, or about several.

        Args:
            max_tiles: into which a large picture is split at most; by default as in training. More
                may help to read small print, at the price of a longer prompt; 1 splits none.

        Raises:
            ValueError: for an empty question, one too long (tiles make it longer), or a picture
                that cannot be read.
        """
        images = image if isinstance(image, list) else [image]
        options = {"max_new_tokens": max_new_tokens, "max_tiles": max_tiles}
        return self.ask_batch([images], [question], **options)[0]

    def ask_batch(
        self,
        images: list[list[ImageSource]],
        questions: list[str],
        *,
        max_new_tokens: int = 64,
        max_tiles: int | None = None,
    ) -> list[str]:
        """Answers many questions at once, each about its own pictures."""
        texts = [
            self.processor.prompt(said(q, "question"), len(own))
            for q, own in zip(questions, images, strict=True)
        ]
        pictures = [load_image(i) for own in images for i in own]
        inputs = self.processor(images=pictures, text=texts, max_tiles=max_tiles).to(self.device)
        return self.processor.decode_text(
            self.model.generate(**inputs, max_new_tokens=max_new_tokens)
        )

    def draw(
        self,
        prompt: str,
        *,
        height: int | None = None,
        width: int | None = None,
        seed: int | None = None,
        settings: DrawingSettings | None = None,
    ) -> Image.Image:
        """Draws what the prompt says.

        Args:
            height, width: pixels; by default the size of the vision tokenizer's input.
            seed: of the ids and of the decoder's noise; None draws anew each time.

        Raises:
            ValueError: for an empty prompt, one too long, or an impossible size.
        """
        size = {"height": height, "width": width}
        return self.draw_batch([prompt], **size, seed=seed, settings=settings)[0]

    def edit(
        self,
        image: ImageSource,
        instruction: str,
        *,
        seed: int | None = None,
        settings: DrawingSettings | None = None,
    ) -> Image.Image:
        """Changes a picture as the instruction says; the result has the vision tokenizer's size.

        Raises:
            ValueError: for an empty instruction, one too long, or a picture that cannot be read.
        """
        return self.edit_batch([image], [instruction], seed=seed, settings=settings)[0]

    def draw_batch(
        self,
        prompts: list[str],
        *,
        height: int | None = None,
        width: int | None = None,
        seed: int | None = None,
        settings: DrawingSettings | None = None,
    ) -> list[Image.Image]:
        """Draws many prompts at once."""
        settings, generator = settings or DrawingSettings(), seeded(seed)
        ids = self.image_ids([], [said(p, "prompt") for p in prompts], settings, generator)
        side = self.model.vision.config.image_size
        return self.paint(
            ids,
            side if height is None else height,
            side if width is None else width,
            settings=settings,
            generator=generator,
        )

    def edit_batch(
        self,
        images: list[ImageSource],
        instructions: list[str],
        *,
        seed: int | None = None,
        settings: DrawingSettings | None = None,
    ) -> list[Image.Image]:
        """Edits many pictures at once; each result has the vision tokenizer's size."""
        settings, generator = settings or DrawingSettings(), seeded(seed)
        pictures = [load_image(i) for i in images]
        ids = self.image_ids(
            pictures, [said(i, "instruction") for i in instructions], settings, generator
        )
        side = self.model.vision.config.image_size
        transform = pixel_transform(side)
        reference = torch.stack([transform(p) for p in pictures]).to(self.device)
        return self.paint(
            ids, side, side, reference=reference, settings=settings, generator=generator
        )

    def image_ids(
        self,
        images: list[Image.Image],
        prompts: list[str],
        settings: DrawingSettings,
        generator: torch.Generator | None,
    ) -> Tensor:
        """ids (B, N) for prompts, each about one of the images if there are any; drawn after what
        the model has to say before it draws."""
        shown = 1 if images else 0
        asked = [self.processor.prompt(p, shown) for p in prompts]
        words = self.words_before(images, asked, settings.max_words)
        begun = [a + w + SPECIAL_TOKENS["img_start"] for a, w in zip(asked, words, strict=True)]
        inputs = self.processor(images=images or None, text=begun, max_tiles=1).to(self.device)
        return self.model.generate(
            **inputs, generation_mode="image",
            guidance_scale=settings.guidance_scale, temperature=settings.temperature,
            top_k=settings.top_k, top_p=settings.top_p, generator=generator,
        )  # fmt: skip

    def words_before(
        self, images: list[Image.Image], prompts: list[str], max_words: int
    ) -> list[str]:
        """What the model says to each prompt before it begins a picture: its likeliest words.

        "" where it draws at once, as after training on pictures without words, and where it has
        begun none after `max_words` tokens.
        """
        v = self.model.vocabulary
        inputs = self.processor(images=images or None, text=prompts, max_tiles=1).to(self.device)
        ids = self.model.generate(
            **inputs, max_new_tokens=max_words + 1, eos_token_id=[v.img_start, v.end],
            suppress_tokens=[v.user, v.assistant, v.img_end, v.image, v.target],
        )  # fmt: skip
        begun = (ids == v.img_start).any(dim=1).tolist()
        words = self.processor.decode_text(ids)
        # A special token spelt in letters would become one when the words are read again.
        marks = [any(token in w for token in SPECIAL_TOKENS.values()) for w in words]
        spoken = zip(words, begun, marks, strict=True)
        return [w if begins and not marked else "" for w, begins, marked in spoken]

    @torch.no_grad()
    def paint(
        self,
        ids: Tensor,
        height: int,
        width: int,
        *,
        settings: DrawingSettings,
        reference: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> list[Image.Image]:
        """ids (B, N) -> pictures of height x width pixels.

        Args:
            reference: (B, 3, H, W) in [-1, 1], the pictures that are edited.

        Raises:
            ValueError: for a size that the decoder cannot paint.
        """
        factor = 2 ** (len(self.vae.config["block_out_channels"]) - 1)
        step = factor * self.transformer.patch_size
        if min(height, width) < step or height % step or width % step:
            raise ValueError(
                f"height and width must be multiples of {step} pixels for this decoder, "
                f"got {height} and {width}"
            )
        self.scheduler.set_shift(resolution_shift(height, width))
        latents = sample(
            self.transformer, self.scheduler, self.model.vision.embed_ids(ids),
            height=height // factor, width=width // factor, condition_grid=self.model.vision.grid,
            reference_latents=None if reference is None else encode(self.vae, reference),
            guidance_scale=settings.decoder_guidance_scale,
            reference_guidance_scale=settings.reference_guidance_scale,
            num_steps=settings.num_steps, generator=generator,
        )  # fmt: skip
        return [to_image(pixels) for pixels in decode(self.vae, latents)]


def check_device(device: str) -> None:
    """Raises ValueError for a device that is not here."""
    kind = device.partition(":")[0]
    here = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.mps.is_available()}
    if not here.get(kind):
        names = ", ".join(name for name, is_here in here.items() if is_here)
        raise ValueError(f"there is no device {device!r} on this machine; there is {names}")


def said(words: str, what: str) -> str:
    """The words, stripped.

    Raises:
        ValueError: if nothing is left.
    """
    if not words.strip():
        raise ValueError(f"the {what} is empty: say what you want")
    return words.strip()


def seeded(seed: int | None) -> torch.Generator | None:
    """A generator of that seed; None for None."""
    return None if seed is None else torch.Generator().manual_seed(seed)

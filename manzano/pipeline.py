"""ManzanoPipeline: ask, draw and edit with one folder."""

from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor

from manzano.answering import AnswerSettings, Message, answer
from manzano.canvas import Canvas, make_canvas
from manzano.data_mix.images import ImageSource, load_image
from manzano.data_mix.masks import load_mask
from manzano.data_mix.sequences import begin_picture
from manzano.data_mix.sizes import Ratio, nearest_ratio
from manzano.decoder.dit_air import DiTAir
from manzano.decoder.vae import load_vae
from manzano.drawing import DrawingSettings, seeded
from manzano.llm.vocabulary import reserved_tokens
from manzano.load_report import load_whole
from manzano.model import ManzanoForConditionalGeneration
from manzano.painter import Painter
from manzano.processing import ManzanoProcessor
from manzano.watch import Watch

PARTS = (
    "config.json",
    "model.safetensors",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "transformer/config.json",
    "transformer/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
    "scheduler/scheduler_config.json",
)
"""Files of a Manzano folder; in place of large weights there may be an index of shards."""


class ManzanoPipeline:
    """A Manzano model with its image decoder.

    Args:
        model: answers, and writes image ids.
        processor: its processor.
        transformer: DiT-Air, paints ids.
        vae: latents to pixels.
        scheduler: flow-matching schedule of the decoder.

    Attributes:
        progress: whether drawing and editing show bars, on stderr.
        watch: where the time of the last drawing or edit went: `print(watch.summary())`.
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
        self.painter = Painter(model.vision, transformer, vae, scheduler)
        self.progress = False
        self.watch = Watch(self.device)

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
                load_whole(ManzanoForConditionalGeneration, folder, **kwargs),
                ManzanoProcessor.from_pretrained(folder),
                load_whole(DiTAir, folder / "transformer", **kwargs),
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
        check_lengths(images=images, questions=questions)
        asked = [
            [Message("user", (*map(load_image, own), said(question, "question")))]
            for question, own in zip(questions, images, strict=True)
        ]
        settings = AnswerSettings(max_new_tokens=max_new_tokens)
        return self.chat_batch(asked, settings, max_tiles=max_tiles)

    def chat_batch(
        self,
        conversations: Sequence[Sequence[Message]],
        settings: AnswerSettings | None = None,
        *,
        max_tiles: int | None = None,
    ) -> list[str]:
        """What the model says next in many conversations, of words and pictures in any order.

        Raises:
            ValueError: for a conversation without room for an answer, with special tokens in its
                words, or with a picture that cannot be read.
        """
        settings = settings or AnswerSettings()
        return answer(self.model, self.processor, conversations, settings, max_tiles=max_tiles)

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
            height, width: pixels; by default those of the square that the decoder was trained on.
            seed: of the ids and of the decoder's noise; None draws anew each time.

        Raises:
            ValueError: for an empty prompt, one too long, or an impossible size.
        """
        size = {"height": height, "width": width}
        return self.draw_batch([prompt], **size, seed=seed, settings=settings)[0]

    def draw_batch(
        self,
        prompts: list[str],
        *,
        height: int | None = None,
        width: int | None = None,
        seed: int | Sequence[int] | None = None,
        settings: DrawingSettings | None = None,
    ) -> list[Image.Image]:
        """Draws many prompts at once, or one several times.

        Args:
            seed: of the first picture, the next one being that of the second; or one for each.
                A picture depends on its own prompt and seed, not on the others of the batch.
        """
        check_lengths(prompts=prompts)
        settings, generators = settings or DrawingSettings(), seeded(seed, len(prompts))
        self.watch = Watch(self.device, progress=self.progress)
        height, width = (self.painter.side if s is None else s for s in (height, width))
        self.painter.check_size(height, width)
        prompts = [said(p, "prompt") for p in prompts]
        ratios = [nearest_ratio(height, width)] * len(prompts)
        ids = self.image_ids([], prompts, ratios, settings, generators)
        return self.painter.paint(
            ids, height, width, settings=settings, generators=generators, watch=self.watch
        )

    def edit(
        self,
        image: ImageSource,
        instruction: str,
        *,
        mask: ImageSource | None = None,
        strength: float = 1.0,
        height: int | None = None,
        width: int | None = None,
        seed: int | None = None,
        settings: DrawingSettings | None = None,
    ) -> Image.Image:
        """Changes a picture as the instruction says.

        Args:
            mask: white where the picture is painted anew, black where it is kept to the pixel; what
                is white is hidden from the model, unless a strength below 1 starts from it.
            strength: how much of the picture is painted over, above 0; 1 starts from noise.
            height, width: pixels of the result; by default the picture's own. Where they make
                another shape, the whole picture stands in the middle and its surroundings are
                painted (outpainting).

        Raises:
            ValueError: for an empty instruction, one too long, a picture or mask that cannot be
                read, a mask of another size, or an impossible size or strength.
        """
        return self.edit_batch(
            [image], [instruction], masks=[mask], strength=strength, height=height, width=width,
            seed=seed, settings=settings,
        )[0]  # fmt: skip

    def edit_batch(
        self,
        images: list[ImageSource],
        instructions: list[str],
        *,
        masks: list[ImageSource | None] | None = None,
        strength: float = 1.0,
        height: int | None = None,
        width: int | None = None,
        seed: int | Sequence[int] | None = None,
        settings: DrawingSettings | None = None,
    ) -> list[Image.Image]:
        """Edits many pictures at once, of any sizes; see `edit`, and `draw_batch` for seeds."""
        check_lengths(images=images, instructions=instructions, masks=masks or images)
        settings, generators = settings or DrawingSettings(), seeded(seed, len(images))
        if not 0 < strength <= 1:
            raise ValueError(f"strength must be above 0 and at most 1, got {strength}")
        if (height is None) != (width is None):
            raise ValueError("give both height and width of the result, or neither")
        self.watch = Watch(self.device, progress=self.progress)
        size = None if height is None or width is None else (height, width)
        canvases = [
            self.canvas(*pair, size)
            for pair in zip(images, masks or [None] * len(images), strict=True)
        ]
        ids = self.image_ids(
            [canvas.shown for canvas in canvases],
            [said(i, "instruction") for i in instructions],
            [nearest_ratio(canvas.height, canvas.width) for canvas in canvases],
            settings, generators,
        )  # fmt: skip
        results: dict[int, Image.Image] = {}
        for rows in same_size(canvases):  # what is painted in one batch has one size
            painted = self.painter.paint(
                ids[rows], canvases[rows[0]].height, canvases[rows[0]].width, settings=settings,
                generators=None if generators is None else [generators[row] for row in rows],
                canvases=[canvases[row] for row in rows], strength=strength, watch=self.watch,
            )  # fmt: skip
            for row, picture in zip(rows, painted, strict=True):
                results[row] = canvases[row].finish(picture)
        return [results[place] for place in range(len(images))]

    def canvas(
        self, image: ImageSource, mask: ImageSource | None, size: tuple[int, int] | None
    ) -> Canvas:
        """Where an edit starts from, for a decoder of this size."""
        picture = load_image(image)
        return make_canvas(
            picture, None if mask is None else load_mask(mask, picture.size), size,
            side=self.painter.side, step=self.painter.step,
        )  # fmt: skip

    def image_ids(
        self,
        images: list[Image.Image],
        prompts: list[str],
        ratios: list[Ratio],
        settings: DrawingSettings,
        generators: list[torch.Generator] | None,
    ) -> Tensor:
        """ids (B, N) for prompts, each about one of the images if there are any, of pictures of
        these ratios; drawn after what the model has to say before it draws."""
        tokenizer = self.processor.tokenizer
        asked = [self.processor.prompt(p, 1 if images else 0) for p in prompts]
        begun = [begin_picture(tokenizer, ratio) for ratio in ratios]
        with self.watch.part("words before"):
            words = self.words_before(images, asked, settings.max_words)
        texts = [a + w + b for a, w, b in zip(asked, words, begun, strict=True)]
        number = self.model.vision.num_tokens
        with self.watch.part("image ids", steps=number) as on_step:
            inputs = self.processor(
                images=images or None, text=texts, max_tiles=1, reserve=number
            ).to(self.device)
            return self.model.generate(
                **inputs, generation_mode="image",
                guidance_scale=settings.guidance_scale, temperature=settings.temperature,
                top_k=settings.top_k, top_p=settings.top_p, generator=generators, on_step=on_step,
            )  # fmt: skip

    def words_before(
        self, images: list[Image.Image], prompts: list[str], max_words: int
    ) -> list[str]:
        """What the model says to each prompt before it begins a picture: its likeliest words.

        "" where it draws at once, as after training on pictures without words, where it has begun
        none after `max_words` tokens or at the end of its room, and where it says what is no text.
        """
        v = self.model.vocabulary
        inputs = self.processor(images=images or None, text=prompts, max_tiles=1).to(self.device)
        number = self.model.vision.num_tokens
        # For the words, after which come <img_start>, perhaps a size, and the ids.
        room = self.processor.max_length - inputs["input_ids"].shape[1] - number - 2
        if room < 0:
            return [""] * len(prompts)
        ids = self.model.generate(
            **inputs, max_new_tokens=min(max_words, room) + 1, eos_token_id=[v.img_start, v.end],
            suppress_tokens=v.never_said,
        )  # fmt: skip
        begun = (ids == v.img_start).any(dim=1).tolist()
        spoken = zip(self.processor.decode_text(ids), begun, strict=True)
        return [words if begins and is_text(words) else "" for words, begins in spoken]


def check_device(device: str) -> None:
    """Raises ValueError for a device that is not here."""
    kind, _, index = str(device).partition(":")
    here = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.mps.is_available()}
    if not here.get(kind) or (kind == "cuda" and int(index or 0) >= torch.cuda.device_count()):
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


def check_lengths(**lists: Sequence) -> None:
    """Raises ValueError unless the lists have one length, and something in them."""
    counts = {name: len(values) for name, values in lists.items()}
    if len(set(counts.values())) > 1 or not all(counts.values()):
        said = ", ".join(f"{count} {name}" for name, count in counts.items())
        raise ValueError(f"a batch takes as many of each, and at least one: got {said}")


def is_text(words: str) -> bool:
    """Whether words would be read as they were said: not so half a letter, nor a special token that
    is spelt in letters."""
    return "\N{REPLACEMENT CHARACTER}" not in words and not reserved_tokens(words)


def same_size(canvases: list[Canvas]) -> list[list[int]]:
    """The places of canvases that are painted at one size, for each size."""
    places: dict[tuple[int, int], list[int]] = {}
    for place, canvas in enumerate(canvases):
        places.setdefault((canvas.height, canvas.width), []).append(place)
    return list(places.values())

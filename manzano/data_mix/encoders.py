"""What each stage makes of a sample: pictures alone, pictures with captions, or packed sequences.

An encoder turns a Sample into an example (`encode`, None where the stage has no use for it) and a
list of examples into a batch (`collate`). `manzano.data_mix.loader` runs them in its workers.
"""

import random
from dataclasses import dataclass, fields
from typing import NamedTuple, TypeVar

import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from manzano.data_mix.schema import Sample
from manzano.data_mix.sequences import TokenSequence, sequences, unconditional
from manzano.data_mix.sizes import RATIOS, bucket_size, nearest_ratio
from manzano.data_mix.tiles import check_max_tiles, grid, split
from manzano.data_mix.transforms import (
    crop_to_shape,
    normalize_transform,
    pixel_transform,
    resize_transform,
)
from manzano.llm.loss import IGNORE
from manzano.llm.vocabulary import SPECIAL_TOKENS

AnyBatch = TypeVar("AnyBatch", bound="Batch")


class Batch:
    """Base of the batches: dataclasses of tensors (or None)."""

    def to(self: AnyBatch, device: torch.device | str) -> AnyBatch:
        """The same batch on another device."""
        moved = {
            f.name: v.to(device, non_blocking=True)
            if isinstance(v := getattr(self, f.name), Tensor)
            else v
            for f in fields(self)  # type: ignore[arg-type]
        }
        return type(self)(**moved)


@dataclass
class PictureBatch(Batch):
    """`pixels` (B, 3, H, W); where a picture edits another, that one is in `reference`, of the same
    shape, and `has_reference` (B,) is True. `reference` is None where no picture has one.

    `tokenizer_pixels` (B, 3, S, S) are the same pictures as the vision tokenizer sees them, None
    where `pixels` are."""

    pixels: Tensor
    reference: Tensor | None
    has_reference: Tensor
    tokenizer_pixels: Tensor | None = None

    @property
    def seen(self) -> Tensor:
        """What the vision tokenizer sees, (B, 3, S, S)."""
        return self.pixels if self.tokenizer_pixels is None else self.tokenizer_pixels


class PictureExample(NamedTuple):
    """One picture of a `PictureBatch`, in uint8: a quarter of the memory while it waits for others
    of its shape."""

    pixels: Tensor
    reference: Tensor | None
    tokenizer_pixels: Tensor | None


class PictureEncoder:
    """The picture to be drawn, or else one of those shown, for the `vae` and `decoder` stages;
    stretched to a square.

    Args:
        image_size: pixels, side of the square.
        references: take the pictures that are edited as well.
        tokenizer_size: pixels, side of the vision tokenizer's input, which is made from the same
            picture where it differs; 0 for none.
        min_short_side: pixels; a picture whose shorter side has fewer is passed over.
    """

    def __init__(
        self,
        image_size: int,
        *,
        references: bool = False,
        tokenizer_size: int = 0,
        min_short_side: int = 0,
    ):
        self.image_size = image_size
        self.references = references
        self.tokenizer_size = tokenizer_size
        self.min_short_side = min_short_side
        self.normalize = normalize_transform()

    def encode(self, sample: Sample) -> PictureExample | None:
        if sample.target is None and not sample.images:
            return None
        picture = random.choice(sample.images) if sample.target is None else sample.target
        size = self.size(picture)
        if size is None or min(picture.size) < self.min_short_side:
            return None
        edited = self.references and sample.target is not None and sample.images
        reference = self.crop(sample.shown()[0], size) if edited else None
        picture, resize, square = self.crop(picture, size), resize_transform(*size), None
        if self.tokenizer_size and size != (self.tokenizer_size, self.tokenizer_size):
            square = resize_transform(self.tokenizer_size, self.tokenizer_size)(picture)
        return PictureExample(
            resize(picture), None if reference is None else resize(reference), square
        )

    def size(self, picture: Image.Image) -> tuple[int, int] | None:
        """Height and width that the picture gets; None if there is no good one."""
        return self.image_size, self.image_size

    def crop(self, picture: Image.Image, size: tuple[int, int]) -> Image.Image:
        """The part of the picture that is stretched to that size."""
        return picture

    def collate(self, examples: list[PictureExample]) -> PictureBatch:
        pixels = self.normalize(torch.stack([example.pixels for example in examples]))
        references = [example.reference for example in examples]
        has_reference = torch.tensor([r is not None for r in references])
        reference = None
        if has_reference.any():
            blank = torch.zeros_like(pixels[0])
            reference = torch.stack([blank if r is None else self.normalize(r) for r in references])
        squares = [e.tokenizer_pixels for e in examples if e.tokenizer_pixels is not None]
        return PictureBatch(
            pixels=pixels,
            reference=reference,
            has_reference=has_reference,
            tokenizer_pixels=self.normalize(torch.stack(squares)) if squares else None,
        )


class BucketEncoder(PictureEncoder):
    """Pictures cropped, from the middle, to the nearest of `RATIOS` in place of stretched; a batch
    holds one of them.

    A crop takes less than a fifth, except beyond 1 : 4. A picture that would lose more than half
    there, such as a page longer than eight times its width, is passed over.

    Args:
        image_size: pixels; the area of every bucket is about that of the square of this side.
        step: pixels; all sides are multiples of it.
        options: of `PictureEncoder`.

    Raises:
        ValueError: if `image_size` is no multiple of `step`.
    """

    def __init__(self, image_size: int, *, step: int, **options):
        super().__init__(image_size, **options)
        self.sizes = {ratio: bucket_size(ratio, image_size, step) for ratio in RATIOS}

    def size(self, picture: Image.Image) -> tuple[int, int] | None:
        height, width = self.sizes[nearest_ratio(picture.height, picture.width)]
        stretch = picture.height * width / (picture.width * height)
        return (height, width) if 0.5 <= stretch <= 2 else None

    def crop(self, picture: Image.Image, size: tuple[int, int]) -> Image.Image:
        return crop_to_shape(picture, *size)

    def group(self, example: PictureExample) -> tuple[int, ...]:
        """The bucket of an example: height and width."""
        return tuple(example.pixels.shape[1:])


@dataclass
class CaptionBatch(Batch):
    """`pixels` (B, 3, H, W) and their captions, `input_ids` (B, T), padded on the right."""

    pixels: Tensor
    input_ids: Tensor


class CaptionEncoder:
    """Pictures with captions, for the `vision` stage."""

    def __init__(self, image_size: int, tokenizer: PreTrainedTokenizerBase, max_length: int):
        self.transform = pixel_transform(image_size)
        self.tokenizer = tokenizer
        self.max_length = max_length

    def encode(self, sample: Sample) -> tuple[Tensor, list[int]] | None:
        picture = sample.target or (sample.images[0] if sample.images else None)
        if picture is None or not sample.caption:
            return None
        ids = self.tokenizer.encode(sample.caption, add_special_tokens=False)
        return self.transform(picture), ids[: self.max_length]

    def collate(self, examples: list[tuple[Tensor, list[int]]]) -> CaptionBatch:
        pad = self.tokenizer.pad_token_id
        rows = [ids + [pad] * (self.max_length - len(ids)) for _, ids in examples]
        return CaptionBatch(
            pixels=torch.stack([pixels for pixels, _ in examples]), input_ids=torch.tensor(rows)
        )


@dataclass
class SequenceBatch(Batch):
    """Packed sequences: the arguments of ManzanoForConditionalGeneration.forward.

    Each sequence's positions restart at 0, which is what keeps it from attending to its neighbours.
    There is always at least one picture, so that every rank runs the vision tokenizer.
    """

    input_ids: Tensor
    labels: Tensor
    position_ids: Tensor
    pixel_values: Tensor
    image_index: Tensor
    """(M,) which picture each block of `<image>` shows."""
    image_sequence: Tensor
    """(M,) to which sequence of the batch each block belongs."""
    target_pixel_values: Tensor | None


@dataclass
class SequenceExample:
    """A sample's sequences with the pictures they show (each sequence shows them all) and draw.

    Of a picture that is split, `images` holds the tiles and the overview.
    """

    sequences: list[TokenSequence]
    images: list[Tensor]
    targets: list[Tensor]


class SequenceEncoder:
    """Token sequences packed into rows, for the `tokenizer` and `llm` stages.

    Args:
        image_size: pixels, side of the vision tokenizer's input.
        num_tokens: N, tokens a picture becomes.
        row_length: tokens in a packed row.
        max_questions: of a sample that asks more about its pictures, this many are drawn.
        drop_prompt: share of pictures drawn from nothing, for classifier-free guidance.
        max_tiles: into which a picture that is asked about is split; 1 splits none.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        image_size: int,
        num_tokens: int,
        row_length: int,
        max_questions: int = 4,
        drop_prompt: float = 0.1,
        max_tiles: int = 1,
    ):
        check_max_tiles(max_tiles)
        self.tokenizer = tokenizer
        self.transform = pixel_transform(image_size)
        self.image_size = image_size
        self.num_tokens = num_tokens
        self.row_length = row_length
        self.max_questions = max_questions
        self.drop_prompt = drop_prompt
        self.max_tiles = max_tiles
        self.pad_id = tokenizer.get_vocab()[SPECIAL_TOKENS["pad"]]

    def encode(self, sample: Sample) -> SequenceExample:
        """Raises ValueError for a sample that does not fit a row."""
        if sample.target is not None and random.random() < self.drop_prompt:
            sample = unconditional(sample)
        # The reference of an edit is drawn again as a whole, and is not split.
        tiles = self.max_tiles if sample.task == "understanding" else 1
        grids = [grid(i.height, i.width, self.image_size, tiles) for i in sample.images]
        found = sequences(sample, self.tokenizer, self.num_tokens, grids)
        if len(found) > self.max_questions:
            found = random.sample(found, self.max_questions)
        while len(found) > 1 and sum(map(len, found)) > self.row_length:
            found.pop()
        shown = [tile for i in sample.shown() for tile in split(i, self.image_size, tiles)]
        if len(found[0]) > self.row_length:
            raise ValueError(self.too_long(sample, len(found[0]), len(shown)))
        return SequenceExample(
            sequences=found,
            images=[self.transform(i) for i in shown],
            targets=[] if sample.target is None else [self.transform(sample.target)],
        )

    def too_long(self, sample: Sample, length: int, shown: int) -> str:
        """Why a sample of `length` tokens that shows so many pictures or tiles fits no row."""
        tiles, remedy = "", "raise row_length"
        if shown > len(sample.images):
            tiles = f", {shown} tiles of {self.num_tokens} tokens among them"
            remedy += ", lower max_tiles"
        return (
            f"sample {sample.key} of {sample.source} takes {length} tokens{tiles}, more than a "
            f"row of {self.row_length}: {remedy} or shorten the sample"
        )

    def length(self, example: SequenceExample) -> int:
        """Tokens the example takes in a row."""
        return sum(map(len, example.sequences))

    def collate(self, rows: list[list[SequenceExample]]) -> SequenceBatch:
        """Packs: rows of examples, none longer than row_length, -> one batch."""
        images: list[Tensor] = []
        targets: list[Tensor] = []
        index: list[int] = []
        owners: list[int] = []
        count = 0
        columns: dict[str, list[list[int]]] = {"input_ids": [], "labels": [], "position_ids": []}
        for row in rows:
            ids: list[int] = []
            labels: list[int] = []
            positions: list[int] = []
            for example in row:
                shown = range(len(images), len(images) + len(example.images))
                for sequence in example.sequences:
                    ids += sequence.input_ids
                    # A sequence's first token does not continue the sequence packed before it.
                    labels += [IGNORE, *sequence.labels[1:]]
                    positions += range(len(sequence))
                    index += shown
                    owners += [count] * len(shown)
                    count += 1
                images += example.images
                targets += example.targets
            rest = self.row_length - len(ids)
            columns["input_ids"].append(ids + [self.pad_id] * rest)
            columns["labels"].append(labels + [IGNORE] * rest)
            columns["position_ids"].append(positions + list(range(rest)))
        blank = torch.zeros(3, self.image_size, self.image_size)
        return SequenceBatch(
            **{name: torch.tensor(values) for name, values in columns.items()},
            pixel_values=torch.stack(images or [blank]),
            image_index=torch.tensor(index, dtype=torch.long),
            image_sequence=torch.tensor(owners, dtype=torch.long),
            target_pixel_values=torch.stack(targets) if targets else None,
        )

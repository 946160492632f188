"""What each stage makes of a sample: pictures alone, pictures with captions, or packed sequences.

An encoder turns a Sample into an example (`encode`, None where the stage has no use for it) and a
list of examples into a batch (`collate`). `manzano.data_mix.loader` runs them in its workers.
"""

import random
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from manzano.data_mix.schema import Sample
from manzano.data_mix.sequences import TokenSequence, sequences, unconditional
from manzano.data_mix.transforms import pixel_transform
from manzano.llm.loss import IGNORE
from manzano.llm.vocabulary import SPECIAL_TOKENS


class Batch:
    """Base of the batches: dataclasses of tensors (or None)."""

    def to(self, device: torch.device | str) -> "Batch":
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
    shape, and `has_reference` (B,) is True. `reference` is None where no picture has one."""

    pixels: Tensor
    reference: Tensor | None
    has_reference: Tensor


class PictureEncoder:
    """The picture to be drawn, or else each picture shown, for the `vae` and `decoder` stages; with
    `references`, also those that are edited."""

    def __init__(self, image_size: int, *, references: bool = False):
        self.transform = pixel_transform(image_size)
        self.references = references

    def encode(self, sample: Sample) -> tuple[Tensor, Tensor | None] | None:
        if sample.target is not None:
            edits = self.references and sample.images
            reference = self.transform(sample.shown()[0]) if edits else None
            return self.transform(sample.target), reference
        if not sample.images:
            return None
        return self.transform(random.choice(sample.images)), None

    def collate(self, examples: list[tuple[Tensor, Tensor | None]]) -> PictureBatch:
        pixels = torch.stack([target for target, _ in examples])
        has_reference = torch.tensor([r is not None for _, r in examples])
        blank, reference = torch.zeros_like(pixels[0]), None
        if has_reference.any():
            reference = torch.stack([blank if r is None else r for _, r in examples])
        return PictureBatch(pixels=pixels, reference=reference, has_reference=has_reference)


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
    """A sample's sequences with the pictures they show (each sequence shows them all) and draw."""

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
    ):
        self.tokenizer = tokenizer
        self.transform = pixel_transform(image_size)
        self.image_size = image_size
        self.num_tokens = num_tokens
        self.row_length = row_length
        self.max_questions = max_questions
        self.drop_prompt = drop_prompt
        self.pad_id = tokenizer.get_vocab()[SPECIAL_TOKENS["pad"]]

    def encode(self, sample: Sample) -> SequenceExample:
        """Raises ValueError for a sample that does not fit a row."""
        if sample.target is not None and random.random() < self.drop_prompt:
            sample = unconditional(sample)
        found = sequences(sample, self.tokenizer, self.num_tokens)
        if len(found) > self.max_questions:
            found = random.sample(found, self.max_questions)
        while len(found) > 1 and sum(map(len, found)) > self.row_length:
            found.pop()
        if len(found[0]) > self.row_length:
            raise ValueError(
                f"sample {sample.key} of {sample.source} takes {len(found[0])} tokens, more than a "
                f"row of {self.row_length}: raise row_length or shorten the sample"
            )
        return SequenceExample(
            sequences=found,
            images=[self.transform(i) for i in sample.shown()],
            targets=[] if sample.target is None else [self.transform(sample.target)],
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

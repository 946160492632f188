"""ManzanoProcessor: pictures to pixels, words to ids, and back."""

import re

import torch
from transformers import AutoProcessor, BatchFeature, ProcessorMixin

from manzano.configuration import ManzanoConfig
from manzano.data_mix.sequences import CHAT_TEMPLATE, image_block, picture_blocks
from manzano.data_mix.tiles import Grid, grid, split
from manzano.llm.vocabulary import SPECIAL_TOKENS, reserved_tokens


class ManzanoProcessor(ProcessorMixin):
    """Expands each `<image>` in the text to the tokens its picture takes, and tokenizes.

    Args:
        image_processor: resizes to the vision tokenizer's square and scales to [-1, 1].
        tokenizer: the text tokenizer, special tokens included.
        num_image_tokens: N, tokens a picture becomes, or a tile of it.
        max_length: longest sequence the language model takes, in tokens.
        max_tiles: tiles that a picture is split into at most, as in training; 1 splits none.
    """

    attributes = ["image_processor", "tokenizer"]

    def __init__(
        self,
        image_processor=None,
        tokenizer=None,
        chat_template: str | None = None,
        num_image_tokens: int = 196,
        max_length: int = 4096,
        max_tiles: int = 1,
        **kwargs,
    ):
        self.num_image_tokens = num_image_tokens
        self.max_length = max_length
        self.max_tiles = max_tiles
        self.image_token = SPECIAL_TOKENS["image"]
        super().__init__(
            image_processor, tokenizer, chat_template=chat_template or CHAT_TEMPLATE, **kwargs
        )

    def __call__(
        self,
        images=None,
        text: str | list[str] | None = None,
        max_tiles: int | None = None,
        reserve: int = 0,
        **kwargs,
    ) -> BatchFeature:
        """Model inputs for prompts in which `<image>` stands once for each picture.

        Args:
            images: pictures (PIL) in the order of their `<image>`, over all prompts.
            text: one prompt or several; they are left-padded to one length.
            max_tiles: in place of the processor's own. The reference of an edit takes 1: it is not
                split in training.
            reserve: tokens that must have room after each prompt, as a picture's ids do.

        Returns:
            `input_ids`, `attention_mask` (B, T) and, with pictures, `pixel_values` (P, 3, H, W), of
            pictures that are split their tiles and overviews.

        Raises:
            ValueError: if pictures and `<image>` differ in number, or a prompt is too long.
        """
        kwargs.pop("return_tensors", None)
        text = [text] if isinstance(text, str) else list(text or [])
        images = [] if images is None else images if isinstance(images, list | tuple) else [images]
        asked = sum(t.count(self.image_token) for t in text)
        if asked != len(images):
            raise ValueError(
                f"the text has {asked} {self.image_token} but {len(images)} images were given"
            )
        tiles = self.max_tiles if max_tiles is None else max_tiles
        side = self.image_processor.size["height"]
        expanded = self.expand(text, [grid(i.height, i.width, side, tiles) for i in images])
        features = self.tokenizer(
            expanded,
            padding=True,
            padding_side="left",
            add_special_tokens=False,
            return_tensors="pt",
        )
        data = {"input_ids": features["input_ids"], "attention_mask": features["attention_mask"]}
        self.check_length(data["attention_mask"], text, expanded, reserve)
        if images:
            data["pixel_values"] = self.pixels([t for i in images for t in split(i, side, tiles)])
        return BatchFeature(data)

    def expand(self, text: list[str], grids: list[Grid]) -> list[str]:
        """Prompts with the blocks of each picture, by its grid, in place of its `<image>`."""
        blocks = iter([picture_blocks(found, self.num_image_tokens) for found in grids])
        return [re.sub(self.image_token, lambda _: next(blocks), t) for t in text]

    def check_length(
        self, mask: torch.Tensor, text: list[str], expanded: list[str], reserve: int
    ) -> None:
        """Raises ValueError if a prompt and what is reserved take more tokens than max_length; mask
        (B, T)."""
        lengths = mask.sum(dim=1).tolist()
        longest = max(range(len(lengths)), key=lengths.__getitem__)
        if lengths[longest] + reserve <= self.max_length:
            return
        blocks = expanded[longest].count(image_block(self.num_image_tokens))
        tiles, remedy = "", "shorten it, or give fewer images"
        if blocks > text[longest].count(self.image_token):
            tiles = f", {blocks} tiles of {self.num_image_tokens} tokens among them"
            remedy += " or a smaller max_tiles"
        drawn = f" and what follows {reserve}" if reserve else ""
        raise ValueError(
            f"the prompt takes {lengths[longest]} tokens{tiles}{drawn}, more than the "
            f"{self.max_length} that this model was made for: {remedy}"
        )

    def pixels(self, images) -> torch.Tensor:
        """Pictures (PIL, RGB) -> (P, 3, H, W) float32 in [-1, 1]."""
        return self.image_processor(list(images), return_tensors="pt")["pixel_values"]

    def prompt(self, words: str, num_images: int = 0) -> str:
        """A user's turn by the chat template, pictures first, and the opening of the answer.

        Raises:
            ValueError: if the words hold a special token.
        """
        return self.render([("user", [None] * num_images + [words])])

    def conversation(self, messages) -> str:
        """Turns (`manzano.answering.Message`) by the chat template, and the opening of an answer.

        Raises:
            ValueError: if there are none, or words in them hold a special token.
        """
        turns = [
            (turn.role, [part if isinstance(part, str) else None for part in turn.content])
            for turn in messages
        ]
        if not turns:
            raise ValueError("there is nothing to answer: give at least one message")
        return self.render(turns)

    def render(self, turns: list[tuple[str, list[str | None]]]) -> str:
        """Roles with what each says, None for a picture."""
        found = [
            t for _, parts in turns for words in parts if words for t in reserved_tokens(words)
        ]
        if found:
            raise ValueError(f"the text may not contain the special tokens {found}: leave them out")
        messages = [
            {
                "role": role,
                "content": [
                    {"type": "image"} if words is None else {"type": "text", "text": words}
                    for words in parts
                ],
            }
            for role, parts in turns
        ]
        return self.apply_chat_template(
            messages,  # pyright: ignore[reportArgumentType]
            add_generation_prompt=True,
            tokenize=False,
        )

    def decode(self, ids: torch.Tensor) -> list[str]:
        """Generated joint ids (B, T) -> words, as they were said."""
        return self.tokenizer.batch_decode(ids, skip_special_tokens=True)

    def decode_text(self, ids: torch.Tensor) -> list[str]:
        """Generated joint ids (B, T) -> answers, without spaces around them."""
        return [words.strip() for words in self.decode(ids)]

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", "pixel_values"]


AutoProcessor.register(ManzanoConfig, ManzanoProcessor, exist_ok=True)

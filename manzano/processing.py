"""ManzanoProcessor: pictures to pixels, words to ids, and back."""

import torch
from transformers import AutoProcessor, BatchFeature, ProcessorMixin

from manzano.configuration import ManzanoConfig
from manzano.data_mix.sequences import CHAT_TEMPLATE, image_block
from manzano.llm.vocabulary import SPECIAL_TOKENS, reserved_tokens


class ManzanoProcessor(ProcessorMixin):
    """Expands each `<image>` in the text to the tokens its picture takes, and tokenizes.

    Args:
        image_processor: resizes to the vision tokenizer's square and scales to [-1, 1].
        tokenizer: the text tokenizer, special tokens included.
        num_image_tokens: N, tokens a picture becomes.
        max_length: longest sequence the language model takes, in tokens.
    """

    attributes = ["image_processor", "tokenizer"]

    def __init__(
        self,
        image_processor=None,
        tokenizer=None,
        chat_template: str | None = None,
        num_image_tokens: int = 196,
        max_length: int = 4096,
        **kwargs,
    ):
        self.num_image_tokens = num_image_tokens
        self.max_length = max_length
        self.image_token = SPECIAL_TOKENS["image"]
        super().__init__(
            image_processor, tokenizer, chat_template=chat_template or CHAT_TEMPLATE, **kwargs
        )

    def __call__(self, images=None, text: str | list[str] | None = None, **kwargs) -> BatchFeature:
        """Model inputs for prompts in which `<image>` stands once for each picture.

        Args:
            images: pictures (PIL) in the order of their `<image>`, over all prompts.
            text: one prompt or several; they are left-padded to one length.

        Returns:
            `input_ids`, `attention_mask` (B, T) and, with pictures, `pixel_values` (P, 3, H, W).

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
        expanded = [t.replace(self.image_token, image_block(self.num_image_tokens)) for t in text]
        features = self.tokenizer(
            expanded,
            padding=True,
            padding_side="left",
            add_special_tokens=False,
            return_tensors="pt",
        )
        length = features["input_ids"].shape[1]
        if length > self.max_length:
            raise ValueError(
                f"the prompt takes {length} tokens, more than the {self.max_length} that this "
                "model was made for: shorten it, or give fewer images"
            )
        data = {"input_ids": features["input_ids"], "attention_mask": features["attention_mask"]}
        if images:
            data["pixel_values"] = self.pixels(images)
        return BatchFeature(data)

    def pixels(self, images) -> torch.Tensor:
        """Pictures (PIL, RGB) -> (P, 3, H, W) float32 in [-1, 1]."""
        return self.image_processor(list(images), return_tensors="pt")["pixel_values"]

    def prompt(self, words: str, num_images: int = 0) -> str:
        """A user's turn by the chat template, pictures first, and the opening of the answer.

        Raises:
            ValueError: if the words hold a special token.
        """
        found = reserved_tokens(words)
        if found:
            raise ValueError(f"the text may not contain the special tokens {found}: leave them out")
        content = [{"type": "image"}] * num_images + [{"type": "text", "text": words}]
        return self.apply_chat_template(
            [{"role": "user", "content": content}],  # pyright: ignore[reportArgumentType]
            add_generation_prompt=True,
            tokenize=False,
        )

    def decode_text(self, ids: torch.Tensor) -> list[str]:
        """Generated joint ids (B, T) -> answers."""
        return [t.strip() for t in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", "pixel_values"]


AutoProcessor.register(ManzanoConfig, ManzanoProcessor, exist_ok=True)

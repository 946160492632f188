"""The joint vocabulary: text tokens, then one contiguous block of image ids (Manzano, Sec. 3.1).

    0 ................. text_size - 1 | text_size ............ text_size + image_size - 1
    text, special and size tokens     | ids of the FSQ codebook

`<image>` and `<target>` are placeholders: the model puts continuous embeddings in place of the
first and the target picture's ids in place of the second; neither is ever predicted.

A picture to be drawn that is no square has a size token between `<img_start>` and its ids. It names
the ratio alone: ids describe a picture stretched to the square, and the decoder paints them at any
number of pixels.
"""

from dataclasses import asdict, dataclass

from transformers import PreTrainedTokenizerBase

from manzano.data_mix.sizes import RATIOS, SQUARE, Ratio

SPECIAL_TOKENS = {
    "end": "<|end|>",
    "pad": "<|pad|>",
    "user": "<|user|>",
    "assistant": "<|assistant|>",
    "img_start": "<img_start>",
    "img_end": "<img_end>",
    "image": "<image>",
    "target": "<target>",
}
SIZE_TOKENS: dict[Ratio, str] = {
    (height, width): f"<{height}:{width}>" for height, width in RATIOS if (height, width) != SQUARE
}
"""One for each shape but the square, height to width."""


def reserved_tokens(words: str) -> list[str]:
    """The special and size tokens that occur in a text: read as tokens, they would be obeyed."""
    return [token for token in (*SPECIAL_TOKENS.values(), *SIZE_TOKENS.values()) if token in words]


@dataclass(frozen=True, kw_only=True)
class JointVocabulary:
    """Sizes of the two blocks and the ids of the special tokens."""

    text_size: int
    image_size: int
    end: int
    pad: int
    user: int
    assistant: int
    img_start: int
    img_end: int
    image: int
    target: int
    sizes: tuple[int, ...] = ()
    """In the order of SIZE_TOKENS; () for a model that draws nothing, or squares alone."""

    def __post_init__(self):
        object.__setattr__(self, "sizes", tuple(self.sizes))  # JSON has lists

    @property
    def size(self) -> int:
        """Rows of the LLM's embedding and of its head."""
        return self.text_size + self.image_size

    @property
    def image_offset(self) -> int:
        """The joint id of image id 0."""
        return self.text_size

    @property
    def never_said(self) -> list[int]:
        """Tokens that no answer holds: the marks of turns and pictures, and the placeholders."""
        return [self.user, self.assistant, self.img_end, self.image, self.target, *self.sizes]

    def to_dict(self) -> dict:
        return asdict(self) | {"sizes": list(self.sizes)}


def joint_vocabulary(tokenizer: PreTrainedTokenizerBase, image_size: int) -> JointVocabulary:
    """The joint vocabulary over a text tokenizer, which gets the special tokens it lacks.

    Args:
        tokenizer: any transformers tokenizer; changed in place where special tokens are missing.
        image_size: codebook size of the vision tokenizer; 0 for a model that draws nothing, and
            needs no size tokens.
    """
    size_tokens = list(SIZE_TOKENS.values()) if image_size else []
    needed = [*SPECIAL_TOKENS.values(), *size_tokens]
    missing = [t for t in needed if t not in tokenizer.get_vocab()]
    if missing:
        tokenizer.add_special_tokens({"extra_special_tokens": missing})
    if tokenizer.pad_token is None:
        tokenizer.pad_token = SPECIAL_TOKENS["pad"]
    rows = tokenizer.get_vocab()
    ids = {name: rows[token] for name, token in SPECIAL_TOKENS.items()}
    sizes = tuple(rows[token] for token in size_tokens)
    # Not len(tokenizer): where a tokenizer leaves ids out, its last ones lie beyond its length.
    text_size = max(rows.values()) + 1
    return JointVocabulary(text_size=text_size, image_size=image_size, sizes=sizes, **ids)

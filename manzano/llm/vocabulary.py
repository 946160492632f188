"""The joint vocabulary: text tokens, then one contiguous block of image ids (Manzano, Sec. 3.1).

    0 ................. text_size - 1 | text_size ............ text_size + image_size - 1
    text and special tokens           | ids of the FSQ codebook

`<image>` and `<target>` are placeholders: the model puts continuous embeddings in place of the
first and the target picture's ids in place of the second; neither is ever predicted.
"""

from dataclasses import asdict, dataclass

from transformers import PreTrainedTokenizerBase

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

    @property
    def size(self) -> int:
        """Rows of the LLM's embedding and of its head."""
        return self.text_size + self.image_size

    @property
    def image_offset(self) -> int:
        """The joint id of image id 0."""
        return self.text_size

    def to_dict(self) -> dict[str, int]:
        return asdict(self)


def joint_vocabulary(tokenizer: PreTrainedTokenizerBase, image_size: int) -> JointVocabulary:
    """The joint vocabulary over a text tokenizer, which gets the special tokens it lacks.

    Args:
        tokenizer: any transformers tokenizer; changed in place where special tokens are missing.
        image_size: codebook size of the vision tokenizer; 0 for a model that draws nothing.
    """
    missing = [t for t in SPECIAL_TOKENS.values() if t not in tokenizer.get_vocab()]
    if missing:
        tokenizer.add_special_tokens({"extra_special_tokens": missing})
    if tokenizer.pad_token is None:
        tokenizer.pad_token = SPECIAL_TOKENS["pad"]
    rows = tokenizer.get_vocab()
    ids = {name: rows[token] for name, token in SPECIAL_TOKENS.items()}
    # Not len(tokenizer): where a tokenizer leaves ids out, its last ones lie beyond its length.
    return JointVocabulary(text_size=max(rows.values()) + 1, image_size=image_size, **ids)

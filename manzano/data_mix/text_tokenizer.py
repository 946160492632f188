"""A small text tokenizer, trained on the corpus that is about to be used.

Byte-level BPE, so that any text survives a round trip. Upper-case letters and digits are kept apart
before merging: text read in a picture is spelled letter by letter, and a number digit by digit,
which is what a small model can learn from few examples.
"""

from collections.abc import Iterable, Sequence

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL_TOKENS = (
    "<|end|>", "<|pad|>", "<|user|>", "<|assistant|>",
    "<img_start>", "<img_end>", "<image>", "<target>",
)  # fmt: skip
END, PAD = SPECIAL_TOKENS[:2]

_NUM_BYTES = 256


def train_text_tokenizer(
    texts: Iterable[str],
    vocab_size: int = 512,
    *,
    special_tokens: Sequence[str] = SPECIAL_TOKENS,
    eos_token: str = END,
    pad_token: str = PAD,
) -> PreTrainedTokenizerFast:
    """Trains the tokenizer; the same texts in the same order give the same vocabulary.

    Args:
        texts: The training texts.
        vocab_size: Number of ids in all: special tokens (the first ids), 256 bytes, merges.
        special_tokens: Never split, never the result of a merge; in the order of their ids.
        eos_token: One of `special_tokens`, ends an answer.
        pad_token: One of `special_tokens`.

    Raises:
        ValueError: `vocab_size` has no room, or a named token is not among the special ones.
    """
    if vocab_size < _NUM_BYTES + len(special_tokens):
        raise ValueError(
            f"vocab_size is {vocab_size}; 256 bytes and {len(special_tokens)} special tokens need "
            f"at least {_NUM_BYTES + len(special_tokens)}"
        )
    for token in (eos_token, pad_token):
        if token not in special_tokens:
            raise ValueError(
                f"{token!r} is not among the special tokens {', '.join(special_tokens)}"
            )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"[\p{Lu}\p{N}]"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(special_tokens),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=eos_token,
        pad_token=pad_token,
        extra_special_tokens=[t for t in special_tokens if t not in (eos_token, pad_token)],
        clean_up_tokenization_spaces=False,
    )

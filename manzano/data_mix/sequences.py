"""From a sample to token sequences: who says what, where pictures go, what is to be predicted.

    understanding  <|user|><img_start><image>*N<img_end>question<|assistant|>answer<|end|>
    generation     <|user|>prompt<|assistant|>words<img_start>size<target>*N<img_end><|end|>
    editing        <|user|><img_start><image>*N<img_end>instruction<|assistant|>words
                       <img_start>size<target>*N<img_end><|end|>
    text           prose<|end|>

A picture that is split (`manzano.data_mix.tiles`) is several such blocks: the tiles of a row of its
grid side by side, each row on a line of its own, the overview on the last.
The words before a target picture are those of the sample's assistant turn, if it has one: what the
picture will show, say. A model that learned to say so first draws what it has said. The size is one
token that names the target's ratio, and none for a square.
Loss falls on the answer, on the target picture's ids (with the tokens around them, as text) and on
all prose (Manzano, Sec. 3.1). The same layout as a chat template serves inference: CHAT_TEMPLATE.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerBase

from manzano.data_mix.schema import Sample, Turn
from manzano.data_mix.sizes import Ratio, nearest_ratio
from manzano.data_mix.tiles import WHOLE, Grid
from manzano.llm.loss import IGNORE
from manzano.llm.vocabulary import SIZE_TOKENS, SPECIAL_TOKENS

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|user|>' if message['role'] == 'user' else '<|assistant|>' -}}"
    "{%- if message['content'] is string -%}{{- message['content'] -}}"
    "{%- else -%}{%- for part in message['content'] -%}"
    "{{- '<image>' if part['type'] == 'image' else part['text'] -}}"
    "{%- endfor -%}{%- endif -%}"
    "{{- '<|end|>' if message['role'] == 'assistant' else '' -}}"
    "{%- endfor -%}"
    "{{- '<|assistant|>' if add_generation_prompt else '' -}}"
)


def image_block(num_tokens: int) -> str:
    """What stands for a picture that is looked at: `<img_start>`, placeholders, `<img_end>`."""
    tokens = SPECIAL_TOKENS["image"] * num_tokens
    return SPECIAL_TOKENS["img_start"] + tokens + SPECIAL_TOKENS["img_end"]


def picture_blocks(grid: Grid, num_tokens: int) -> str:
    """What stands for a picture of that grid, its tiles in the order of `tiles.split`."""
    rows, columns = grid
    block = image_block(num_tokens)
    if grid == WHOLE:
        return block
    return "\n".join([block * columns] * rows + [block])


@dataclass(frozen=True)
class TokenSequence:
    """One sequence: ids and labels of equal length, IGNORE where nothing is predicted."""

    input_ids: list[int]
    labels: list[int]

    def __len__(self) -> int:
        return len(self.input_ids)


def unconditional(sample: Sample) -> Sample:
    """A picture to draw from nothing, neither words nor reference: what classifier-free guidance
    leads away from."""
    return replace(sample, turns=(Turn(role="user", text=""),), images=())


def sequences(
    sample: Sample,
    tokenizer: PreTrainedTokenizerBase,
    num_tokens: int,
    grids: Sequence[Grid] | None = None,
) -> list[TokenSequence]:
    """The sequences of a sample: one, or one a question where it asks several about its pictures.

    Args:
        num_tokens: N, tokens an image becomes, or a tile of it.
        grids: of each of the sample's images; by default none of them is split.
    """
    grids = [WHOLE] * len(sample.images) if grids is None else grids
    pictures = "".join(picture_blocks(grid, num_tokens) for grid in grids)
    if sample.task == "text":
        return [
            _join(tokenizer, [("", True), (sample.turns[0].text + SPECIAL_TOKENS["end"], True)])
        ]
    if sample.task == "understanding":
        questions, answers = sample.turns[::2], sample.turns[1::2]
        return [
            _exchange(tokenizer, pictures + q.text, a.text)
            for q, a in zip(questions, answers, strict=True)
        ]
    assert sample.target is not None  # the schema has seen to it
    prompt, *words = (turn.text for turn in sample.turns)
    ratio = nearest_ratio(sample.target.height, sample.target.width)
    target = begin_picture(tokenizer, ratio) + SPECIAL_TOKENS["target"] * num_tokens
    answer = "".join(words) + target + SPECIAL_TOKENS["img_end"]
    return [_exchange(tokenizer, pictures + prompt, answer)]


def begin_picture(tokenizer: PreTrainedTokenizerBase, ratio: Ratio) -> str:
    """What comes before the ids of a picture of that ratio: `<img_start>` and its size.

    Raises:
        ValueError: if the text tokenizer has no token for the size.
    """
    size = SIZE_TOKENS.get(ratio, "")
    if size and tokenizer.convert_tokens_to_ids(size) in (None, tokenizer.unk_token_id):
        raise ValueError(
            f"this model has no size token {size}, and draws squares alone: ask for a square, or "
            "make the model anew from its tokenizer stage's export"
        )
    return SPECIAL_TOKENS["img_start"] + size


def _exchange(tokenizer: PreTrainedTokenizerBase, user: str, assistant: str) -> TokenSequence:
    prompt = SPECIAL_TOKENS["user"] + user + SPECIAL_TOKENS["assistant"]
    return _join(tokenizer, [(prompt, False), (assistant + SPECIAL_TOKENS["end"], True)])


def _join(tokenizer: PreTrainedTokenizerBase, parts: list[tuple[str, bool]]) -> TokenSequence:
    """Tokenizes parts one by one (text, is it predicted?), so that no token spans a boundary."""
    input_ids: list[int] = []
    labels: list[int] = []
    for text, predicted in parts:
        ids = tokenizer.encode(text, add_special_tokens=False) if text else []
        input_ids += ids
        labels += ids if predicted else [IGNORE] * len(ids)
    return TokenSequence(input_ids, labels)

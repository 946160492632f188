"""Where the language model's rows for image ids begin: the sum of a vector for each FSQ digit.

Drawn at random, every one of thousands of rows must be learned from its own few occurrences. An id
is a number whose digits are the quantised dimensions; here ids that share a digit share a part of
their rows, and neighbouring digits are alike. What is learned of an id so holds for its relatives,
and a colour and a shape that were never seen together can be put together (docs/log.md).
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from manzano.llm.vocabulary import JointVocabulary


@torch.no_grad()
def init_image_rows(
    language_model: PreTrainedModel, levels: Sequence[int], vocabulary: JointVocabulary
) -> None:
    """Sets the rows of all image ids, in the input table and, where it is another, in the head.

    They get the mean and the deviation of the text rows, which stay.

    Args:
        language_model: a transformers model whose tables have `vocabulary.size` rows.
        levels: of the FSQ codebook; their product is `vocabulary.image_size`.
    """
    layers = language_model.get_input_embeddings(), language_model.get_output_embeddings()
    for table in {next(layer.parameters()) for layer in layers if layer is not None}:  # weights
        text = table[: vocabulary.image_offset]
        rows = digit_sums(levels, table.shape[1]).to(table)
        rows = rows - rows.mean(0)
        spread = (text - text.mean(0)).std() / rows.std()
        table[vocabulary.image_offset :] = text.mean(0) + rows * spread


def digit_sums(levels: Sequence[int], width: int) -> Tensor:
    """(product of levels, width): for each id the sum of its digits' vectors, the same ones always.

    The first digit varies fastest, as in `manzano.tokenizer.fsq`.
    """
    fixed = torch.Generator().manual_seed(0)
    rows = torch.zeros(1, width)
    for level in levels:
        places = torch.arange(level)
        near = torch.exp(-0.5 * (places[:, None] - places).square())  # (level, level)
        vectors = near @ torch.randn(level, width, generator=fixed)
        rows = (vectors[:, None] + rows).flatten(0, 1)
    return rows

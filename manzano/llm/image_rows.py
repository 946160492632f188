"""Where the language model's rows for image ids begin: as far apart as their codes are.

Drawn at random, every one of thousands of rows must be learned from its own few occurrences. Here
ids of neighbouring FSQ codes begin alike, so what is learned of one holds for the next, and colours
and shapes never seen together can be put together (docs/log.md).
"""

import torch
from torch import Tensor, nn

from manzano.llm.vocabulary import JointVocabulary


@torch.no_grad()
def init_image_rows(
    language_model: nn.Module, code_embeddings: Tensor, vocabulary: JointVocabulary
) -> None:
    """Sets the rows of all image ids, in the input table and, where it is another, in the head.

    Args:
        language_model: a transformers model whose tables have `vocabulary.size` rows of width D.
        code_embeddings: (K, D') the frozen discrete adapter's embedding of each id. Where D' is not
            D, a fixed random projection takes them there.
    """
    codes = code_embeddings - code_embeddings.mean(0)
    tables = {language_model.get_input_embeddings().weight}
    tables |= {language_model.get_output_embeddings().weight}
    for table in tables:
        text = table[: vocabulary.image_offset]
        width = table.shape[1]
        if codes.shape[1] != width:
            fixed = torch.Generator().manual_seed(0)
            codes = codes @ torch.randn(codes.shape[1], width, generator=fixed).to(codes)
        spread = (text - text.mean(0)).std() / codes.std()
        table[vocabulary.image_offset :] = text.mean(0) + codes * spread

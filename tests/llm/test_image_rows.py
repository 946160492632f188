"""Rows of image ids begin as their codes lie."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from manzano.llm.backbone import language_config
from manzano.llm.image_rows import init_image_rows
from manzano.llm.vocabulary import joint_vocabulary
from tests.tiny import QWEN3, text_tokenizer, tiny_vision


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("width", [32, 20])
def test_rows_lie_as_the_codes_do_and_text_rows_stay(tied, width):
    vision = tiny_vision(discrete_width=width)
    codes = vision.embed_ids(torch.arange(vision.config.codebook_size)[None])[0].detach()
    vocabulary = joint_vocabulary(text_tokenizer(), len(codes))
    settings = {**QWEN3, "vocab_size": vocabulary.size, "tie_word_embeddings": tied}
    model = AutoModelForCausalLM.from_config(language_config(settings))
    tables = [model.get_input_embeddings().weight, model.get_output_embeddings().weight]
    before = [table.detach().clone() for table in tables]
    init_image_rows(model, codes, vocabulary)
    start = vocabulary.image_offset
    for table, old in zip(tables, before, strict=True):
        assert torch.equal(table[:start], old[:start])
        text, image = table[:start].detach(), table[start:].detach()
        torch.testing.assert_close(image.mean(0), text.mean(0), rtol=0, atol=1e-5)
        spread = (text - text.mean(0)).std()
        torch.testing.assert_close((image - image.mean(0)).std(), spread, rtol=1e-3, atol=0)
        centred = codes - codes.mean(0)
        solution = torch.linalg.lstsq(centred.double(), (image - image.mean(0)).double()).solution
        fitted = centred.double() @ solution  # rows are a linear map of the codes' embeddings
        torch.testing.assert_close(fitted.float(), image - image.mean(0), rtol=0, atol=1e-4)
        if width == 32:  # with no projection, the same picture at another scale
            same = centred * spread / centred.std()
            torch.testing.assert_close(image - image.mean(0), same, rtol=1e-3, atol=1e-5)

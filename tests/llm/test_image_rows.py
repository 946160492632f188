"""Rows of image ids begin as sums over the digits of the id."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from manzano.llm.backbone import language_config
from manzano.llm.image_rows import digit_sums, init_image_rows
from manzano.llm.vocabulary import joint_vocabulary
from manzano.tokenizer.fsq import FSQ
from tests.tiny import QWEN3, text_tokenizer

LEVELS = (5, 4, 3)


@pytest.mark.parametrize("tied", [True, False])
def test_rows_have_the_spread_of_the_text_rows_which_stay(tied):
    vocabulary = joint_vocabulary(text_tokenizer(), 60)
    settings = {**QWEN3, "vocab_size": vocabulary.size, "tie_word_embeddings": tied}
    model = AutoModelForCausalLM.from_config(language_config(settings))
    tables = [model.get_input_embeddings().weight, model.get_output_embeddings().weight]
    before = [table.detach().clone() for table in tables]
    init_image_rows(model, LEVELS, vocabulary)
    start = vocabulary.image_offset
    for table, old in zip(tables, before, strict=True):
        assert torch.equal(table[:start], old[:start])
        text, image = table[:start].detach(), table[start:].detach()
        torch.testing.assert_close(image.mean(0), text.mean(0), rtol=0, atol=1e-5)
        spread = (text - text.mean(0)).std()
        torch.testing.assert_close((image - image.mean(0)).std(), spread, rtol=1e-3, atol=0)


def test_changing_one_digit_moves_every_row_alike():
    rows = digit_sums(LEVELS, 7)
    digits = FSQ(LEVELS).ids_to_codes(torch.arange(60)[None])[0]  # (60, 3) in [-1, 1]
    for axis in range(3):
        values = digits[:, axis].unique()
        moved = rows[digits[:, axis] == values[1]] - rows[digits[:, axis] == values[0]]
        assert len(moved) == 60 // LEVELS[axis]
        torch.testing.assert_close(moved, moved[:1].expand_as(moved), rtol=0, atol=1e-5)
        assert moved.abs().max() > 0.1


def test_neighbouring_digits_are_alike():
    rows = digit_sums((8,), 4096)
    near, far = (torch.cosine_similarity(rows[3], rows[i], dim=0) for i in (4, 7))
    assert near > 0.7 > 0.2 > far

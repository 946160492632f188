"""Rows with padding or several sequences, as one packed row."""

import torch
from transformers.masking_utils import find_packed_sequence_indices

from manzano.llm.pararnn.rows import padded_rows, several_sequences


def test_padding_anywhere_is_left_out_and_rows_without_a_token_have_no_sequence():
    mask = torch.tensor([[0, 0, 1, 1], [0, 0, 0, 0], [1, 0, 1, 0], [1, 1, 1, 1]])
    rows = padded_rows(mask)
    assert rows is not None and rows.tokens is not None
    assert rows.tokens.tolist() == [2, 3, 8, 10, 12, 13, 14, 15]
    assert rows.cu_seqlens.tolist() == [0, 2, 4, 8]
    assert rows.cu_seqlens.dtype == torch.int32
    assert rows.owners.tolist() == [0, 0, 1, 1, 2, 2, 2, 2]
    assert rows.rows.tolist() == [0, 2, 3]
    x = torch.randn(4, 4, 3)
    assert torch.equal(rows.unpack(rows.pack(x), x), x * mask[..., None])


def test_rows_without_padding_need_nothing():
    assert padded_rows(torch.ones(2, 3)) is None
    assert several_sequences(torch.arange(5)[None], 3) is None
    assert several_sequences(torch.tensor([[3, 4, 5], [0, 1, 2]]), 2) is None


def test_sequences_begin_where_positions_do_not_go_on_by_one():
    positions = torch.tensor([[0, 1, 0, 0, 1], [4, 5, 6, 7, 8], [0, 1, 2, 5, 6]])
    rows = several_sequences(positions, 3)
    assert rows is not None and rows.tokens is None
    assert rows.cu_seqlens.tolist() == [0, 2, 3, 5, 10, 13, 15]
    assert rows.rows.tolist() == [0, 0, 0, 1, 2, 2]
    own = find_packed_sequence_indices(positions)
    same = rows.owners.view(3, 5)[:, :, None] == rows.owners.view(3, 5)[:, None]
    assert torch.equal(same, own[:, :, None] == own[:, None])
    x = torch.randn(3, 5, 2)
    assert torch.equal(rows.pack(x), x.view(1, 15, 2))
    assert torch.equal(rows.unpack(rows.pack(x), x), x)


def test_positions_that_all_rows_share_count_for_each():
    rows = several_sequences(torch.tensor([[0, 1, 0]]), 2)
    assert rows is not None
    assert rows.cu_seqlens.tolist() == [0, 2, 3, 5, 6]
    assert rows.rows.tolist() == [0, 0, 1, 1]

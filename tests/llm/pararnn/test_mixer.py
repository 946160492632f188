"""The parts of the mixer."""

import pytest
import torch
import torch.nn.functional as F

from manzano.llm.pararnn.configuration import ParaRNNConfig
from manzano.llm.pararnn.mixer import CausalConvolution, GatedRMSNorm, ParaRNNMixer
from manzano.llm.pararnn.rows import padded_rows
from tests.llm.pararnn.language_models import PARARNN


@pytest.mark.parametrize("kernel", [1, 4])
@pytest.mark.parametrize("length", [1, 2, 9])
def test_the_convolution_is_the_one_of_torch_and_looks_back_only(kernel, length):
    conv, x = CausalConvolution(6, kernel), torch.randn(2, length, 6)
    torch.nn.init.normal_(conv.bias)
    before = F.pad(x.transpose(1, 2), (kernel - 1, 0))
    expected = F.conv1d(before, conv.weight[:, None], conv.bias, groups=6).transpose(1, 2)
    y, history = conv(x)
    torch.testing.assert_close(y, expected)
    assert torch.equal(history, before.transpose(1, 2)[:, length:])


@pytest.mark.parametrize("kernel", [1, 4])
def test_the_convolution_of_packed_sequences_goes_on_from_each_history(kernel):
    conv = CausalConvolution(6, kernel)
    mask = torch.tensor([[0, 0, 0, 0, 1], [1, 1, 1, 1, 1], [0, 0, 1, 1, 0]])
    x, history = torch.randn(3, 5, 6), torch.randn(3, kernel - 1, 6)
    rows = padded_rows(mask)
    assert rows is not None
    y, ends = conv(rows.pack(x), history, rows)
    y = rows.unpack(y, x)
    for row in range(3):
        real = mask[row] == 1
        expected, end = conv(x[row][real][None], history[row : row + 1])
        torch.testing.assert_close(y[row][real], expected[0])
        assert torch.equal(ends[row], end[0])


def test_a_history_of_another_dtype_is_taken_in_that_of_the_input():
    """As of a cache that was filled under autocast."""
    conv, history = CausalConvolution(6, 4), torch.randn(2, 3, 6).bfloat16()
    x, rows = torch.randn(2, 5, 6), padded_rows(torch.tensor([[0, 1, 1, 1, 1], [1] * 5]))
    assert rows is not None
    y, ends = conv(rows.pack(x), history, rows)
    wanted, end = conv(x[1:], history[1:].float())
    torch.testing.assert_close(y[:, 4:], wanted)
    assert torch.equal(ends[1:], end)


def test_the_gated_norm_follows_its_formula():
    norm = GatedRMSNorm(8, eps=1e-6)
    torch.nn.init.normal_(norm.weight)
    x, gate = torch.randn(2, 3, 5, 8)
    scale = (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
    torch.testing.assert_close(norm(x, gate), x * scale * norm.weight * gate * gate.sigmoid())
    assert norm(x.half(), gate.half()).dtype == torch.half


def test_a_batch_of_padding_alone_passes():
    mixer = ParaRNNMixer(ParaRNNConfig(**PARARNN), 0)
    rows = padded_rows(torch.zeros(2, 3))
    hidden = torch.randn(2, 3, 32, requires_grad=True)
    y = mixer(hidden, rows)
    assert y.shape == (2, 3, 32)
    y.sum().backward()
    assert hidden.grad is not None and not hidden.grad.any()

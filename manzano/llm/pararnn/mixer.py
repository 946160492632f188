"""The mixer of a ParaRNN language model (arXiv 2510.21450, Fig. 9): what stands in for attention.

    x -- linear --+-- causal convolution -- SiLU -- ParaRNN cell -- RMSNorm --(*)-- linear -- y
                  +-- SiLU ---------------------------------------------------+

Letters: B rows, T tokens, D width, K taps, S state size; packed rows have M real tokens and N
sequences in all (see rows.py).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Cache

from manzano.llm.pararnn.cache import recurrent_layer
from manzano.llm.pararnn.configuration import ParaRNNConfig
from manzano.llm.pararnn.layers import ParaGRU, ParaLSTM
from manzano.llm.pararnn.rows import PackedRows

CELLS = {"gru": ParaGRU, "lstm": ParaLSTM}


class CausalConvolution(nn.Module):
    """Depthwise: each channel is a weighted sum of its last `kernel` inputs."""

    def __init__(self, channels: int, kernel: int):
        super().__init__()
        self.kernel = kernel
        self.weight = nn.Parameter(torch.empty(channels, kernel))
        self.bias = nn.Parameter(torch.empty(channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.uniform_(self.weight, -(self.kernel**-0.5), self.kernel**-0.5)
        nn.init.zeros_(self.bias)

    def no_weight_decay(self) -> set[str]:
        """Its taps are a few numbers a channel, and no matrix."""
        return {"weight"}

    def forward(
        self, x: Tensor, history: Tensor | None = None, sequences: PackedRows | None = None
    ) -> tuple[Tensor, Tensor]:
        """x (B, T, D), or (1, M, D) with `sequences` -> the same shape, and the last inputs.

        history: (B, K - 1, D), or (N, K - 1, D), the inputs before the first ones; None for zeros.
            The second result is the same for the call that goes on from here.
        """
        before = self.kernel - 1
        number = len(x) if sequences is None else len(sequences.rows)
        if history is None:
            history = x.new_zeros(number, before, x.shape[-1])
        history = history.to(x.dtype)
        if sequences is None:
            extended = torch.cat([history, x], dim=1)
            return self._weighted(extended), extended[:, extended.shape[1] - before :]
        # Each sequence gets its history in front of it, so that no tap reaches into a neighbour.
        places = torch.arange(x.shape[1], device=x.device) + before * sequences.owners  # (M,)
        ends = sequences.cu_seqlens[1:].long() + before * torch.arange(1, number + 1).to(x.device)
        back = torch.arange(before, device=x.device)
        starts = sequences.cu_seqlens[:-1].long() + before * torch.arange(number).to(x.device)
        extended = x.new_zeros(x.shape[1] + before * number, x.shape[-1])
        extended = extended.index_copy(0, (starts[:, None] + back).flatten(), history.flatten(0, 1))
        extended = extended.index_copy(0, places + before, x[0])
        y = self._weighted(extended[None])[:, places]
        return y, extended[ends[:, None] - before + back]

    def _weighted(self, extended: Tensor) -> Tensor:
        """(B, T + K - 1, D) -> (B, T, D). In this layout it beats F.conv1d and its transposes."""
        length = extended.shape[1] - self.kernel + 1
        taps = self.weight.to(extended.dtype).unbind(1)
        y = torch.addcmul(self.bias.to(extended.dtype), extended[:, :length], taps[0])
        for shift, tap in enumerate(taps[1:], 1):
            y = torch.addcmul(y, extended[:, shift : shift + length], tap)
        return y


class GatedRMSNorm(nn.Module):
    """RMSNorm over the channels, times SiLU(gate); computed in float32."""

    def __init__(self, size: int, eps: float):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        normed = F.rms_norm(x.float(), x.shape[-1:], self.weight.float(), self.eps)
        return (normed * F.silu(gate.float())).to(x.dtype)


class ParaRNNMixer(nn.Module):
    """Mixes over time in the place of attention."""

    def __init__(self, config: ParaRNNConfig, layer_idx: int):
        super().__init__()
        size = config.hidden_size
        self.layer_idx = layer_idx
        self.in_proj = nn.Linear(size, 2 * size, bias=False)
        self.conv = CausalConvolution(size, config.conv_kernel)
        self.cell = CELLS[config.cell](
            size,
            size,
            num_heads=config.num_heads,
            solver=config.solver,
            recurrent_bound=config.recurrent_bound,
            keep_bias=config.keep_bias,
        )
        self.norm = GatedRMSNorm(size, config.rms_norm_eps)
        self.out_proj = nn.Linear(size, size, bias=False)

    def forward(
        self, hidden: Tensor, sequences: PackedRows | None = None, cache: Cache | None = None
    ) -> Tensor:
        """hidden (B, T, D) -> (B, T, D); what is at padding means nothing."""
        value, gate = self.in_proj(hidden).chunk(2, dim=-1)
        past = None if cache is None else recurrent_layer(cache, self.layer_idx)
        history, state = (None, None) if past is None else (past.history, past.state)
        if sequences is not None:
            rows = sequences.rows
            old = None if history is None else history[rows], None if state is None else state[rows]
            packed, ends = self.conv(sequences.pack(value), old[0], sequences)
            y, final = self.cell(F.silu(packed), old[1], sequences.cu_seqlens)
            y = sequences.unpack(y, value)
            if past is not None:
                history, state = (
                    into_rows(before, after, rows, len(hidden))
                    for before, after in ((history, ends), (state, final))
                )
        else:
            value, history = self.conv(value, history)
            if hidden.shape[1] == 1 and state is not None:
                y, state = self.cell.step(F.silu(value[:, 0]), state)
                y = y[:, None]
            else:
                y, state = self.cell(F.silu(value), state)
        if past is not None:
            assert history is not None and state is not None
            past.store(history, state, hidden.shape[1])
        return self.out_proj(self.norm(y, gate))


def into_rows(before: Tensor | None, after: Tensor, rows: Tensor, batch: int) -> Tensor:
    """(B, ...) `before` (None: zeros), with `after` (N, ...) in place of the rows (N,)."""
    if before is None:
        before = after.new_zeros(batch, *after.shape[1:])
    return before.index_copy(0, rows, after.to(before.dtype))

"""The sizes of the paper (arXiv 2510.21450, Table 3): sequences of 2,048 tokens, 50,432 ids.

The paper gives layers, heads and numbers of parameters; the widths are those that agree with them.

| size | layers | heads | parameters (GRU and LSTM) |
|---|---|---|---|
| 400m | 24 | 4 | 406M |
| 1b | 24 | 4 | 1.42B |
| 2.9b | 32 | 2 | 2.90B |
| 7b | 32 | 4 | 6.76B |
"""

from manzano.llm.pararnn.configuration import ParaRNNConfig

SIZES: dict[str, dict[str, int]] = {
    "400m": {"hidden_size": 1024, "num_hidden_layers": 24, "num_heads": 4},
    "1b": {"hidden_size": 2048, "num_hidden_layers": 24, "num_heads": 4},
    "2.9b": {"hidden_size": 2560, "num_hidden_layers": 32, "num_heads": 2},
    "7b": {"hidden_size": 4096, "num_hidden_layers": 32, "num_heads": 4},
}


def preset(size: str, cell: str = "gru") -> ParaRNNConfig:
    """The configuration of a model of the paper: `preset("1b", "lstm")`.

    Raises:
        ValueError: for a size or cell that the paper has not.
    """
    if size not in SIZES:
        raise ValueError(f"the paper's sizes are {', '.join(SIZES)}; got {size!r}")
    return ParaRNNConfig(cell=cell, vocab_size=50_432, max_position_embeddings=2048, **SIZES[size])

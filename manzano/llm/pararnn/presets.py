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

SIZES = {"400m": (1024, 24, 4), "1b": (2048, 24, 4), "2.9b": (2560, 32, 2), "7b": (4096, 32, 4)}
"""Width, layers, heads."""


def preset(size: str, cell: str = "gru") -> ParaRNNConfig:
    """The configuration of a model of the paper: `preset("1b", "lstm")`.

    Raises:
        ValueError: for a size or cell that the paper has not.
    """
    if size not in SIZES:
        raise ValueError(f"the paper's sizes are {', '.join(SIZES)}; got {size!r}")
    width, layers, heads = SIZES[size]
    return ParaRNNConfig(
        cell=cell,
        vocab_size=50_432,
        hidden_size=width,
        num_hidden_layers=layers,
        num_heads=heads,
        max_position_embeddings=2048,
    )

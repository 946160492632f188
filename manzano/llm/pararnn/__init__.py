"""Nonlinear recurrent layers that train in parallel over time: ParaGRU, ParaLSTM, one's own.

See docs/pararnn.md. Importing compiles nothing; native kernels are built at their first use.
"""

from typing import TYPE_CHECKING

from manzano.llm.pararnn.cells import GRU_CELL, LSTM_CELL, Cell
from manzano.llm.pararnn.layers import ParaGRU, ParaLSTM, ParaRNNLayer
from manzano.llm.pararnn.report import ConvergenceError, Report, SolverOptions
from manzano.llm.pararnn.solver import SOLVERS, solve

if TYPE_CHECKING:
    from manzano.llm.pararnn.configuration import ParaRNNConfig
    from manzano.llm.pararnn.modeling import ParaRNNForCausalLM

__all__ = [
    "GRU_CELL",
    "LSTM_CELL",
    "SOLVERS",
    "Cell",
    "ConvergenceError",
    "ParaGRU",
    "ParaLSTM",
    "ParaRNNConfig",
    "ParaRNNForCausalLM",
    "ParaRNNLayer",
    "Report",
    "SolverOptions",
    "solve",
]


def __getattr__(name: str):
    """The language model's classes, imported at first use: they bring transformers' model code."""
    if name == "ParaRNNConfig":
        from manzano.llm.pararnn.configuration import ParaRNNConfig

        return ParaRNNConfig
    if name == "ParaRNNForCausalLM":
        from manzano.llm.pararnn.modeling import ParaRNNForCausalLM

        return ParaRNNForCausalLM
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

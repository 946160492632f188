"""Every solver of the registry against the plain loop in float64: states and all gradients."""

import pytest
import torch

from manzano.llm.pararnn import SOLVERS, ConvergenceError, SolverOptions
from tests.llm.pararnn.recurrences import Case, allowed_errors, errors, results

WAYS = {name: (name, SolverOptions()) for name in ("auto", *SOLVERS) if name != "sequential"}
WAYS["fused, one sweep"] = ("fused", SolverOptions(chunks=1))
WAYS["fused, chunks"] = ("fused", SolverOptions(chunks=7))

LENGTHS = [Case(cell, steps) for cell in ("gru", "lstm") for steps in (1, 2, 3, 31, 64, 100, 513)]
SINGLE = [Case(cell, 31, rows=1, channels=1) for cell in ("gru", "lstm")]
LONG = [Case(cell, 4096, rows=1, channels=3) for cell in ("gru", "lstm")]
PACKED = [Case(cell, 100, rows=1, packed=(0, 1, 2, 33, 100)) for cell in ("gru", "lstm")]
REGIMES = [
    Case(cell, 600, weights, memory, rows=1, channels=64)
    for cell in ("gru", "lstm")
    for weights, memory in ((0.9, 0.0), (2.0, 0.0), (0.5, 6.0))
]
HARD = [Case(cell, 600, 4.0, rows=1, channels=64) for cell in ("gru", "lstm")]
HARD += [Case("gru", 1024, rows=1, channels=16, parity=True)]

every_way = pytest.mark.parametrize("way", WAYS)
HALF = (torch.bfloat16, torch.float16)
WHOLE = (torch.float32, torch.float64)


def cases(*lists: list[Case]):
    every = [case for cases in lists for case in cases]
    return pytest.mark.parametrize("case", every, ids=str)


def dtypes(*choices: torch.dtype):
    return pytest.mark.parametrize("dtype", choices, ids=lambda d: str(d)[6:])


def assert_as_good_as_the_loop(case: Case, dtype: torch.dtype, way: str) -> None:
    solver, options = WAYS[way]
    found, allowed = (
        errors(case, results(case, dtype, solver, options)),
        allowed_errors(case, dtype),
    )
    assert {name: (e, allowed[name]) for name, e in found.items() if not e <= allowed[name]} == {}


@every_way
@dtypes(*WHOLE, *HALF)
@cases(LENGTHS, SINGLE, PACKED)
def test_any_length_and_dtype_is_solved_as_well_as_by_the_loop(case, dtype, way):
    assert_as_good_as_the_loop(case, dtype, way)


@every_way
@dtypes(*WHOLE, *HALF)
@cases(LONG, REGIMES)
def test_long_sequences_strong_weights_and_long_memory_are_too(case, dtype, way):
    assert_as_good_as_the_loop(case, dtype, way)


@every_way
@dtypes(*WHOLE, *HALF)
@cases(HARD)
def test_where_newton_may_fail_the_result_is_right_or_an_error_says_so(case, dtype, way):
    try:
        assert_as_good_as_the_loop(case, dtype, way)
    except ConvergenceError:
        assert way in ("newton", "reduction")

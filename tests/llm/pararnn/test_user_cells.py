"""A cell of one's own: the one that docs/pararnn.md shows, and cells of one to four numbers."""

import re
from pathlib import Path

import pytest
import torch

from manzano.llm.pararnn import Cell, ParaRNNLayer, SolverOptions, solve
from tests.llm.pararnn.recurrences import user_cell

PAGE = Path(__file__).parents[3] / "docs" / "pararnn.md"
SECTIONS = re.findall(
    r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE
)
# The examples of layers and cells; a language model's may be too large to be run here.
EXAMPLES = [
    code
    for title, text in SECTIONS
    if title in ("Layers", "Your own cell")
    for code in re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
]


@pytest.mark.parametrize("code", EXAMPLES, ids=lambda code: code.split("\n")[1][:50])
def test_the_page_s_examples_run(code):
    torch.manual_seed(0)
    exec(compile(code, str(PAGE), "exec"), {})


def documented_cell():
    names: dict = {}
    (code,) = (code for code in EXAMPLES if "MINIMAL_GATED" in code)
    exec(compile(code, str(PAGE), "exec"), names)
    return names["MINIMAL_GATED"]


CELLS = {"documented": documented_cell(), **{f"of {n}": user_cell(n) for n in (1, 2, 3, 4)}}


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
@pytest.mark.parametrize("steps", [1, 2, 31, 200])
@pytest.mark.parametrize("packed", [False, True], ids=["rows", "packed"])
@pytest.mark.parametrize("solver", ["newton", "reduction", "auto"])
def test_every_solver_agrees_with_the_loop(cell, steps, packed, solver):
    generator = torch.Generator().manual_seed(0)
    borders = torch.tensor([0, (steps + 1) // 2, steps]) if packed and steps > 1 else None
    sequences, rows = (2, 1) if borders is not None else (1, 1)
    shapes = ((rows, steps, cell.num_preactivations, 3), (cell.num_parameters, 3))
    shapes += ((sequences, cell.state_size, 3),)
    leaves = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    leaves[1] *= 0.3
    leaves = [leaf.requires_grad_() for leaf in leaves]
    results = []
    for name in (solver, "sequential"):
        states, final, _ = solve(cell, *leaves, cu_seqlens=borders, solver=name)
        gradients = torch.autograd.grad(states.sin().sum() + final.cos().sum(), leaves)
        results.append((states.detach(), final.detach(), *gradients))
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_a_layer_compiles_as_one_graph(cell):
    torch.compiler.reset()  # it counts what it compiles of one function, over all layers
    layer = ParaRNNLayer(cell, 4, 6, num_heads=2, solver="sequential")
    x = torch.randn(2, 5, 4, requires_grad=True)
    results = []
    for run in (layer, torch.compile(layer, fullgraph=True, backend="aot_eager")):
        y, state = run(x)
        gradients = torch.autograd.grad(y.sin().sum() + state.sum(), (x, *layer.parameters()))
        results.append((y, state, *gradients))
    torch.testing.assert_close(*results)


def test_a_layer_tries_its_cell_when_it_is_made():
    mixing = Cell("mixing", lambda state, u, a: u + a * state.cumsum(-1), 1, 1, 1)
    with pytest.raises(ValueError, match="'mixing' is not channelwise: it reads other channels"):
        ParaRNNLayer(mixing, 4, 6)


def test_a_default_device_is_not_where_the_probe_is_drawn():
    cell = Cell("leaky", lambda state, u, a: a * state + u, 1, 1, 1)
    inputs = torch.ones(1, 3, 1, 2), torch.full((1, 2), 0.5)
    with torch.device("meta"):
        states = solve(cell, *inputs, torch.zeros(1, 1, 2, device="cpu"))[0]
    assert states.flatten().tolist() == [1, 1, 1.5, 1.5, 1.75, 1.75]


def test_states_without_bound_are_solved_to_a_relative_tolerance():
    """A linear cell whose states grow to hundreds: one Newton iteration solves it."""
    cell = Cell("sum", lambda state, u, a: a * state + u, 1, 1, 1)
    inputs = torch.rand(1, 500, 1, 4), torch.ones(1, 4)
    states, _, report = solve(
        cell, *inputs, solver="newton", options=SolverOptions(max_iterations=3)
    )
    torch.testing.assert_close(states, inputs[0].cumsum(1))
    assert states.max() > 200 and report.summary()["iterations"] <= 3


@pytest.mark.parametrize("packed", [False, True], ids=["channels", "packed"])
@pytest.mark.parametrize("solver", ["auto", "newton", "reduction"])
def test_large_states_elsewhere_excuse_no_residual(solver, packed):
    """States beyond 1e9, whose roundings are hundreds, beside some within 2, in a channel or a
    sequence of their own."""
    cell = Cell("beside", lambda state, u, a: a[0] * state + u + torch.tanh(a[1] * state), 1, 1, 2)
    small = torch.randn(1, 300, 1, 1, generator=torch.Generator().manual_seed(0)) * 0.3
    large = torch.full((1, 300, 1, 1), 1e7)
    if packed:  # the same recurrence: what is large is its input
        u, a = torch.cat((large, small), 1), torch.tensor([[0.0], [-0.9]])
        borders, part = torch.tensor([0, 300, 600]), (slice(None), slice(300, None))
    else:
        u, a = torch.cat((large, small), 3), torch.tensor([[1.0, 0.0], [0.0, -0.9]])
        borders, part = None, (..., slice(1, None))
    states = solve(cell, u, a, cu_seqlens=borders, solver=solver)[0]
    wanted = solve(cell, u, a, cu_seqlens=borders, solver="sequential")[0]
    assert wanted.abs().max() > 1e6 and wanted[part].abs().max() < 3
    torch.testing.assert_close(states[part], wanted[part], rtol=0, atol=1e-5)

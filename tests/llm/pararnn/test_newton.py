"""Newton's method: the parallel reduction, the convergence it reports, and its gradients."""

import pytest
import torch

from manzano.llm.pararnn import GRU_CELL, ConvergenceError, SolverOptions, solve
from manzano.llm.pararnn.newton import compose, parallel_reduction, solved
from manzano.llm.pararnn.packing import previous_states
from tests.llm.pararnn.recurrences import CELLS, Case, user_cell

SOLVER_NAMES = ("newton", "reduction", "fused", "sequential")


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("state_size", [1, 2, 3, 4])
@pytest.mark.parametrize("steps", [1, 2, 3, 5, 8, 31])
def test_the_reduction_solves_the_linear_recurrence_both_ways(steps, state_size):
    jacobians, right = random(2, steps, state_size, state_size, 3), random(2, steps, state_size, 3)
    wanted, x = [], torch.zeros(2, state_size, 3, dtype=torch.float64)
    for t in range(steps):
        x = torch.einsum("bijd,bjd->bid", jacobians[:, t], x) + right[:, t]
        wanted.append(x)
    found = parallel_reduction(jacobians, right, False)
    torch.testing.assert_close(found, torch.stack(wanted, 1), rtol=1e-9, atol=1e-9)

    wanted, x = [], torch.zeros(2, state_size, 3, dtype=torch.float64)
    for t in reversed(range(steps)):
        after = jacobians[:, t + 1] if t + 1 < steps else torch.zeros_like(jacobians[:, 0])
        x = torch.einsum("bjid,bjd->bid", after, x) + right[:, t]
        wanted.append(x)
    found = parallel_reduction(jacobians, right, True)
    torch.testing.assert_close(found, torch.stack(wanted[::-1], 1), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("state_size", [1, 2, 3, 4])
def test_composing_is_the_product_of_blocks(state_size):
    second, first = random(5, state_size, state_size, 3), random(5, state_size, state_size, 3) + 1
    wanted = torch.einsum("tijd,tjkd->tikd", second, first)
    torch.testing.assert_close(compose(second, first), wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", CELLS)
def test_the_residual_is_that_of_the_states_returned(name, dtype):
    preactivations, parameters, state = (x.to(dtype) for x in Case(name, 100).inputs())
    cell = CELLS[name]
    states, _, report = solve(cell, preactivations, parameters, state, solver="newton")
    again = cell.step(previous_states(states, state, None), preactivations, parameters)
    summary = report.summary()
    assert summary["solver"] == "newton"
    assert summary["residual"] == float((again - states).abs().max())
    assert summary["residual"] <= 8 * torch.finfo(dtype).eps
    assert 3 <= summary["iterations"] <= 8


def test_tolerance_and_iteration_limit_are_real():
    arguments = (GRU_CELL, *Case("gru", 200).inputs())

    def iterations(**options) -> int:
        return solve(*arguments, solver="newton", options=SolverOptions(**options))[2].iterations

    needed = iterations()
    assert iterations(max_iterations=needed) == needed
    assert iterations(tolerance=1e-2) < needed
    with pytest.raises(ConvergenceError) as error:
        iterations(max_iterations=needed - 1)
    assert f"after {needed - 1} iterations" in str(error.value)
    assert "tolerance 1.78e-15" in str(error.value) and 'solver="auto"' in str(error.value)
    with pytest.raises(ConvergenceError, match="residual 0"):
        iterations(max_iterations=1)


@pytest.mark.parametrize("name", ["newton", "reduction"])
def test_non_finite_input_is_an_error_and_auto_gives_what_the_loop_gives(name):
    preactivations, parameters, state = Case("gru", 200, rows=1).inputs()
    preactivations[0, 50, 2, 1] = torch.nan
    arguments = (GRU_CELL, preactivations, parameters, state)
    with pytest.raises(ConvergenceError, match="NaN means non-finite input"):
        solve(*arguments, solver=name)
    found = solve(*arguments)[0]
    wanted = solve(*arguments, solver="sequential")[0]
    torch.testing.assert_close(found, wanted, equal_nan=True)


def small(cell, packed: bool):
    rows = 1 if packed else 2
    generator = torch.Generator().manual_seed(0)
    shapes = ((rows, 5, cell.num_preactivations, 2), (cell.num_parameters, 2))
    shapes += ((2, cell.state_size, 2),)
    draws = (torch.rand(s, generator=generator, dtype=torch.float64) - 0.5 for s in shapes)
    return [x.requires_grad_() for x in draws]


GRADIENT_CELLS = {**CELLS, "user of 3": user_cell(3), "user of 4": user_cell(4)}


@pytest.mark.parametrize("packed", [False, True], ids=["rows", "packed"])
@pytest.mark.parametrize(
    "solver, name",
    [
        (solver, name)
        for solver in SOLVER_NAMES
        for name in GRADIENT_CELLS
        if solver != "fused" or name in CELLS  # it has no user cells
    ],
)
def test_gradients_are_those_of_finite_differences(solver, name, packed):
    cell = GRADIENT_CELLS[name]
    borders = torch.tensor([0, 2, 5]) if packed else None

    def solution(*inputs):
        return solve(cell, *inputs, cu_seqlens=borders, solver=solver)[:2]

    assert torch.autograd.gradcheck(solution, small(cell, packed))


@pytest.mark.parametrize("packed", [False, True], ids=["rows", "packed"])
@pytest.mark.parametrize("cell", GRADIENT_CELLS.values(), ids=GRADIENT_CELLS)
def test_the_loop_is_differentiable_twice(cell, packed):
    borders = torch.tensor([0, 2, 5]) if packed else None

    def solution(*inputs):
        return solve(cell, *inputs, cu_seqlens=borders, solver="sequential")[:2]

    assert torch.autograd.gradgradcheck(solution, small(cell, packed))


@pytest.mark.parametrize("solver", ["newton", "reduction"])
@pytest.mark.parametrize("of", range(4), ids=["inputs", "parameters", "state", "gradient"])
def test_a_second_derivative_is_not_left_out_silently(solver, of):
    """With allow_unused, as torch's hessian and penalties have it, it was None: zero."""
    leaves = [torch.randn(1, 9, 3, 2), torch.zeros(3, 2), torch.zeros(1, 1, 2)]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    states, _, _ = solve(GRU_CELL, *leaves, solver=solver)
    by_states = torch.ones_like(states, requires_grad=True)
    (gradient,) = torch.autograd.grad(states, leaves[0], by_states, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiable once"):
        torch.autograd.grad(gradient.sum(), [*leaves, by_states][of], allow_unused=True)


@pytest.mark.parametrize("solver", ["newton", "reduction"])
def test_a_second_derivative_of_newton_is_refused(solver):
    inputs = small(GRU_CELL, packed=False)
    states = solve(GRU_CELL, *inputs, solver=solver)[0]
    (gradient,) = torch.autograd.grad(states.sum(), inputs[0], create_graph=True)
    with pytest.raises(RuntimeError, match="differentiable once"):
        gradient.sum().backward()


def test_each_step_is_judged_by_its_own_states():
    states = torch.ones(1, 2, 1, 3)
    states[..., 0] = 1e6
    small, large = torch.zeros_like(states), torch.zeros_like(states)
    small[..., 0], large[..., 1] = 1e-2, 1e-2
    assert solved(1e-2, small, states, states, 1e-6)
    assert not solved(1e-2, large, states, states, 1e-6)
    for wrong in (torch.inf, torch.nan):
        right = torch.full_like(states, wrong)
        assert not solved(wrong, right, states, states, 1e-6)
        assert not solved(wrong, right, states, states * torch.inf, 1e-6)

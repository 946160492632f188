"""Jacobians against the paper's formulas and torch.func's; steps that are not channelwise."""

import pytest
import torch
from torch import Tensor

from manzano.llm.pararnn import GRU_CELL, LSTM_CELL, Cell, solve
from manzano.llm.pararnn.jacobian import check_channelwise, step_with_jacobian
from tests.llm.pararnn.recurrences import user_cell
from tests.llm.pararnn.test_cells import arguments


def test_the_gru_s_jacobian_is_the_formula_of_the_paper():
    state, preactivations, parameters = arguments(GRU_CELL, 2, 3)
    (h,), (a_z, a_r, a_c) = state.unbind(-2), parameters
    z, r = (torch.sigmoid(parameters[i] * h + preactivations[..., i, :]) for i in (0, 1))
    c = torch.tanh(a_c * r * h + preactivations[..., 2, :])
    wanted = (1 - z) + (c - h) * z * (1 - z) * a_z
    wanted = wanted + z * (1 - c**2) * a_c * (r + h * r * (1 - r) * a_r)
    after, jacobian = step_with_jacobian(GRU_CELL, state, preactivations, parameters)
    torch.testing.assert_close(jacobian[..., 0, 0, :], wanted)
    assert torch.equal(after, GRU_CELL.step(state, preactivations, parameters))


def test_the_lstm_s_jacobian_is_the_formula_of_the_paper():
    state, preactivations, parameters = arguments(LSTM_CELL, 2, 3)
    (c0, h0), (u_f, u_o, u_z) = state.unbind(-2), preactivations.unbind(-2)
    a_f, a_o, a_z, p_f, p_o = parameters
    f, z = torch.sigmoid(a_f * h0 + p_f * c0 + u_f), torch.tanh(a_z * h0 + u_z)
    c = f * c0 + (1 - f) * z
    o, s = torch.sigmoid(a_o * h0 + p_o * c + u_o), torch.tanh(c)
    df, do, dz, ds = f * (1 - f), o * (1 - o), 1 - z**2, 1 - s**2
    cc = f + (c0 - z) * df * p_f
    ch = (c0 - z) * df * a_f + (1 - f) * dz * a_z
    wanted = ((cc, ch), ((s * do * p_o + o * ds) * cc, s * do * (a_o + p_o * ch) + o * ds * ch))
    _, jacobian = step_with_jacobian(LSTM_CELL, state, preactivations, parameters)
    for i in (0, 1):
        for j in (0, 1):
            torch.testing.assert_close(jacobian[..., i, j, :], wanted[i][j])


@pytest.mark.parametrize("state_size", [1, 2, 3, 4])
def test_a_user_s_jacobian_is_the_diagonal_of_the_dense_one(state_size):
    cell = user_cell(state_size)
    state, preactivations, parameters = arguments(cell, 2, 3)
    _, jacobian = step_with_jacobian(cell, state, preactivations, parameters)
    dense = torch.func.jacrev(lambda s: cell.step(s, preactivations, parameters))(state)
    # Rows, steps and channels on the diagonal of both sides: (S, S, B, T, D).
    blocks = torch.einsum("btidbtjd->btijd", dense)
    torch.testing.assert_close(jacobian, blocks)


def test_a_step_that_ignores_its_state_has_a_jacobian_of_zeros():
    cell = Cell("memoryless", lambda state, u, a: torch.tanh(u + a), 1, 1, 1)
    state, preactivations, parameters = arguments(cell, 2)
    with pytest.raises(RuntimeError):  # torch's own error would say "does not require grad"
        torch.autograd.grad(cell.step(state, preactivations, parameters).sum(), state)
    assert not step_with_jacobian(cell, state, preactivations, parameters)[1].any()


def dropout(state: Tensor, u: Tensor, a: Tensor) -> Tensor:
    return torch.nn.functional.dropout(torch.tanh(state + u), 0.5)


WRONG = {
    "mixes channels by a mean": lambda s, u, a: torch.tanh(s + u.mean(-1, keepdim=True)),
    "mixes neighbours": lambda s, u, a: torch.tanh(s.roll(1, -1) + u),
    "mixes two channels only": lambda s, u, a: torch.cat((s[..., 1:2], s[..., 1:]), -1) + u,
    "mixes where autograd does not see it": lambda s, u, a: (
        s + u * s.detach().norm(dim=-1)[..., None]
    ),
    "mixes parameters": lambda s, u, a: torch.tanh(s + u + a.flip(-1)),
    "mixes weakly": lambda s, u, a: torch.tanh(s + u + 1e-3 * u.roll(2, -1)),
    "sorts": lambda s, u, a: (s + u).sort(-1).values,
}
READS = {
    "other steps": lambda s, u, a: (
        torch.tanh(s + u.roll(1, 1)) if u.dim() == 4 else torch.tanh(s + u)
    ),
    "other steps by a sum": lambda s, u, a: torch.tanh(s + u.cumsum(-3)),
    "other rows": lambda s, u, a: torch.tanh(s + u.mean(0, keepdim=True)),
    "random": dropout,
}


@pytest.mark.parametrize("step", (WRONG | READS).values(), ids=WRONG | READS)
def test_a_step_that_is_not_channelwise_is_refused(step):
    cell = Cell("wrong", step, 1, 1, 1)
    with pytest.raises(ValueError, match="step of cell 'wrong' is not channelwise"):
        check_channelwise(cell, 6, torch.float32, torch.device("cpu"))


@pytest.mark.parametrize("solver", ["sequential", "newton", "auto"])
def test_no_solver_takes_such_a_cell(solver):
    cell = Cell("wrong", WRONG["mixes neighbours"], 1, 1, 1)
    with pytest.raises(ValueError, match="it reads other channels"):
        solve(cell, torch.randn(1, 3, 1, 5), torch.randn(1, 5), solver=solver)


def test_a_step_of_another_shape_or_dtype_is_refused():
    cpu = torch.device("cpu")
    with pytest.raises(ValueError, match="must return the state's shape and dtype"):
        check_channelwise(
            Cell("flat", lambda s, u, a: s[..., 0, :], 2, 1, 1), 3, torch.float32, cpu
        )
    with pytest.raises(ValueError, match="must return the state's shape and dtype"):
        cell = Cell("single", lambda s, u, a: (s + u).float(), 1, 1, 1)
        check_channelwise(cell, 3, torch.float64, cpu)


@pytest.mark.parametrize("channels", [1, 2, 3, 64])
def test_right_steps_pass_and_leave_the_random_state_alone(channels):
    before = torch.get_rng_state()
    for cell in (GRU_CELL, LSTM_CELL, user_cell(3)):
        for dtype in (torch.float32, torch.float64):
            check_channelwise(cell, channels, dtype, torch.device("cpu"))
    assert torch.equal(torch.get_rng_state(), before)

"""The paper's cells, against their formulas written out number by number."""

from math import exp, tanh

import pytest
import torch

from manzano.llm.pararnn import GRU_CELL, LSTM_CELL, Cell
from tests.llm.pararnn.recurrences import CELLS


def sigmoid(x: float) -> float:
    return 1 / (1 + exp(-x))


def gru(state, u, a):
    (h,), (u_z, u_r, u_c), (a_z, a_r, a_c) = state, u, a
    z, r = sigmoid(a_z * h + u_z), sigmoid(a_r * h + u_r)
    c = tanh(a_c * (r * h) + u_c)
    return [(1 - z) * h + z * c]


def lstm(state, u, a):
    (c, h), (u_f, u_o, u_z), (a_f, a_o, a_z, p_f, p_o) = state, u, a
    f, z = sigmoid(a_f * h + p_f * c + u_f), tanh(a_z * h + u_z)
    c = f * c + (1 - f) * z
    return [c, sigmoid(a_o * h + p_o * c + u_o) * tanh(c)]


FORMULAS = {"gru": gru, "lstm": lstm}


def arguments(cell: Cell, *leading: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(*leading, cell.state_size, 4), (*leading, cell.num_preactivations, 4)]
    shapes.append((cell.num_parameters, 4))
    return [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]


@pytest.mark.parametrize("name", CELLS)
def test_a_step_is_the_formula_of_the_paper(name):
    cell = CELLS[name]
    state, preactivations, parameters = arguments(cell, 3)
    after = cell.step(state, preactivations, parameters)
    for row in range(3):
        for channel in range(4):
            columns = (
                x[..., channel].tolist() for x in (state[row], preactivations[row], parameters)
            )
            wanted = FORMULAS[name](*columns)
            assert after[row, :, channel].tolist() == pytest.approx(wanted, abs=1e-14)


@pytest.mark.parametrize("name", CELLS)
def test_states_stay_within_the_bound(name):
    cell = CELLS[name]
    _, preactivations, parameters = arguments(cell, 50)
    state = torch.ones(50, cell.state_size, 4, dtype=torch.float64) * cell.state_bound
    for sign in (-1, 1):
        after = cell.step(sign * state, 30 * preactivations, 30 * parameters)
        assert after.abs().max() <= cell.state_bound


def test_gates_open_and_close():
    """z = 0 holds the GRU's state, f = 1 the LSTM's cell."""
    state, preactivations, parameters = arguments(GRU_CELL, 2)
    preactivations[:, 0] = -1e4
    assert torch.equal(GRU_CELL.step(state, preactivations, parameters), state)
    state, preactivations, parameters = arguments(LSTM_CELL, 2)
    preactivations[:, 0] = 1e4
    after = LSTM_CELL.step(state, preactivations, parameters)
    torch.testing.assert_close(after[:, 0], state[:, 0])


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((0, 1, 1), "state_size is 1 to 4, got 0"),
        ((5, 1, 1), "state_size is 1 to 4, got 5"),
        ((1, 0, 1), "at least one preactivation"),
        ((1, 1, -1), "at least one preactivation"),
        ((1, 1, 1, 0.0), "state_bound is positive"),
    ],
)
def test_impossible_sizes_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        Cell("mine", lambda state, u, a: state, *sizes)

"""`solve`: what it takes, what it refuses, and what "auto" chooses."""

from dataclasses import replace

import pytest
import torch

from manzano.llm.pararnn import GRU_CELL, LSTM_CELL, SOLVERS, SolverOptions, native, solve
from manzano.llm.pararnn.packing import reset_mask, sequence_numbers
from tests.llm.pararnn.recurrences import Case, user_cell

every_solver = pytest.mark.parametrize("solver", ["auto", *SOLVERS])
close = torch.testing.assert_close


def draw(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


@every_solver
@pytest.mark.parametrize("cell", [GRU_CELL, LSTM_CELL], ids=lambda cell: cell.name)
def test_layout_does_not_matter(cell, solver):
    rows, steps, gates, channels = 2, 40, cell.num_preactivations, 6
    sizes = (channels, gates, rows, steps)
    given = draw(*sizes).permute(2, 3, 1, 0)  # D is the slowest
    sliced = draw(rows, 2 * steps, gates + 1, 2 * channels)[:, ::2, 1:, 1::2]
    alike = draw(rows, 1, gates, 1).expand(rows, steps, gates, channels)
    parameters = draw(channels, cell.num_parameters).T * 0.3
    state = draw(cell.state_size, rows, channels).transpose(0, 1).tanh()
    for preactivations in (given, sliced, alike):
        leaves = [x.detach().requires_grad_() for x in (preactivations, parameters, state)]
        plain = [x.detach().clone(memory_format=torch.contiguous_format) for x in leaves]
        plain = [x.requires_grad_() for x in plain]
        found, wanted = solve(cell, *leaves, solver=solver), solve(cell, *plain, solver=solver)
        close(found[:2], wanted[:2])
        # A gradient that is expanded, as that of a sum is.
        found, wanted = (
            torch.autograd.grad(states.sum() + final.sum(), inputs)
            for (states, final, _), inputs in ((found, leaves), (wanted, plain))
        )
        close(found, wanted)


@every_solver
def test_no_state_is_a_state_of_zeros(solver):
    preactivations, parameters, _ = Case("lstm", 10).inputs()
    zeros = torch.zeros(2, 2, 5, dtype=torch.float64)
    given = solve(LSTM_CELL, preactivations, parameters, zeros, solver=solver)
    close(solve(LSTM_CELL, preactivations, parameters, solver=solver)[:2], given[:2])


@every_solver
def test_the_final_state_is_the_last_and_keeps_no_piece_alive(solver):
    preactivations, parameters, state = Case("lstm", 10).inputs()
    states, final, _ = solve(LSTM_CELL, preactivations, parameters, state, solver=solver)
    assert torch.equal(final, states[:, -1])
    assert final.untyped_storage().nbytes() == final.nbytes
    borders = torch.tensor([0, 4, 5, 10])
    arguments = (LSTM_CELL, preactivations[:1], parameters)
    states, final, _ = solve(*arguments, cu_seqlens=borders, solver=solver)
    assert torch.equal(final, states[0, [3, 4, 9]])


@every_solver
@pytest.mark.parametrize("packed", [False, True], ids=["rows", "packed"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=lambda d: str(d)[6:])
def test_the_final_state_of_half_types_is_not_rounded(solver, dtype, packed):
    """So that a sequence in pieces is the whole to fp32, and its gradients are."""
    inputs = [x.float() for x in Case("lstm", 100).inputs()]
    inputs[0] = inputs[0].to(dtype)

    def solved(state, start, end):
        states, final, _ = solve(
            LSTM_CELL, inputs[0][:1, start:end] if packed else inputs[0][:, start:end], inputs[1],
            state, cu_seqlens=torch.tensor([0, end - start]) if packed else None, solver=solver,
        )  # fmt: skip
        assert states.dtype == dtype and final.dtype == torch.float32
        return states.float(), final

    state = inputs[2][:1] if packed else inputs[2]
    leaves = [x.requires_grad_() for x in (inputs[0], inputs[1], state.clone())]
    inputs[1] = leaves[1]
    states, final = solved(leaves[2], 0, 100)
    wanted = (final, *torch.autograd.grad(final.sin().sum() + states.sum(), leaves))
    first, between = solved(leaves[2], 0, 37)
    second, final = solved(between, 37, 100)
    loss = final.sin().sum() + first.sum() + second.sum()
    found = (final, *torch.autograd.grad(loss, leaves))
    for name, x, y in zip(("final", "d u", "d a", "d state"), found, wanted, strict=True):
        tolerance = max(1e-5, 2 * torch.finfo(x.dtype).eps)
        close(x, y, rtol=tolerance, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


@every_solver
def test_autocast_around_it_changes_nothing(solver):
    arguments = [x.float() for x in Case("gru", 20).inputs()]
    wanted = solve(GRU_CELL, *arguments, solver=solver)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(solve(GRU_CELL, *arguments, solver=solver)[0], wanted)


@pytest.mark.parametrize(
    "solver, cell",
    [
        *((solver, GRU_CELL) for solver in ("auto", *SOLVERS)),
        *((solver, user_cell(3)) for solver in ("auto", *SOLVERS) if solver != "fused"),
    ],
)
def test_inference_mode_changes_nothing(solver, cell):
    shapes = ((1, 200, cell.num_preactivations, 3), (cell.num_parameters, 3))
    inputs = [draw(*shape) * 0.5 for shape in shapes]
    wanted, wanted_final, report = solve(cell, *inputs, solver=solver)
    with torch.inference_mode():
        inputs = [x.clone() for x in inputs]
        inside = solve(cell, *inputs, solver=solver)
    with torch.no_grad():
        after = solve(cell, *inputs, solver=solver)
    for states, final, found in (inside, after):
        assert torch.equal(states, wanted) and torch.equal(final, wanted_final)
        assert found.summary() == report.summary()


def test_parameters_of_another_dtype_are_used_in_the_state_s():
    preactivations, parameters, state = Case("gru", 20).inputs()
    halves = preactivations.bfloat16(), parameters.bfloat16().requires_grad_(), state.float()
    states, final, _ = solve(GRU_CELL, *halves)
    wanted = solve(GRU_CELL, halves[0], halves[1].float(), halves[2])
    assert torch.equal(states, wanted[0]) and states.dtype == torch.bfloat16
    assert torch.equal(final, wanted[1]) and final.dtype == torch.float32
    states.float().sum().backward()
    assert halves[1].grad.dtype == torch.bfloat16


def test_where_sequences_start():
    borders = torch.tensor([0, 1, 4], dtype=torch.int32)
    assert reset_mask(borders, 4).tolist() == [True, True, False, False]
    assert sequence_numbers(borders, 4).tolist() == [0, 1, 1, 1]


def test_auto_chooses_by_cell_steps_and_channels():
    def chosen(cell, *shape: int) -> str:
        rows, steps, channels = shape
        preactivations = draw(rows, steps, cell.num_preactivations, channels)
        return solve(cell, preactivations, draw(cell.num_parameters, channels) * 0.1)[2].solver

    if native.available("cpu"):
        assert chosen(GRU_CELL, 1, 5, 4) == chosen(LSTM_CELL, 2, 300, 4) == "fused"
    assert chosen(user_cell(2), 1, 300, 4) == "reduction"
    assert chosen(user_cell(2), 1, 5, 4) == "sequential"
    assert chosen(user_cell(2), 2, 150, 200) == "sequential"


def test_auto_solves_by_the_loop_what_newton_cannot():
    """The parity cell in a user's hands, that is without a kernel and without a bound."""
    case = Case("gru", 1024, rows=1, channels=16, parity=True)
    cell = replace(GRU_CELL, name="mine", state_bound=None)
    states, _, report = solve(cell, *case.inputs())
    assert report.summary() == {"solver": "sequential", "iterations": 1, "residual": 0.0}
    assert torch.equal(states, solve(cell, *case.inputs(), solver="sequential")[0])


def test_options_out_of_range_are_refused():
    for name, value in (("tolerance", 0), ("max_iterations", 0), ("chunks", 0)):
        with pytest.raises(ValueError, match=f"{name} is .*, got 0"):
            SolverOptions(**{name: value})


U, A, STATE = draw(2, 4, 3, 5), draw(3, 5), draw(2, 1, 5)
PACK = draw(1, 4, 3, 5)
BAD = {
    r"shape \(rows, steps, 3, channels\), got \(2, 4, 15\)": dict(u=U.flatten(2)),
    r"shape \(rows, steps, 3, channels\), got \(2, 4, 2, 5\)": dict(u=U[:, :, :2]),
    "preactivations are one of .*, got torch.int64": dict(u=U.long()),
    r"parameters .* have shape \(parameters, channels\) = \(3, 5\) here, got \(5, 3\)": dict(a=A.T),
    "parameters are one of .*, got torch.int64": dict(a=A.long()),
    "parameters are on meta but preactivations on cpu": dict(a=A.to("meta")),
    "state are on meta but preactivations on cpu": dict(state=STATE.to("meta")),
    r"\(sequences, state size, channels\) = \(2, 1, 5\) here, got \(1, 1, 5\)": dict(
        state=STATE[:1]
    ),
    "the state is torch.float64 where .* torch.float64, got torch.float32": dict(
        state=STATE.float()
    ),
    "the state is torch.float32 where .* torch.bfloat16, got torch.float64": dict(
        u=U.bfloat16(), state=STATE
    ),
    "cu_seqlens.* are one row, got 2 rows": dict(cu_seqlens=torch.tensor([0, 4])),
    r"cu_seqlens has shape \(sequences \+ 1,\), got \(1, 2\)": dict(
        u=PACK, cu_seqlens=torch.tensor([[0, 4]])
    ),
    "cu_seqlens is int32 or int64, got torch.float32": dict(
        u=PACK, cu_seqlens=torch.tensor([0.0, 4.0])
    ),
    "cu_seqlens is on meta but the input on cpu": dict(
        u=PACK, cu_seqlens=torch.tensor([0, 4], device="meta")
    ),
    r"from 0 to the number of steps, 4; got \[0, 5\]": dict(
        u=PACK, cu_seqlens=torch.tensor([0, 5])
    ),
    r"got \[1, 4\]": dict(u=PACK, cu_seqlens=torch.tensor([1, 4])),
    r"got \[0, 3, 2, 4\]": dict(u=PACK, cu_seqlens=torch.tensor([0, 3, 2, 4])),
    r"got \[0, 2, 2, 4\]": dict(u=PACK, cu_seqlens=torch.tensor([0, 2, 2, 4])),
    r"= \(2, 1, 5\) here, got \(1, 1, 5\)$": dict(
        u=PACK, cu_seqlens=torch.tensor([0, 2, 4]), state=STATE[:1]
    ),
    "unknown solver 'fast': choose one of .'auto', 'sequential', 'newton'": dict(solver="fast"),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_refused(message):
    arguments = {"u": U, "a": A, "state": None} | BAD[message]
    tensors = [arguments.pop(name) for name in ("u", "a", "state")]
    with pytest.raises(ValueError, match=message):
        solve(GRU_CELL, *tensors, **arguments)


@every_solver
@pytest.mark.parametrize("place", ["preactivations", "parameters", "state"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_non_finite_input_is_refused_where_that_is_asked_for(solver, place, value):
    inputs = {"preactivations": U.clone(), "parameters": A.clone(), "state": STATE.clone()}
    checked = SolverOptions(check_finite=True)
    solve(GRU_CELL, *inputs.values(), solver="sequential", options=checked)
    inputs[place].view(-1)[3] = value
    with pytest.raises(ValueError, match=f"{place} hold NaN or infinity"):
        solve(GRU_CELL, *inputs.values(), solver=solver, options=checked)


def test_the_fused_solver_has_no_user_cells():
    with pytest.raises(ValueError, match="fused solver has kernels for"):
        solve(user_cell(2), draw(1, 4, 2, 5), draw(2, 5), solver="fused")

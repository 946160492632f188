"""The fused solver as an operator: registration, gradients, layouts, chunks, determinism.

Its results against the plain loop, over cells, dtypes and lengths, are in test_solvers.py.
"""

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

from manzano.llm.pararnn import Cell, ParaGRU, ParaLSTM, SolverOptions, native, solve
from manzano.llm.pararnn.fused import chunk_count, supports
from tests.llm.pararnn.recurrences import CELLS, Case

pytestmark = pytest.mark.skipif(
    native.missing_tool("cpu") is not None, reason=str(native.missing_tool("cpu"))
)
every_cell = pytest.mark.parametrize("name", CELLS)
every_chunks = pytest.mark.parametrize("chunks", [1, 5])
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d)[6:])


def draw(name: str, rows=2, steps=40, channels=19, dtype=torch.float32, sequences=None):
    """Preactivations, parameters and state of a problem of moderate weights."""
    cell, generator = CELLS[name], torch.Generator().manual_seed(0)
    state = torch.float32 if dtype.itemsize < 4 else dtype
    shapes = (
        (rows, steps, cell.num_preactivations, channels),
        (cell.num_parameters, channels),
        (sequences or rows, cell.state_size, channels),
    )
    tensors = (torch.randn(shape, generator=generator) for shape in shapes)
    return [x.to(d) for x, d in zip(tensors, (dtype, state, state), strict=True)]


def fused(name: str, tensors, chunks: int | None = 1, borders: Tensor | None = None, **options):
    return solve(
        CELLS[name],
        *tensors,
        cu_seqlens=borders,
        solver="fused",
        options=SolverOptions(chunks=chunks, **options),
    )


def states_and_gradients(name: str, tensors, weights: Tensor, chunks: int | None = 1, **options):
    leaves = [x.detach().requires_grad_() for x in tensors]
    states, _, _ = fused(name, leaves, chunks, **options)
    return states, *torch.autograd.grad(states, leaves, weights.to(states.dtype))


# ---- registration ------------------------------------------------------------------------------


@every_cell
@every_chunks
@every_dtype
def test_opcheck(name, chunks, dtype):
    tensors = draw(name, dtype=dtype, steps=33)
    leaves = [x.requires_grad_() for x in tensors]
    number = list(CELLS).index(name)
    operators = torch.ops.manzano
    forward = (*leaves, None, number, chunks, 16, 1e-7)
    opcheck(operators.pararnn_forward.default, forward)
    with torch.no_grad():
        states, final, checkpoints, _, _ = operators.pararnn_forward(*forward)
        saved = checkpoints if dtype.itemsize < 4 else states
        gradients = torch.ones_like(states), torch.ones_like(final)
        backward = (*gradients, *leaves, None, saved, number, chunks)
        opcheck(operators.pararnn_backward.default, backward)


@every_cell
@pytest.mark.parametrize("packed", [False, True], ids=["rows", "packed"])
@pytest.mark.parametrize("solver", ["fused", "auto"])
def test_a_layer_compiles_as_one_graph(solver, packed, name):
    torch.compiler.reset()  # it counts what it compiles of one function, over all layers
    layer = {"gru": ParaGRU, "lstm": ParaLSTM}[name](8, 16, num_heads=2, solver=solver)
    x = torch.randn(1 if packed else 2, 21, 8, requires_grad=True)
    borders = torch.tensor([0, 1, 9, 21], dtype=torch.int32) if packed else None
    results = []
    # Kept in a list: what is set on a compiled module is set on the module in it.
    for run in (layer, torch.compile(layer, fullgraph=True, backend="aot_eager")):
        y, state = run(x, None, borders)
        gradients = torch.autograd.grad(y.sin().sum() + state.sum(), (x, *layer.parameters()))
        results.append((y, state, *gradients))
    assert torch.equal(results[0][0], results[1][0])
    torch.testing.assert_close(*results)


def test_only_the_two_cells_have_kernels():
    own = Cell("own", CELLS["gru"].step, 1, 3, 3)
    tensors = draw("gru")
    assert supports(CELLS["gru"], tensors[0]) and not supports(own, tensors[0])
    with pytest.raises(ValueError, match="not for 'own': use solver=\"reduction\""):
        solve(own, *tensors, solver="fused")


def test_it_cannot_be_differentiated_twice_and_says_so():
    leaves = [x.requires_grad_() for x in draw("gru", steps=4)]
    states, _, _ = fused("gru", leaves)
    (gradient,) = torch.autograd.grad(states.sum(), leaves[0], create_graph=True)
    with pytest.raises(RuntimeError, match="differentiable once: .* use solver=.sequential"):
        gradient.sum().backward()


def test_the_report_is_left_on_the_device_and_out_of_the_graph():
    _, _, report = fused("gru", [x.requires_grad_() for x in draw("gru")], chunks=4)
    assert isinstance(report.iterations, Tensor) and not report.residual.requires_grad
    assert report.summary()["solver"] == "fused"


# ---- gradients ---------------------------------------------------------------------------------


@every_cell
@every_chunks
def test_gradcheck(name, chunks):
    leaves = [x.requires_grad_() for x in draw(name, 1, 35, 2, torch.float64)]
    assert torch.autograd.gradcheck(lambda *x: fused(name, x, chunks)[:2], leaves)


@every_cell
@every_chunks
def test_gradcheck_packed(name, chunks):
    borders = torch.tensor([0, 1, 17, 34])
    leaves = [x.requires_grad_() for x in draw(name, 1, 34, 2, torch.float64, sequences=3)]
    assert torch.autograd.gradcheck(lambda *x: fused(name, x, chunks, borders)[:2], leaves)


@every_cell
@every_chunks
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gradients_of_half_types_are_those_of_the_unrounded_states(name, chunks, dtype):
    half = draw(name, steps=100, dtype=dtype)
    weights = torch.randn(2, 100, half[2].shape[1], half[2].shape[2]).to(dtype)
    found = states_and_gradients(name, half, weights, chunks)
    expected = states_and_gradients(name, [x.float() for x in half], weights, chunks)
    for x, y in zip(found, expected, strict=True):
        rounded = y.to(x.dtype)
        torch.testing.assert_close(x, rounded, rtol=2 * torch.finfo(x.dtype).eps, atol=2e-6)


# ---- layouts -----------------------------------------------------------------------------------


def strided(x: Tensor) -> dict[str, Tensor]:
    """`x` (B, T, G, D) in other layouts."""
    wide = torch.full((*x.shape[:3], 2 * x.shape[3]), torch.nan, dtype=x.dtype)
    wide[..., ::2] = x
    return {
        "time first": x.transpose(0, 1).contiguous().transpose(0, 1),
        "channels first": x.permute(3, 2, 0, 1).contiguous().permute(2, 3, 1, 0),
        "every other channel": wide[..., ::2],
        "time reversed twice": x.flip(1).contiguous().flip(1),
        "a part": torch.cat((x, x), 3)[..., : x.shape[3]],
    }


@every_cell
@every_dtype
@pytest.mark.parametrize("channels", [1, 19, 64])
def test_strides_are_honoured(name, dtype, channels):
    tensors = draw(name, channels=channels, dtype=dtype)
    weights = torch.randn(2, 40, tensors[2].shape[1], channels).to(dtype)
    expected = states_and_gradients(name, tensors, weights)
    layouts, weight_layouts = strided(tensors[0]), strided(weights)
    for layout, preactivations in layouts.items():
        found = states_and_gradients(
            name, [preactivations, *tensors[1:]], weight_layouts[layout], 1
        )
        for x, y in zip(found, expected, strict=True):
            assert torch.equal(x, y), layout


def test_a_gradient_that_is_one_number_expanded():
    tensors = draw("gru")
    expected = states_and_gradients("gru", tensors, torch.ones(2, 40, 1, 19))
    found = states_and_gradients("gru", tensors, torch.ones(()).expand(2, 40, 1, 19))
    for x, y in zip(found, expected, strict=True):
        assert torch.equal(x, y)


def test_offsets_may_exceed_32_bits():
    """Three steps a GiB apart in memory that is reserved, and touched only where it is read."""
    stride = 2**30 + 7
    storage = torch.empty(2 * stride + 3 * 5, dtype=torch.bfloat16)
    preactivations = storage.as_strided((1, 3, 3, 5), (0, stride, 5, 1))
    small, parameters, state = draw("gru", 1, 3, 5, torch.bfloat16)
    preactivations.copy_(small)
    states, _, _ = fused("gru", (preactivations, parameters, state))
    assert torch.equal(states, fused("gru", (small, parameters, state))[0])


# ---- chunks of time ----------------------------------------------------------------------------

HARD = {
    "chaotic": Case("gru", 700, 8.0, rows=1, channels=16),
    "chaotic lstm": Case("lstm", 700, 8.0, rows=1, channels=16),
    "long memory": Case("gru", 2048, memory=6.0, rows=1, channels=16),
    "long memory lstm": Case("lstm", 2048, memory=6.0, rows=1, channels=16),
    "parity": Case("gru", 1024, rows=1, channels=16, parity=True),
}


@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize("chunks", [2, 8, 32])
@pytest.mark.parametrize("sweeps", [1, 3, 64])
def test_shooting_gives_a_trajectory_of_the_recurrence(name, chunks, sweeps):
    """Chaos admits no comparison with another rounding: every step must follow from the one before,
    but for roundings, and the first from the given state. One sweep leaves all to the last resort.
    """
    case = HARD[name]
    cell = CELLS[case.cell]
    inputs = [x.float() for x in case.inputs()]
    states, _, report = fused(case.cell, inputs, chunks, max_iterations=sweeps)
    before = torch.cat((inputs[2].unsqueeze(1), states[:, :-1]), dim=1)
    after = cell.step(before.double(), inputs[0].double(), inputs[1].double())
    assert float((states - after).abs().max()) <= 8 * torch.finfo(torch.float32).eps
    assert report.summary()["iterations"] <= min(sweeps, chunks) + 1
    assert report.summary()["residual"] <= 2 * torch.finfo(torch.float32).eps


@pytest.mark.parametrize(
    ("name", "weights", "chunks", "tolerance"),
    [("lstm", 16, 16, 1e-3), ("lstm", 8, 8, 1e-2), ("gru", 8, 3, 0.1), ("lstm", 8, 16, None)],
)
def test_the_residual_certifies_every_border(name, weights, chunks, tolerance):
    """Of many recurrences of one channel, each of which settles by itself. Where a correction is
    clamped, a start may stand still although the chunk before it ends elsewhere: then these were
    off by 9 to 1,000 times the tolerance."""
    generator, cell = torch.Generator().manual_seed(0), CELLS[name]
    shapes = (1024, 256, 3, 1), (1024, cell.state_size, 1), (cell.num_parameters, 1)
    u, state, a = (torch.randn(shape, generator=generator) for shape in shapes)
    a, state = weights * a, state.tanh()
    options = {"max_iterations": 64, "tolerance": tolerance}
    states, _, report = fused(name, (u, a, state), chunks, **options)
    before = torch.cat((state.unsqueeze(1), states[:, :-1]), dim=1)
    after = cell.step(before.double(), u.double(), a.double())
    allowed = tolerance or torch.finfo(torch.float32).eps
    assert report.summary()["residual"] <= allowed
    # A step multiplies what its state is off by.
    assert float((states - after).abs().max()) <= 8 * allowed


@pytest.mark.parametrize("name", ["long memory", "long memory lstm", "parity"])
def test_shooting_and_sweep_agree_in_gradients(name):
    case = HARD[name]
    tensors = [x.double() for x in case.inputs()]
    weights = torch.randn(1, case.steps, tensors[2].shape[1], 16, dtype=torch.float64)
    expected = states_and_gradients(case.cell, tensors, weights, 1)
    found = states_and_gradients(case.cell, tensors, weights, 9)
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-9)


def test_chunks_may_be_more_than_there_are_steps():
    tensors = draw("gru", steps=3)
    assert torch.equal(fused("gru", tensors, 50)[0], fused("gru", tensors, 1)[0])


def test_states_beyond_one_are_kept_within_the_bound_of_their_start():
    tensors = draw("gru", steps=200)
    tensors[2] = tensors[2] * 20
    torch.testing.assert_close(fused("gru", tensors, 6)[0], fused("gru", tensors, 1)[0])


def test_few_channels_and_many_steps_are_cut_into_chunks_by_themselves():
    threads = torch.get_num_threads()
    wide, _, state = draw("gru", channels=16 * threads)
    assert chunk_count(0, wide, state) == 1
    assert chunk_count(7, wide, state) == 7
    long = torch.empty(1, 100_000, 3, 1)
    assert chunk_count(0, long, torch.empty(1, 1, 1)) == min(16 * threads, 32)
    many_short = torch.empty(1000, 1, 1)  # packed sequences of 100 steps
    assert chunk_count(0, long, many_short) == 1


# ---- determinism -------------------------------------------------------------------------------


@every_cell
@every_chunks
@every_dtype
def test_results_are_the_same_bits_every_time_and_with_any_number_of_threads(name, chunks, dtype):
    tensors = draw(name, 3, 400, 70, dtype)  # enough for several threads
    weights = torch.randn(3, 400, tensors[2].shape[1], 70)
    before = torch.get_num_threads()
    try:
        runs = []
        for threads in (1, 2, 2, 3):
            torch.set_num_threads(threads)
            runs.append(states_and_gradients(name, tensors, weights, chunks))
    finally:
        torch.set_num_threads(before)
    for run in runs[1:]:
        for x, y in zip(run, runs[0], strict=True):
            assert torch.equal(x, y)

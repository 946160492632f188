"""The layers: used as torch.nn.GRU is, in pieces or whole, in rows or packed."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from manzano.llm.pararnn import (
    SOLVERS,
    Cell,
    ParaGRU,
    ParaLSTM,
    ParaRNNLayer,
    SolverOptions,
)
from tests.llm.pararnn.recurrences import user_cell

LAYERS = {"gru": ParaGRU, "lstm": ParaLSTM}
LAYERS["user"] = lambda *sizes, **settings: ParaRNNLayer(user_cell(3), *sizes, **settings)
every_layer = pytest.mark.parametrize("kind", LAYERS)
every_solver = pytest.mark.parametrize("solver", ["auto", *SOLVERS])


def layer_of(kind: str, solver: str = "auto", **settings) -> ParaRNNLayer:
    if kind == "user" and solver == "fused":
        pytest.skip("the fused solver has no user cells")
    torch.manual_seed(0)
    settings = {"num_heads": 2, "dtype": torch.float64, "solver": solver} | settings
    layer = LAYERS[kind](8, 12, **settings)
    with torch.no_grad():  # values that tell gates and channels apart, and leave the bound
        layer.recurrent.uniform_(-0.7, 0.7)
        if layer.bias is not None:
            layer.bias.normal_()
    return layer


def draw(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


@every_layer
def test_the_projection_is_block_diagonal_and_channels_stay_in_their_head(kind):
    layer = layer_of(kind)
    x = draw(3, 8)
    found = layer.project(x)
    for head in (0, 1):
        block = torch.einsum("ri,igd->rgd", x[:, 4 * head : 4 * head + 4], layer.weight[head])
        channels = slice(6 * head, 6 * head + 6)
        torch.testing.assert_close(found[..., channels], block + layer.bias[:, channels])


@every_layer
def test_without_bias(kind):
    with_bias, without = layer_of(kind), layer_of(kind, bias=False)
    with torch.no_grad():
        with_bias.bias.zero_()
    without.load_state_dict({k: v for k, v in with_bias.state_dict().items() if k != "bias"})
    torch.testing.assert_close(without(draw(2, 3, 8))[0], with_bias(draw(2, 3, 8))[0])


@every_layer
@every_solver
def test_in_pieces_or_step_by_step_is_the_same_as_whole(kind, solver):
    layer = layer_of(kind, solver)
    x = draw(2, 9, 8)
    whole, last = layer(x)
    state, pieces = None, []
    for piece in x.split([1, 5, 3], dim=1):
        y, state = layer(piece, state)
        pieces.append(y)
    torch.testing.assert_close(torch.cat(pieces, 1), whole)
    torch.testing.assert_close(state, last)
    state, steps = None, []
    for x_t in x.unbind(1):
        y_t, state = layer.step(x_t, state)
        steps.append(y_t)
    torch.testing.assert_close(torch.stack(steps, 1), whole)
    torch.testing.assert_close(state, last)


@every_layer
@every_solver
def test_gradients_in_pieces_are_those_of_the_whole(kind, solver):
    layer = layer_of(kind, solver)
    x, state = draw(2, 9, 8).requires_grad_(), draw(2, layer.cell.state_size, 12).tanh()
    state.requires_grad_()
    wanted = torch.autograd.grad(layer(x, state)[0].sin().sum(), (x, state, *layer.parameters()))
    loss, carried = 0, state
    for piece in x.split([4, 5], dim=1):
        y, carried = layer(piece, carried)
        loss = loss + y.sin().sum()
    found = torch.autograd.grad(loss, (x, state, *layer.parameters()))
    torch.testing.assert_close(found, wanted)


@every_layer
@every_solver
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_packed_is_the_same_as_separate(kind, solver, dtype):
    layer = layer_of(kind, solver)
    borders = torch.tensor([0, 1, 3, 9], dtype=dtype)
    x = draw(1, 9, 8).requires_grad_()
    state = draw(3, layer.cell.state_size, 12).tanh().requires_grad_()
    y, last = layer(x, state, cu_seqlens=borders)
    alone = [
        layer(x[:, a:b], state[i : i + 1]) for i, (a, b) in enumerate([(0, 1), (1, 3), (3, 9)])
    ]
    torch.testing.assert_close(y, torch.cat([y for y, _ in alone], 1))
    torch.testing.assert_close(last, torch.cat([s for _, s in alone]))
    leaves = (x, state, *layer.parameters())
    found = torch.autograd.grad(y.sin().sum() + last.cos().sum(), leaves)
    wanted = torch.autograd.grad(sum(y.sin().sum() + s.cos().sum() for y, s in alone), leaves)
    torch.testing.assert_close(found, wanted)


@every_solver
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_dtypes_of_output_and_state(solver, dtype):
    layer = layer_of("lstm", solver, dtype=dtype)
    x = draw(2, 5, 8, dtype=torch.float32).to(dtype)
    y, state = layer(x)
    assert (y.dtype, state.dtype) == (dtype, torch.float32)
    y_t, state = layer.step(x[:, 0], state)
    assert (y_t.dtype, state.dtype) == (dtype, torch.float32)
    assert state.shape == (2, 2, 12) and y_t.shape == (2, 12)


@every_layer
@every_solver
def test_autocast_computes_the_projection_in_bf16_and_states_in_fp32(kind, solver):
    layer = layer_of(kind, solver, dtype=torch.float32)
    x = draw(2, 5, 8, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, state = layer(x)
        y_t, _ = layer.step(x[:, 0])
        y.float().sum().backward()
    assert (y.dtype, y_t.dtype, state.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)
    assert layer.weight.grad.dtype == torch.float32
    torch.testing.assert_close(y[:, 0], y_t)
    torch.testing.assert_close(y.float(), layer(x)[0], atol=0.05, rtol=0)


@every_layer
@every_solver
@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_changes_nothing(kind, solver, reentrant):
    layer = layer_of(kind, solver)
    x = draw(2, 5, 8).requires_grad_()
    gradients = []
    for call in (layer, lambda x: checkpoint(layer, x, use_reentrant=reentrant)):
        x.grad = None
        layer.zero_grad()
        y, state = call(x)
        (y.sin().sum() + state.cos().sum()).backward()
        gradients.append([x.grad.clone(), *(p.grad.clone() for p in layer.parameters())])
    torch.testing.assert_close(*gradients, rtol=0, atol=0)


@every_layer
@every_solver
def test_input_need_not_be_contiguous(kind, solver):
    layer = layer_of(kind, solver)
    x = draw(9, 2, 16).transpose(0, 1)[..., ::2]
    torch.testing.assert_close(layer(x)[0], layer(x.contiguous())[0])


@every_layer
@every_solver
@pytest.mark.parametrize("shape", [(0, 4, 8), (2, 0, 8), (0, 0, 8)])
def test_nothing_in_nothing_out_and_gradients_of_zero(kind, solver, shape):
    layer = layer_of(kind, solver)
    given = draw(shape[0], layer.cell.state_size, 12)
    y, state = layer(draw(*shape), given)
    assert y.shape == (*shape[:2], 12)
    assert torch.equal(state, given)
    (y.sum() + state.sum()).backward()
    assert all(not p.grad.any() for p in layer.parameters())
    y, state = layer(draw(1, 0, 8), cu_seqlens=torch.tensor([0]))
    assert y.shape == (1, 0, 12) and state.shape == (0, layer.cell.state_size, 12)


def test_the_bound_holds_and_lets_parameters_come_back():
    layer = layer_of("gru")
    with torch.no_grad():
        layer.recurrent[:, :4] = torch.tensor([0.2, 0.8, -0.8, -0.5], dtype=torch.float64)
    used = layer.recurrent_parameters()
    assert used[0, :4].tolist() == [0.2, 0.5, -0.5, -0.5]
    (gradient,) = torch.autograd.grad((used * used).sum(), layer.recurrent)
    assert torch.equal(gradient, 2 * used)
    unbound = layer_of("gru", recurrent_bound=None)
    assert unbound.recurrent_parameters() is unbound.recurrent


def test_initial_values_are_those_of_the_paper_s_training():
    torch.manual_seed(0)
    layer = ParaLSTM(64, 1024, num_heads=4)
    bound = (6 / 16) ** 0.5
    assert 0.99 * bound < layer.weight.abs().max() <= bound
    assert layer.recurrent.std().item() == pytest.approx(1 / 32, rel=0.05)
    assert not layer.bias.any()
    shapes = {name: tuple(p.shape) for name, p in layer.named_parameters()}
    assert shapes == {"weight": (4, 16, 3, 256), "recurrent": (5, 1024), "bias": (3, 1024)}
    assert all(p.is_meta for p in ParaGRU(8, 8, device="meta").parameters())


def test_the_report_says_what_was_done():
    layer = layer_of("gru", "newton", options=SolverOptions(tolerance=1e-9))
    assert layer.last_report is None
    layer(draw(2, 9, 8))
    summary = layer.last_report.summary()
    assert summary["solver"] == "newton" and 0 <= summary["residual"] <= 1e-9
    assert "gru, 8, 12, num_heads=2, bias=True, solver='newton'" in repr(layer)


BAD = {
    "input_size must be a positive multiple of num_heads, got input_size=7": ((7, 12), {}),
    "hidden_size must be a positive multiple of num_heads, got hidden_size=9": ((8, 9), {}),
    "num_heads=0": ((8, 12), {"num_heads": 0}),
    "recurrent_bound is positive or None, got -0.5": ((8, 12), {"recurrent_bound": -0.5}),
    "unknown solver 'fast': choose one of": ((8, 12), {"solver": "fast"}),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_settings_are_refused(message):
    sizes, settings = BAD[message]
    with pytest.raises(ValueError, match=message):
        ParaGRU(*sizes, **({"num_heads": 2} | settings))


def test_input_of_another_size_is_refused():
    layer = layer_of("gru")
    with pytest.raises(ValueError, match=r"with 8 features, got \(2, 3, 7\)"):
        layer(draw(2, 3, 7))
    with pytest.raises(ValueError, match=r"\(rows, steps, features\)"):
        layer(draw(3, 8))
    with pytest.raises(ValueError, match=r"\(rows, features\) with 8 features, got \(2, 3, 8\)"):
        layer.step(draw(2, 3, 8))
    with pytest.raises(ValueError, match=r"shape \(2, 1, 12\) and dtype torch.float64 here"):
        layer.step(draw(2, 8), draw(1, 1, 12))
    with pytest.raises(ValueError, match="torch.float32"):
        layer.step(draw(2, 8), draw(2, 1, 12, dtype=torch.float32))


@every_solver
def test_input_of_another_device_or_dtype_is_refused(solver):
    layer = layer_of("gru", solver, dtype=torch.float32)
    for dtype in (torch.float64, torch.bfloat16, torch.int64):
        x = draw(2, 3, 8).to(dtype)
        with pytest.raises(ValueError, match=f"x is {dtype} but the layer torch.float32"):
            layer(x)
        with pytest.raises(ValueError, match=f"x is {dtype} but the layer torch.float32"):
            layer.step(x[:, 0])
    with pytest.raises(ValueError, match="x is on meta but the layer on cpu"):
        layer(torch.empty(2, 3, 8, device="meta"))
    with pytest.raises(ValueError, match=r"on cpu; got \(2, 1, 12\) and torch.float32 on meta"):
        layer.step(torch.zeros(2, 8), torch.empty(2, 1, 12, device="meta"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(draw(2, 3, 8).bfloat16())[0].dtype == torch.bfloat16
        with pytest.raises(ValueError, match="x is torch.float64 but the layer torch.float32"):
            layer(draw(2, 3, 8))
        with pytest.raises(ValueError, match="x is torch.int64 but the layer torch.float32"):
            layer(draw(2, 3, 8).long())


@pytest.mark.parametrize("layer", [ParaGRU, ParaLSTM])
def test_a_layer_that_keeps_forgets_more_slowly_from_the_start(layer):
    """With zero input and recurrent weights a step keeps sigmoid(keep_bias) of the state."""
    for keep_bias in (0.0, 3.0):
        kept = layer(4, 4, keep_bias=keep_bias)
        nn.init.zeros_(kept.recurrent)
        state = torch.full((1, kept.cell.state_size, 4), 0.5)
        _, after = kept(torch.zeros(1, 1, 4), state)
        share = torch.tensor(keep_bias).sigmoid()
        torch.testing.assert_close(after[:, 0], 0.5 * share.expand(1, 4))


def test_a_bias_that_keeps_needs_a_gate_and_a_bias():
    with pytest.raises(ValueError, match="keep_bias 1.0 needs bias=True"):
        ParaGRU(4, 4, keep_bias=1.0, bias=False)
    with pytest.raises(ValueError, match="'lazy' has keeping=0"):
        cell = Cell("lazy", lambda s, u, a: s + u, 1, num_preactivations=1, num_parameters=0)
        ParaRNNLayer(cell, 4, 4, keep_bias=1.0)

"""Newton's method on all time steps at once, in pure PyTorch (arXiv 2510.21450, section 2).

The unknowns are the states h_1 .. h_T of h_t = f(h_{t-1}, u_t). One iteration solves the linear
recurrence d_t = J_t d_{t-1} + r_t, r_t = f(h_{t-1}, u_t) - h_t, and adds d. The backward pass is
one such recurrence in reverse time, exact at the solved states: iterations are not differentiated.

Letters: B rows, T steps, G preactivations, S state size, D channels, N sequences.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from manzano.llm.pararnn.cells import Cell
from manzano.llm.pararnn.jacobian import jacobian_of, step_with_jacobian
from manzano.llm.pararnn.packing import added_at_ends, at_ends, at_starts, previous_states
from manzano.llm.pararnn.report import ONCE, ConvergenceError, Report, SolverOptions

Recurrence = Callable[[Tensor, Tensor, bool], Tensor]
"""recurrence(jacobians (B, T, S, S, D), right (B, T, S, D), reverse) -> x (B, T, S, D), one dtype:
x_t = J_t x_{t-1} + right_t from x_{-1} = 0, or in reverse x_t = J_{t+1}^T x_{t+1} + right_t from
x_T = 0. J_0 is never used."""


def compose(second: Tensor, first: Tensor) -> Tensor:
    """Products (..., S, S, D) of blocks: for each channel, second @ first."""
    product = second[..., :, :1, :] * first[..., :1, :, :]
    for k in range(1, second.shape[-2]):
        product = product.addcmul_(second[..., :, k : k + 1, :], first[..., k : k + 1, :, :])
    return product


def apply(blocks: Tensor, vectors: Tensor, right: Tensor) -> Tensor:
    """blocks @ vectors + right for each channel: (..., S, S, D), (..., S, D) -> (..., S, D)."""
    result = right
    for k in range(blocks.shape[-2]):
        result = torch.addcmul(result, blocks[..., :, k, :], vectors[..., k : k + 1, :])
    return result


def scan(jacobians: Tensor, right: Tensor) -> Tensor:
    """x_t = J_t x_{t-1} + right_t, x_{-1} = 0, by associative reduction: O(T) work, O(log T) depth.

    (J2, r2) after (J1, r1) is (J2 J1, J2 r1 + r2): neighbours are composed in pairs, the half as
    long recurrence of the pairs gives every odd step, one more application every even one.
    """
    steps = right.shape[1]
    if steps == 1:
        return right
    pairs = steps // 2
    odd_jacobians, odd_right = jacobians[:, 1::2], right[:, 1::2]
    x = torch.empty_like(right)
    x[:, 1::2] = scan(
        compose(odd_jacobians, jacobians[:, : 2 * pairs : 2]),
        apply(odd_jacobians, right[:, : 2 * pairs : 2], odd_right),
    )
    x[:, :1] = right[:, :1]
    x[:, 2::2] = apply(jacobians[:, 2::2], x[:, 1 : steps - 1 : 2], right[:, 2::2])
    return x


def parallel_reduction(jacobians: Tensor, right: Tensor, reverse: bool) -> Tensor:
    """The `Recurrence` in pure PyTorch, on any device."""
    if not reverse:
        return scan(jacobians, right)
    # In reversed time, step s = T - 1 - t meets the block of step t + 1.
    transposed = jacobians.roll(-1, dims=1).transpose(2, 3)
    return scan(transposed.flip(1), right.flip(1)).flip(1)


def without_resets(jacobians: Tensor, starts: Tensor | None) -> Tensor:
    """`jacobians` with zeros, in place, at the first step of each sequence: nothing crosses it."""
    if starts is None:
        jacobians[:, 0] = 0
        return jacobians
    return jacobians.index_fill_(1, starts[:-1].long(), 0)


class OnlyOnce(torch.autograd.Function):
    """Gradients as they are, whose own gradient by what they were made `of` is an error.

    torch's `once_differentiable` leaves it out silently where the incoming gradient is a constant.
    """

    @staticmethod
    def forward(ctx, gradients: tuple[Tensor, ...], *of: Tensor):
        return tuple(gradient.view_as(gradient) for gradient in gradients)

    @staticmethod
    def backward(ctx, *gradients: Tensor):
        raise RuntimeError(ONCE)


class Solution(torch.autograd.Function):
    """Gives states that solve the recurrence, and the last of them, gradients (implicit
    function theorem).

    Backward: m_t = g_t + J_{t+1}^T m_{t+1}, then the step's own vector-Jacobian product of m.
    """

    @staticmethod
    def forward(ctx, preactivations, parameters, state, states, cell, starts, recurrence):
        ctx.save_for_backward(preactivations, parameters, state, states, starts)
        ctx.cell, ctx.recurrence = cell, recurrence
        # Half types round here; otherwise a view, for autograd to attach the gradient to.
        return states.to(preactivations.dtype).view_as(states), at_ends(states, starts)

    @staticmethod
    def backward(ctx, *gradients: Tensor):
        preactivations, parameters, state, states, starts = ctx.saved_tensors
        dtype = state.dtype
        with torch.enable_grad():
            before = previous_states(states, state, starts).requires_grad_()
            inputs = preactivations.to(dtype, copy=True).requires_grad_()
            weights = parameters.detach().requires_grad_()
            after = ctx.cell.step(before, inputs, weights)
            jacobians = without_resets(jacobian_of(after, before), starts)
            right = added_at_ends(gradients[0].to(dtype), gradients[1], starts)
            multipliers = ctx.recurrence(jacobians, right, True)
            d_inputs, d_weights, d_before = torch.autograd.grad(
                after, (inputs, weights, before), multipliers, materialize_grads=True
            )
        result = d_inputs.to(preactivations.dtype), d_weights, at_starts(d_before, starts)
        if torch.is_grad_enabled():  # create_graph: somebody may differentiate these
            result = OnlyOnce.apply(result, preactivations, parameters, state, *gradients)
        return (*result, None, None, None, None)


def newton_with(
    name: str,
    recurrence: Recurrence,
    cell: Cell,
    preactivations: Tensor,
    parameters: Tensor,
    state: Tensor,
    starts: Tensor | None,
    options: SolverOptions,
) -> tuple[Tensor, Tensor, Report]:
    """Newton's method with `recurrence` for the linear solves, reported as `name`.

    From h_t = f(0, u_t) it iterates until every residual |f(h_{t-1}, u_t) - h_t| is within the
    tolerance twice in turn: the residual bounds the error of one step, and where memory is long
    the error of the states is many times that, which the correction after the first time removes.
    The residual is read on the host in every iteration. Arguments and results else as
    `report.Solver` says.

    Raises:
        ConvergenceError: where that takes more than `options.max_iterations` iterations, or a
            residual is not finite.
    """
    # Jacobians come from autograd, which takes no tensors of inference mode.
    with torch.inference_mode(False), torch.no_grad():
        given = (preactivations, parameters, state)
        u, a, h = (x.clone() if x.is_inference() else x for x in given)
        states, report = iterate(name, recurrence, cell, u, a, h, starts, options)
    states, final = Solution.apply(  # pyright: ignore
        preactivations, parameters, state, states, cell, starts, recurrence
    )
    return states, final, report


def iterate(
    name: str,
    recurrence: Recurrence,
    cell: Cell,
    preactivations: Tensor,
    parameters: Tensor,
    state: Tensor,
    starts: Tensor | None,
    options: SolverOptions,
) -> tuple[Tensor, Report]:
    """The iterations of `newton_with`: states (B, T, S, D) in the dtype of `state`, and report."""
    dtype = state.dtype
    inputs = preactivations.to(dtype)
    tolerance = options.tolerance or 8 * torch.finfo(dtype).eps
    bound = None
    if cell.state_bound is not None:
        # A start outside the bound widens it: what follows moves towards the bound.
        bound = state.abs().amax(dim=0).clamp(min=cell.state_bound)  # (S, D)
    guess = state.new_zeros(()).expand(*inputs.shape[:2], cell.state_size, inputs.shape[3])
    states = cell.step(guess, inputs, parameters)
    residual, within = state.new_full((), torch.inf), 0
    for iteration in range(options.max_iterations + 1):
        before = previous_states(states, state, starts)
        after, jacobians = step_with_jacobian(cell, before, inputs, parameters)
        right = after - states
        residual = right.abs().max()
        within = within + 1 if solved(float(residual), right, before, states, tolerance) else 0
        if within == 2:
            return states, Report(name, iteration, residual)
        correction = recurrence(without_resets(jacobians, starts), right, False)
        # Products of many blocks may overflow: there, the plain step is the correction.
        states = states + torch.where(correction.isfinite(), correction, right)
        if bound is not None:
            states = states.clamp(-bound, bound)
    raise ConvergenceError(
        f"{name} has not converged: residual {residual:.3g} after {options.max_iterations} "
        f"iterations, tolerance {tolerance:.3g}. Bound the recurrent parameters (0.5 converges in "
        'about 4 iterations), raise max_iterations, or use solver="auto" or "sequential", which '
        "need no convergence; NaN means non-finite input (see check_finite)"
    )


def solved(
    residual: float, right: Tensor, before: Tensor, states: Tensor, tolerance: float
) -> bool:
    """Whether all of `right` (B, T, S, D), at most `residual`, is within the tolerance of its own
    step's states.

    Of its own: a state that is large elsewhere must not excuse what is wrong here. Where no state
    is beyond 1, one number decides.
    """
    if residual <= tolerance:
        return True
    largest = max(float(before.abs().max()), float(states.abs().max()))
    if not residual <= tolerance * largest or residual == torch.inf:
        return False
    size = torch.maximum(before.abs(), states.abs()).amax(2).clamp(min=1)  # (B, T, D)
    return bool((right.abs().amax(2) <= tolerance * size).all())


def newton(
    cell: Cell,
    preactivations: Tensor,
    parameters: Tensor,
    state: Tensor,
    starts: Tensor | None,
    options: SolverOptions,
) -> tuple[Tensor, Tensor, Report]:
    """Newton's method with `parallel_reduction`; see `newton_with`."""
    return newton_with(
        "newton",
        parallel_reduction,
        cell,
        preactivations,
        parameters,
        state,
        starts,
        options,
    )

"""Packed sequences: several in one row of T steps, their borders in cu_seqlens, as in flash-attn.

Letters: T steps, N sequences.
"""

import torch
from torch import Tensor


def check_borders(cu_seqlens: Tensor, num_steps: int, device: torch.device) -> None:
    """Refuse borders that do not cut `num_steps` steps into sequences of at least one step.

    On a CUDA device, and where torch.compile traces, the values are checked by an assertion on the
    device: the host does not wait for them.

    Raises:
        ValueError: for a shape other than (N + 1,), a dtype other than int32 or int64, another
            device, or values that do not increase strictly from 0 to `num_steps`.
    """
    if cu_seqlens.dim() != 1 or len(cu_seqlens) < 1:
        raise ValueError(f"cu_seqlens has shape (sequences + 1,), got {tuple(cu_seqlens.shape)}")
    if cu_seqlens.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"cu_seqlens is int32 or int64, got {cu_seqlens.dtype}")
    if cu_seqlens.device != device:
        raise ValueError(
            f"cu_seqlens is on {cu_seqlens.device} but the input on {device}: move one of them"
        )
    if cu_seqlens.is_meta:
        return
    increasing = (cu_seqlens.diff() > 0).all()
    valid = increasing & (cu_seqlens[0] == 0) & (cu_seqlens[-1] == num_steps)
    message = f"cu_seqlens must increase strictly from 0 to the number of steps, {num_steps}"
    if cu_seqlens.is_cuda or torch.compiler.is_compiling():
        torch._assert_async(valid, message)
    elif not valid:
        raise ValueError(f"{message}; got {cu_seqlens.tolist()}")


def reset_mask(starts: Tensor, num_steps: int) -> Tensor:
    """(T,) bool: True at the first step of each sequence. `starts` is cu_seqlens (N + 1,)."""
    mask = torch.zeros(num_steps, dtype=torch.bool, device=starts.device)
    return mask.index_fill(0, starts[:-1].long(), True)


def sequence_numbers(starts: Tensor, num_steps: int) -> Tensor:
    """(T,) int64: the sequence, 0 to N - 1, of each step. `starts` is cu_seqlens (N + 1,)."""
    return reset_mask(starts, num_steps).cumsum(0) - 1


def previous_states(states: Tensor, state: Tensor, starts: Tensor | None) -> Tensor:
    """The state that each step begins from, (B, T, S, D).

    `states` (B, T, S, D) are those after each step, `state` (N, S, D) those before each sequence.
    """
    if starts is None:
        return torch.cat((state.unsqueeze(1), states[:, :-1]), dim=1)
    shifted = states.roll(1, dims=1)
    return shifted.index_copy(1, starts[:-1].long(), state.unsqueeze(0))


def at_starts(values: Tensor, starts: Tensor | None) -> Tensor:
    """Those of `values` (B, T, S, D) at the first step of each sequence, (N, S, D)."""
    return values[:, 0] if starts is None else values[0, starts[:-1].long()]


def at_ends(values: Tensor, starts: Tensor | None) -> Tensor:
    """Those of `values` (B, T, S, D) at the last step of each sequence, (N, S, D), a copy."""
    return values[:, -1].clone() if starts is None else values[0, starts[1:].long() - 1]


def added_at_ends(values: Tensor, ends: Tensor, starts: Tensor | None) -> Tensor:
    """`values` (B, T, S, D), to which `ends` (N, S, D) are added at each sequence's last step."""
    if starts is None:
        return torch.cat((values[:, :-1], values[:, -1:] + ends.unsqueeze(1)), dim=1)
    return values.index_add(1, starts[1:].long() - 1, ends.unsqueeze(0))

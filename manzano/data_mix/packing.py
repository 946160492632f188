"""Packing: which sequences share a row, so that few of a row's tokens are padding."""

from collections.abc import Sequence


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Greedy first fit, longest first: indices into `lengths`, grouped into rows.

    Every index occurs exactly once and no row is longer than `capacity`. Rows, and the members of a
    row, come in order of arrival, so packing does not sort the training data by length.

    Raises:
        ValueError: A length is not in 1..capacity.
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        length = lengths[index]
        if not 1 <= length <= capacity:
            raise ValueError(
                f"a sequence of {length} tokens cannot be packed into rows of {capacity}"
            )
        fitting = next((row for row, left in enumerate(room) if left >= length), None)
        if fitting is None:
            rows.append([index])
            room.append(capacity - length)
        else:
            rows[fitting].append(index)
            room[fitting] -= length
    return sorted(sorted(row) for row in rows)

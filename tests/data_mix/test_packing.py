import random

import pytest

from manzano.data_mix.packing import pack


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_lost_and_no_row_is_too_long(seed):
    rng = random.Random(seed)
    capacity = rng.randint(8, 200)
    lengths = [rng.randint(1, capacity) for _ in range(rng.randint(0, 100))]
    rows = pack(lengths, capacity)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert all(sum(lengths[index] for index in row) <= capacity for row in rows)


def test_no_two_rows_would_fit_into_one():
    lengths = [random.Random(1).randint(1, 50) for _ in range(200)]
    totals = sorted(sum(lengths[index] for index in row) for row in pack(lengths, 50))
    assert totals[0] + totals[1] > 50


def test_rows_and_their_members_keep_the_order_of_arrival():
    assert pack([3, 9, 7, 1, 6], 10) == [[0, 2], [1, 3], [4]]


@pytest.mark.parametrize("length", [0, 11])
def test_a_length_that_fits_no_row_is_refused(length):
    with pytest.raises(ValueError, match=f"{length} tokens cannot be packed into rows of 10"):
        pack([5, length], 10)

"""The order of more rows than a list of them would fit in memory: a bijection that looks random.

Knows the function alone; that a run uses it is tested in test_streaming.py.
"""

import numpy as np
import pytest
from scipy import stats

from ppl_vae.permutation import KeyedPermutation

LARGE = 10**9


@pytest.mark.parametrize("size", [*range(1, 60), 97, 1000, 1024, 4095, 65_537])
@pytest.mark.parametrize("key", [0, 7])
def test_every_row_comes_once(size, key):
    """Every size up to 59, so that the cycles that lead beyond the rows are walked."""
    rows = KeyedPermutation(size, key)(np.arange(size))
    assert np.array_equal(np.sort(rows), np.arange(size))


def test_a_part_of_it_is_the_same_part_of_the_whole():
    order = KeyedPermutation(10_007, 3)
    whole, places = order(np.arange(10_007)), np.array([10_006, 5, 5, 900])
    assert np.array_equal(order(places), whole[places])


def test_of_a_thousand_million_rows_none_comes_twice_in_a_million_positions():
    rows = KeyedPermutation(LARGE, 1)(np.arange(10**6) * 991)
    assert len(np.unique(rows)) == 10**6 and rows.min() >= 0 and rows.max() < LARGE


@pytest.mark.parametrize("start", [0, LARGE // 2, LARGE - 10**6])
def test_rows_of_neighbouring_positions_are_uniform_and_not_correlated(start):
    """A million positions in a row at fixed keys. Of independent uniform rows a chi-squared test on
    1000 cells fails below p = 1e-4 once in 10^4, and a correlation of n pairs beyond 4 / sqrt(n)
    once in 16000: at another key the test fails with probability 1e-3.
    """
    rows = KeyedPermutation(LARGE, start + 11)(np.arange(start, start + 10**6))
    cells = np.bincount(rows * 1000 // LARGE, minlength=1000)
    assert stats.chisquare(cells).pvalue > 1e-4
    lowest = np.bincount(rows % 1000, minlength=1000)
    assert stats.chisquare(lowest).pvalue > 1e-4
    values = rows - rows.mean()
    for lag in (1, 2, 31_623):  # the last is the width of the square that the rows are laid out in
        correlation = (values[:-lag] * values[lag:]).mean() / values.var()
        assert abs(correlation) < 4 / np.sqrt(len(values) - lag)
    steps = np.diff(rows) % LARGE
    assert stats.chisquare(np.bincount(steps * 1000 // LARGE, minlength=1000)).pvalue > 1e-4


def test_neighbouring_keys_give_orders_that_have_nothing_to_do_with_each_other():
    """Positions of a fixed point: of two random orders of n rows one is expected, and more than 7
    have probability 1e-5.
    """
    size = 100_000
    first, second = (KeyedPermutation(size, key)(np.arange(size)) for key in (20, 21))
    assert (first == second).sum() <= 7 and (first == np.arange(size)).sum() <= 7
    assert abs(np.corrcoef(first, second)[0, 1]) < 4 / np.sqrt(size)


def test_all_orders_of_four_rows_are_equally_frequent():
    """24 orders, over 4800 keys: a chi-squared test of other keys fails below 1e-4 once in 10^4."""
    orders = [tuple(KeyedPermutation(4, key)(np.arange(4))) for key in range(4800)]
    counts = np.unique(orders, axis=0, return_counts=True)[1]
    assert len(counts) == 24 and stats.chisquare(counts).pvalue > 1e-4

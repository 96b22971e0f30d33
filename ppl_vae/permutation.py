"""A random order of more rows than a list of them would fit in memory.

Knows whole numbers; knows nothing of data. A permutation of 0 .. N - 1 is a function with a key:
any part of it is computed by itself, in memory that does not depend on N.
"""

import math

import numpy as np

from ppl_vae import checks

__all__ = ["KeyedPermutation"]

ROUNDS = 8
# the increment and the multipliers of SplitMix64
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
FIRST, SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


class KeyedPermutation:
    """A bijection on 0 .. size - 1: a Feistel network over pairs, walked in cycles.

    A position is a pair (l, r), l < a and r < b with a b >= N. A round adds a keyed hash of one
    half to the other, l <- (l + h(r)) mod a, then r <- (r + h(l)) mod b, which can be undone, so
    that all rounds together are a bijection on the a b pairs. What falls beyond N - 1 is sent
    through again until it does not: the cycle it is on leads back below N, and what remains is a
    bijection on N positions. Since a b - N < a, hardly anything is.

    Args:
        size: N, at least 1.
        key: a whole number that the order is a function of.

    Source: Ciphers with arbitrary finite domains (2002), sections 4 and 5.
    """

    def __init__(self, size: int, key: int) -> None:
        self.size = checks.integer("size", size)
        self._left = np.uint64(math.isqrt(self.size - 1) + 1)
        self._right = np.uint64(-(-self.size // int(self._left)))
        start = np.uint64(checks.integer("key", key, 0) % 2**64)
        with np.errstate(over="ignore"):
            self._keys = _mixed(start + GOLDEN * np.arange(1, ROUNDS + 1, dtype=np.uint64))

    def __len__(self) -> int:
        return self.size

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """The rows at these positions of the order.

        Args:
            positions: (M,), whole numbers from 0 to N - 1.

        Returns:
            (M,), int64, of the same range.
        """
        rows = self._once(np.asarray(positions).astype(np.uint64))
        beyond = np.flatnonzero(rows >= self.size)
        while len(beyond):
            rows[beyond] = self._once(rows[beyond])
            beyond = beyond[rows[beyond] >= self.size]
        return rows.astype(np.int64)

    def _once(self, pairs: np.ndarray) -> np.ndarray:
        left: np.ndarray = pairs // self._right
        right: np.ndarray = pairs % self._right
        for number, key in enumerate(self._keys):
            if number % 2 == 0:
                left = (left + _mixed(right ^ key) % self._left) % self._left
            else:
                right = (right + _mixed(left ^ key) % self._right) % self._right
        return left * self._right + right


def _mixed(values: np.ndarray) -> np.ndarray:
    """SplitMix64's hash of each 64-bit number, in which every bit depends on every bit."""
    values = (values ^ (values >> np.uint64(30))) * FIRST
    values = (values ^ (values >> np.uint64(27))) * SECOND
    return values ^ (values >> np.uint64(31))

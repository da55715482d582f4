"""Oracles of tensorgrad/ops/compare.py."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def bitwise(combined: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Callable[..., np.ndarray]:
    """Bit by bit, the sum of what each pair gives; the highest bit of the 64 counts as negative."""

    def oracle(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        if a.dtype == bool:
            return combined(a.astype(int), b.astype(int)).astype(bool)
        return np.asarray(sum((combined(a >> i & 1, b >> i & 1) << i) for i in range(64)))

    return oracle


ORACLES = {
    "greater": lambda a, b: np.sign(a - b) == 1,
    "greater_equal": lambda a, b: np.sign(a - b) != -1,
    "less": lambda a, b: np.sign(a - b) == -1,
    "less_equal": lambda a, b: np.sign(a - b) != 1,
    "equal": lambda a, b: np.sign(a - b) == 0,
    "not_equal": lambda a, b: np.sign(a - b) != 0,
    "logical_not": lambda x: x == 0,
    "logical_and": lambda a, b: a * b != 0,
    "logical_or": lambda a, b: abs(a) + abs(b) != 0,
    "logical_xor": lambda a, b: (a == 0) != (b == 0),
    "bitwise_and": bitwise(lambda a, b: a * b),
    "bitwise_or": bitwise(lambda a, b: a + b - a * b),
    "bitwise_xor": bitwise(lambda a, b: a + b - 2 * a * b),
    "left_shift": lambda a, b: a * 2**b,
    "right_shift": lambda a, b: np.floor(a / 2.0**b).astype(np.int64),
    "isnan": lambda x: x != x,
    "isfinite": lambda x: np.abs(x) <= np.finfo(np.float64).max,
}

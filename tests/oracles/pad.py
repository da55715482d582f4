"""Oracles of tensorgrad/ops/pad.py: element by element, the mirrored and repeated places by arithmetic."""

from __future__ import annotations

from typing import Any

import numpy as np


def source(i: int, n: int, mode: str) -> int:
    """The place in 0 .. n-1 that place i of an endless line shows."""
    if mode == "edge":
        return min(max(i, 0), n - 1)
    if mode == "wrap":
        return i % n
    if mode == "symmetric":
        return min(i % (2 * n), 2 * n - 1 - i % (2 * n))
    return min(i % (2 * n - 2), 2 * n - 2 - i % (2 * n - 2)) if n > 1 else 0


def places(shape: tuple[int, ...], width: Any, mode: str) -> Any:
    """Each place of what is extended, and the place that is there copied."""
    for at in np.ndindex(*[n + a + b for n, (a, b) in zip(shape, width, strict=True)]):
        yield at, tuple(source(i - a, n, mode) for i, n, (a, _) in zip(at, shape, width, strict=True))


def extend(x: np.ndarray, *, width: Any, mode: str) -> np.ndarray:
    y = np.zeros([n + a + b for n, (a, b) in zip(x.shape, width, strict=True)], x.dtype)
    for at, origin in places(x.shape, width, mode):
        y[at] = x[origin]
    return y


def fold_back(x: np.ndarray, *, shape: tuple[int, ...], width: Any, mode: str) -> np.ndarray:
    y = np.zeros(shape, x.dtype)
    for at, origin in places(shape, width, mode):
        y[origin] += x[at]
    return y


ORACLES = {"extend": extend, "fold_back": fold_back}

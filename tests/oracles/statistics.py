"""Oracles of tensorgrad/ops/statistics.py."""

from __future__ import annotations

from typing import Any

import numpy as np


def logsumexp(x: np.ndarray, axis: Any, keepdims: bool) -> Any:
    with np.errstate(divide="ignore"):
        return np.log(np.exp(x).sum(axis=axis, keepdims=keepdims))  # values up to 2: nothing overflows


def first_of(x: np.ndarray, axis: Any, which: str) -> np.ndarray:
    """By going through the elements in the order of rows, for every place of the other axes."""
    axes = tuple(range(x.ndim)) if axis is None else tuple(a % x.ndim for a in ((axis,) if isinstance(axis, int) else axis))
    best: dict[tuple[int, ...], tuple[int, ...]] = {}
    for at in np.ndindex(x.shape):
        rest = tuple(n for i, n in enumerate(at) if i not in axes)
        if rest not in best or (x[at] > x[best[rest]] if which == "argmax" else x[at] < x[best[rest]]):
            best[rest] = at
    y = np.zeros(x.shape, bool)
    for at in best.values():
        y[at] = True
    return y


def first_so_far(x: np.ndarray, *, axis: int, which: str) -> np.ndarray:
    def of_row(row: np.ndarray) -> np.ndarray:
        return np.array([getattr(np, which)(row[: i + 1]) for i in range(len(row))], int)

    return np.apply_along_axis(of_row, axis, x) if x.size else np.zeros(x.shape, int)


ORACLES = {
    "first_of": first_of,
    "max": np.max,
    "min": np.min,
    "logsumexp": logsumexp,
    "norm": lambda x, axis, keepdims: np.sqrt(np.sum(np.abs(x) ** 2, axis=axis, keepdims=keepdims)),
    "cumsum": np.cumsum,
    "argsort": lambda x, axis: np.argsort(x, axis, stable=True),
    "cumprod": lambda x, axis: np.multiply.accumulate(x, axis),
    "first_so_far": first_so_far,
    "logcumsumexp": lambda x, axis: np.log(np.cumsum(np.exp(x), axis)),
    "argmax": np.argmax,
    "argmin": np.argmin,
    "any": np.any,
    "all": np.all,
}
EMPTY_REFUSED = {
    "first_of": "of an empty sequence",
    "max": "zero-size array to reduction operation maximum which has no identity",
    "min": "zero-size array to reduction operation minimum which has no identity",
    "argmax": "attempt to get argmax of an empty sequence",
    "argmin": "attempt to get argmin of an empty sequence",
}

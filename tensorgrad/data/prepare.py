"""Scaling, splitting, batching."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tensorgrad.backend import Array
from tensorgrad.errors import ShapeError


def min_max(x: Array) -> Array:
    """Every row of x (m, n) scaled to 0 .. 1 by its own smallest and largest value; a constant row becomes 0."""
    low = x.min(axis=1, keepdims=True)
    span = x.max(axis=1, keepdims=True) - low
    return (x - low) / np.where(span == 0, 1, span)


def split(x: Array, y: Array, fraction: float, *, seed: int) -> tuple[Array, Array, Array, Array]:
    """x and y shuffled by `seed` and cut in two: (x of the rest, y of the rest, x of the part, y of the part).

    fraction  how much of the samples goes to the part, rounded up to whole samples
    """
    if len(x) != len(y):
        raise ShapeError(f"split: {len(x)} samples but {len(y)} labels")
    if not 0 < fraction < 1:
        raise ValueError(f"split: fraction must be between 0 and 1, got {fraction}")
    order = np.random.default_rng(seed).permutation(len(x))
    n = int(np.ceil(len(x) * fraction))
    return x[order[n:]], y[order[n:]], x[order[:n]], y[order[:n]]


def batches(x: Array, y: Array, batch_size: int, rng: np.random.Generator | None = None) -> Iterator[tuple[Array, Array]]:
    """One epoch of (x, y) in batches, the last one smaller; shuffled if a generator is given."""
    if len(x) != len(y):
        raise ShapeError(f"batches: {len(x)} samples but {len(y)} labels")
    if batch_size < 1:
        raise ValueError(f"batches: batch_size must be at least 1, got {batch_size}")
    order = rng.permutation(len(x)) if rng is not None else None
    for start in range(0, len(x), batch_size):
        part = slice(start, start + batch_size) if order is None else order[start : start + batch_size]
        yield x[part], y[part]

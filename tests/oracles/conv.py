"""Oracles of tensorgrad/ops/windows.py, element by element."""

from __future__ import annotations

import numpy as np

Sizes = tuple[int, ...]


def places(at: Sizes, i: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes) -> Sizes:
    """Where in x the element i of the window `at` is."""
    grid = zip(at, i, stride, padding, dilation, strict=True)
    return tuple(s * p + d * k - around for p, k, s, around, d in grid)


def windows(x: np.ndarray, *, kernel: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes) -> np.ndarray:
    n, c, *size = x.shape
    last = [size[a] + 2 * padding[a] - dilation[a] * (kernel[a] - 1) for a in range(len(size))]
    count = [len(range(0, stop, s)) for stop, s in zip(last, stride, strict=True)]
    y = np.zeros((c, *kernel, n, *count), x.dtype)
    for i in np.ndindex(kernel):
        for at in np.ndindex(*count):
            place = places(at, i, stride, padding, dilation)
            if all(0 <= k < m for k, m in zip(place, size, strict=True)):
                y[(slice(None), *i, slice(None), *at)] = x[(slice(None), slice(None), *place)].T
    return y


def fold(x: np.ndarray, *, size: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes) -> np.ndarray:
    axes = len(size)
    y = np.zeros((x.shape[axes + 1], x.shape[0], *size), x.dtype)
    for i in np.ndindex(x.shape[1 : axes + 1]):
        for at in np.ndindex(x.shape[axes + 2 :]):
            place = places(at, i, stride, padding, dilation)
            if all(0 <= k < m for k, m in zip(place, size, strict=True)):
                y[(slice(None), slice(None), *place)] += x[(slice(None), *i, slice(None), *at)].T
    return y


ORACLES = {
    "windows": windows,
    "fold": fold,
}

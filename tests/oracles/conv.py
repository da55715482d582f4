"""Oracles of tensorgrad/ops/conv.py, element by element."""

from __future__ import annotations

import numpy as np

Pair = tuple[int, int]


def windows2d(x: np.ndarray, *, kernel: Pair, stride: Pair, padding: Pair) -> np.ndarray:
    wide = np.pad(x, ((0, 0), (0, 0), (padding[0],) * 2, (padding[1],) * 2))
    rows = range(0, wide.shape[2] - kernel[0] + 1, stride[0])
    columns = range(0, wide.shape[3] - kernel[1] + 1, stride[1])
    found = [[wide[:, :, r : r + kernel[0], c : c + kernel[1]] for c in columns] for r in rows]
    return np.array(found).transpose(3, 4, 5, 2, 0, 1)  # p, q, n, c, i, j to c, i, j, n, p, q


def fold2d(x: np.ndarray, *, size: Pair, stride: Pair, padding: Pair) -> np.ndarray:
    y = np.zeros((x.shape[3], x.shape[0], *size))
    for c, i, j, n, p, q in np.ndindex(x.shape):
        k, m = stride[0] * p + i - padding[0], stride[1] * q + j - padding[1]
        if 0 <= k < size[0] and 0 <= m < size[1]:
            y[n, c, k, m] += x[c, i, j, n, p, q]
    return y


ORACLES = {
    "windows2d": windows2d,
    "fold2d": fold2d,
}

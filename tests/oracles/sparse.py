"""Oracles of tensorgrad/ops/sparse.py."""

from __future__ import annotations

from typing import Any

import numpy as np


def product(x: np.ndarray, values: Any, indices: Any, indptr: Any, shape: tuple[int, int], transposed: bool) -> np.ndarray:
    """A or Aᵀ written out, times x."""
    a = np.zeros(shape, np.result_type(x, values))
    for i in range(shape[0]):
        for at in range(indptr[i], indptr[i + 1]):
            a[i, indices[at]] += values[at]
    return (a.T if transposed else a) @ x


ORACLES = {"sparse_matmul": product}

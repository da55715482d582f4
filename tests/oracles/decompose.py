"""Oracles of tensorgrad/ops/decompose.py."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.linalg


def each(name: str, factors: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """Matrix after matrix, by SciPy."""

    def oracle(x: np.ndarray) -> np.ndarray:
        if not x.size:
            m, n = x.shape[-2:]
            rows = {"qr_factors": m + n, "eigh_factors": n + 1, "svd_factors": m + n + 1}[name]
            return np.zeros((*x.shape[:-2], rows, min(m, n)))
        flat = [factors(a) for a in x.reshape((-1, *x.shape[-2:]))]
        shape = factors(np.eye(*x.shape[-2:])).shape
        return np.reshape(flat, (*x.shape[:-2], *shape))

    return oracle


def svd(a: np.ndarray) -> np.ndarray:
    u, s, vt = scipy.linalg.svd(a, full_matrices=False, lapack_driver="gesdd")
    return np.vstack([u, s, vt.T])


ORACLES = {
    "qr_factors": each("qr_factors", lambda a: np.vstack(scipy.linalg.qr(a, mode="economic"))),
    "eigh_factors": each("eigh_factors", lambda a: np.vstack(scipy.linalg.eigh((a + a.T) / 2, driver="evd"))),
    "svd_factors": each("svd_factors", svd),
    "pinv": lambda x: (
        np.swapaxes(x, -1, -2) @ np.linalg.inv(x @ np.swapaxes(x, -1, -2))
        if x.shape[-2] <= x.shape[-1]
        else np.linalg.inv(np.swapaxes(x, -1, -2) @ x) @ np.swapaxes(x, -1, -2)
    ),
}

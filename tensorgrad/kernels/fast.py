"""The fused kernels that are no chains, as loops for Numba. Importing this imports Numba."""

from __future__ import annotations

from math import exp, log
from typing import Any

from numba import njit


@njit(cache=True, nogil=True, error_model="numpy")
def softmax_cross_entropy(z: Any, t: Any, g: Any, samples: Any, loss: Any, dz: Any) -> Any:
    """As reference.softmax_cross_entropy; returns the row of a label that is out of range instead of raising, else -1."""
    rows, classes = z.shape
    factor = g[()] / z.dtype.type(samples)
    total = 0.0
    for i in range(rows):
        label = t[i]
        if label < 0 or label >= classes:
            return i
        top = z[i, 0]
        for k in range(classes):
            if z[i, k] > top or z[i, k] != z[i, k]:
                top = z[i, k]
        mass = z.dtype.type(0)
        for k in range(classes):
            e = exp(z[i, k] - top)
            dz[i, k] = e
            mass += e
        total += log(mass) - (z[i, label] - top)
        share = factor / mass
        for k in range(classes):
            dz[i, k] *= share
        dz[i, label] -= factor
    loss[()] = total / samples
    return -1


@njit(cache=True, nogil=True, error_model="numpy")
def log_softmax(z: Any, y: Any) -> None:
    """y = z - log sum e^z, row by row; a row with a NaN becomes NaN."""
    rows, classes = z.shape
    for i in range(rows):
        top = z[i, 0]
        for k in range(classes):
            if z[i, k] > top or z[i, k] != z[i, k]:
                top = z[i, k]
        mass = z.dtype.type(0)
        for k in range(classes):
            mass += exp(z[i, k] - top)
        shift = log(mass)
        for k in range(classes):
            y[i, k] = (z[i, k] - top) - shift


@njit(cache=True, nogil=True, error_model="numpy")
def cross_entropy_grad(logp: Any, t: Any, factor: Any, dz: Any) -> None:
    """dz = factor (e^logp - one_hot(t)); t has been checked."""
    for i in range(logp.shape[0]):
        for k in range(logp.shape[1]):
            dz[i, k] = exp(logp[i, k]) * factor
        dz[i, t[i]] -= factor

"""The fused kernels that are no chains, as loops for Numba. Importing this imports Numba."""

from __future__ import annotations

import math
from math import exp, log
from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import overload


def exp_of_negative(x: Any) -> Any:
    """e^x for x <= 0, in arithmetic alone, which LLVM makes vectors of; a call of the C library's would stay one by one.

    x = n ln 2 + r with a whole n and |r| <= ln 2 / 2, so e^x = 2^n e^r: the Taylor series of e^r, and n put into the exponent
    (W. J. Cody, W. Waite, Software Manual for the Elementary Functions, 1980; their ln 2 in two parts, so that n times the
    first is exact). Within 1.2 units in the last place; 0 where e^x would be subnormal.
    """
    return np.exp(x)


@overload(exp_of_negative)
def compiled_exp_of_negative(x: Any) -> Any:
    """For the dtype of x."""
    single = x == types.float32
    real: Any = np.float32 if single else np.float64
    bits: Any = np.int32 if single else np.int64
    mantissa, bias, terms = (23, 127, 7) if single else (52, 1023, 13)
    log2e, high = real(1 / math.log(2)), real(0.693359375)  # 355 / 512
    low = real(-2.12194440054690582767e-4)  # ln 2 - high
    lowest = real(np.log(np.finfo(real).tiny))
    to_whole = real(1.5 * 2.0**mantissa)  # added, it leaves a whole number in the last bits, negative ones in two's complement
    series = tuple([real(1 / math.factorial(k)) for k in range(terms, -1, -1)])
    zero = real(0)

    def compute(x: Any) -> Any:
        shifted = real(x * log2e + to_whole)
        n = shifted - to_whole
        r = (x - n * high) - n * low
        e = zero
        for c in series:
            e = e * r + c
        power = bits((real(shifted).view(bits) + bias) << mantissa).view(real)
        return zero if x < lowest else e * power

    return compute


@njit(cache=True, nogil=True, error_model="numpy")
def softmax_cross_entropy(z: Any, t: Any, g: Any, samples: Any, loss: Any, dz: Any) -> Any:
    """As reference.softmax_cross_entropy; returns the row of a label that is out of range instead of raising, else -1."""
    rows, classes = z.shape
    total = 0.0
    for i in range(rows):
        label = t[i]
        if label < 0 or label >= classes:
            return i
        top = z[i, 0]
        for k in range(classes):
            if z[i, k] > top or z[i, k] != z[i, k]:
                top = z[i, k]
        for k in range(classes):
            dz[i, k] = z[i, k] - top
        total -= dz[i, label]
    flat = dz.reshape(-1)
    for j in range(flat.size):
        flat[j] = exp_of_negative(flat[j])
    factor = g[()] / z.dtype.type(samples)
    for i in range(rows):
        mass = z.dtype.type(0)
        for k in range(classes):
            mass += dz[i, k]
        total += log(mass)
        share = factor / mass
        for k in range(classes):
            dz[i, k] *= share
        dz[i, t[i]] -= factor
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
def cross_entropy_grad(logp: Any, t: Any, factor: Any, dz: Any) -> Any:
    """dz = factor (e^logp - one_hot(t)); returns whether every label is a class, else dz is not written."""
    for i in range(len(t)):
        if t[i] < 0 or t[i] >= dz.shape[1]:
            return False
    flat, scores = dz.reshape(-1), logp.reshape(-1)
    for j in range(flat.size):
        flat[j] = exp_of_negative(scores[j]) * factor
    for i in range(len(t)):
        dz[i, t[i]] -= factor
    return True

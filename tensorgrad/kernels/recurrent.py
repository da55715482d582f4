"""Recurrent networks over a whole sequence: a product and one kernel for each step. None where the ops do it in NumPy."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from tensorgrad.core.backend import Array
from tensorgrad.core.memory import new
from tensorgrad.kernels import build
from tensorgrad.kernels.build import Kernel, fast_kernel


@functools.cache
def step_kernel(name: str, dtype: Any, widths: str) -> Kernel | None:
    """The kernel of fast.py of this name; its arguments are (n, size) matrices, or with size "b" a row."""
    sizes = {"h": 1, "3": 3, "4": 4}
    arrays = [np.zeros(1, dtype) if w == "b" else np.zeros((1, sizes[w]), dtype) for w in widths]
    return fast_kernel(name, *arrays)


def step_of(name: str, widths: str, *arrays: Any) -> Kernel | None:
    """The same, if all that a sequence is computed from is of one dtype that it knows, and there is anything to compute."""
    first = arrays[0]
    if type(first) is not np.ndarray or first.dtype.char not in "fd" or not all(a.size for a in arrays):
        return None
    alike = all(type(a) is np.ndarray and a.dtype == first.dtype for a in arrays)
    return step_kernel(name, first.dtype, widths) if alike and build.has_numba() else None


def lstm(z: Array, h0: Array, c0: Array, u: Array) -> Array | None:
    """What ops.lstm gives; shapes as there."""
    step = step_of("lstm_step", "44hhh", z, h0, c0, u)
    if step is None:
        return None
    z = np.ascontiguousarray(z)
    y = new((2, len(z) + 1, *h0.shape), z.dtype)
    y[0, 0], y[1, 0] = h0, c0
    h, c = y
    a = np.empty(z.shape[1:], z.dtype)
    for k, given in enumerate(z):
        np.matmul(h[k], u, out=a)
        step(a, given, c[k], h[k + 1], c[k + 1])
    return y


def lstm_grad(g: Array, y: Array, z: Array, u: Array) -> Array | None:
    """What ops.lstm_grad gives."""
    slopes, step = step_of("lstm_slopes", "44hhhh", z, g, y, u), step_of("lstm_step_grad", "4hhhhhh", z, g, y, u)
    if slopes is None or step is None:
        return None
    gh, gc = np.ascontiguousarray(g)
    h, c = np.ascontiguousarray(y)
    d, size = products(h, u, 4), len(u)
    of_c, forget = new((2, *c[1:].shape), z.dtype)
    slopes(flat(d[:-1]), flat(np.ascontiguousarray(z)), flat(c[:-1]), flat(c[1:]), flat(of_c), flat(forget))
    dh, dc, back = np.zeros_like(h[0]), np.zeros_like(h[0]), u.T.copy()
    for k in reversed(range(len(z))):
        step(d[k], of_c[k], forget[k], gh[k + 1], gc[k + 1], dh, dc)
        np.matmul(d[k], back, out=dh)
    d[-1, :, :size] = dh + gh[0]
    d[-1, :, size : 2 * size] = dc + gc[0]
    d[-1, :, 2 * size :] = 0
    return d


def gru(z: Array, h0: Array, u: Array, b: Array) -> Array | None:
    """What ops.gru gives."""
    step = step_of("gru_step", "33bhh", z, h0, u, b)
    if step is None:
        return None
    z, b = np.ascontiguousarray(z), np.ascontiguousarray(b)
    y = new((len(z) + 1, *h0.shape), z.dtype)
    y[0] = h0
    a = np.empty(z.shape[1:], z.dtype)
    for k, given in enumerate(z):
        np.matmul(y[k], u, out=a)
        step(a, given, b, y[k], y[k + 1])
    return y


def gru_grad(g: Array, y: Array, z: Array, u: Array, b: Array) -> Array | None:
    """What ops.gru_grad gives."""
    slopes, step = step_of("gru_slopes", "43bhh", z, g, y, u, b), step_of("gru_step_grad", "4hhh", z, g, y, u, b)
    if slopes is None or step is None:
        return None
    g, y, z, b = (np.ascontiguousarray(x) for x in (g, y, z, b))
    d, size = products(y, u, 4), len(u)
    keep = new(y[1:].shape, z.dtype)
    slopes(flat(d[:-1]), flat(z), b, flat(y[:-1]), flat(keep))
    dh, back = np.zeros_like(y[0]), u.T.copy()
    through = np.empty_like(dh)
    for k in reversed(range(len(z))):
        step(d[k], keep[k], g[k + 1], dh)
        dh += np.matmul(d[k, :, : 3 * size], back, out=through)
    d[-1, :, :size] = dh + g[0]
    d[-1, :, size:] = 0
    return d


def products(h: Array, u: Array, gates: int) -> Array:
    """h_{k-1} U for all steps, which are known by then, as one product: (t+1, n, gates * size), the last one left open."""
    d = new((*h.shape[:2], gates * len(u)), h.dtype)
    np.matmul(flat(h[:-1]), u, out=flat(d[:-1])[:, : u.shape[1]])
    return d


def flat(x: Array) -> Array:
    """All rows of all steps as a matrix, in the same memory."""
    return x.reshape(-1, x.shape[-1])

"""Recurrent networks over a whole sequence: a product and one kernel per step. None to fall back to the ops in NumPy."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from tensorgrad.core.backend import Array
from tensorgrad.core.memory import new
from tensorgrad.kernels import build, threads
from tensorgrad.kernels.build import Kernel, fast_kernel


@functools.cache
def step_kernel(name: str, dtype: Any, widths: str) -> Kernel | None:
    """The kernel of fast.py with this name; its arguments are (n, size) matrices, or a row for size "b"."""
    sizes = {"h": 1, "3": 3, "4": 4}
    arrays = [np.zeros(1, dtype) if w == "b" else np.zeros((1, sizes[w]), dtype) for w in widths]
    return fast_kernel(name, *arrays)


def step_of(name: str, widths: str, *arrays: Any) -> Kernel | None:
    """The same, if all inputs of a sequence have the same supported dtype and are not empty."""
    first = arrays[0]
    if type(first) is not np.ndarray or first.dtype.char not in "fd" or not all(a.size for a in arrays):
        return None
    have_same_dtype = all(type(a) is np.ndarray and a.dtype == first.dtype for a in arrays)
    return step_kernel(name, first.dtype, widths) if have_same_dtype and build.has_numba() else None


def lstm(z: Array, h0: Array, c0: Array, u: Array) -> Array | None:
    """As ops.lstm, with the same shapes."""
    step = step_of("lstm_step", "44hhh", z, h0, c0, u)
    if step is None:
        return None
    z = np.ascontiguousarray(z)
    y = new((2, len(z) + 1, *h0.shape), z.dtype)
    y[0, 0], y[1, 0] = h0, c0
    h, c = y

    def run_rows(start: int, stop: int) -> None:
        rows = slice(start, stop)
        a = np.empty((stop - start, z.shape[2]), z.dtype)
        for k in range(len(z)):
            np.matmul(h[k, rows], u, out=a)
            step(a, z[k, rows], c[k, rows], h[k + 1, rows], c[k + 1, rows])

    threads.in_shares(run_rows, len(h0), z.size)
    return y


def lstm_grad(g: Array, y: Array, z: Array, u: Array) -> Array | None:
    """As ops.lstm_grad."""
    slopes, step = step_of("lstm_slopes", "44hhhh", z, g, y, u), step_of("lstm_step_grad", "4hhhhhh", z, g, y, u)
    if slopes is None or step is None:
        return None
    gh, gc = np.ascontiguousarray(g)
    h, c = np.ascontiguousarray(y)
    z = np.ascontiguousarray(z)
    d, size = new((*h.shape[:2], 4 * len(u)), h.dtype), len(u)
    of_c, forget = new((2, *c[1:].shape), z.dtype)
    dh, dc, u_transposed = np.zeros_like(h[0]), np.zeros_like(h[0]), u.T.copy()

    def compute_slopes(start: int, stop: int) -> None:
        rows = slice(start, stop)  # of all rows of all steps, whose states are known by now
        np.matmul(flat(h[:-1])[rows], u, out=flat(d[:-1])[rows])
        slopes(*[flat(x)[rows] for x in (d[:-1], z, c[:-1], c[1:], of_c, forget)])

    def run_rows(start: int, stop: int) -> None:
        rows = slice(start, stop)
        for k in reversed(range(len(z))):
            step(d[k, rows], of_c[k, rows], forget[k, rows], gh[k + 1, rows], gc[k + 1, rows], dh[rows], dc[rows])
            np.matmul(d[k, rows], u_transposed, out=dh[rows])

    threads.in_shares(compute_slopes, z.shape[0] * z.shape[1], z.size)
    threads.in_shares(run_rows, len(dh), z.size)
    d[-1, :, :size] = dh + gh[0]
    d[-1, :, size : 2 * size] = dc + gc[0]
    d[-1, :, 2 * size :] = 0
    return d


def gru(z: Array, h0: Array, u: Array, b: Array) -> Array | None:
    """As ops.gru."""
    step = step_of("gru_step", "33bhh", z, h0, u, b)
    if step is None:
        return None
    z, b = np.ascontiguousarray(z), np.ascontiguousarray(b)
    y = new((len(z) + 1, *h0.shape), z.dtype)
    y[0] = h0

    def run_rows(start: int, stop: int) -> None:
        rows = slice(start, stop)
        a = np.empty((stop - start, z.shape[2]), z.dtype)
        for k in range(len(z)):
            np.matmul(y[k, rows], u, out=a)
            step(a, z[k, rows], b, y[k, rows], y[k + 1, rows])

    threads.in_shares(run_rows, len(h0), z.size)
    return y


def gru_grad(g: Array, y: Array, z: Array, u: Array, b: Array) -> Array | None:
    """As ops.gru_grad."""
    slopes, step = step_of("gru_slopes", "43bhh", z, g, y, u, b), step_of("gru_step_grad", "4hhh", z, g, y, u, b)
    if slopes is None or step is None:
        return None
    g, y, z, b = (np.ascontiguousarray(x) for x in (g, y, z, b))
    d, size = new((*y.shape[:2], 4 * len(u)), y.dtype), len(u)
    keep = new(y[1:].shape, z.dtype)
    dh, u_transposed = np.zeros_like(y[0]), u.T.copy()
    product = np.empty_like(dh)

    def compute_slopes(start: int, stop: int) -> None:
        rows = slice(start, stop)  # of all rows of all steps, whose states are known by now
        np.matmul(flat(y[:-1])[rows], u, out=flat(d[:-1])[rows, : 3 * size])
        slopes(flat(d[:-1])[rows], flat(z)[rows], b, flat(y[:-1])[rows], flat(keep)[rows])

    def run_rows(start: int, stop: int) -> None:
        rows = slice(start, stop)
        for k in reversed(range(len(z))):
            step(d[k, rows], keep[k, rows], g[k + 1, rows], dh[rows])
            dh[rows] += np.matmul(d[k, rows, : 3 * size], u_transposed, out=product[rows])

    threads.in_shares(compute_slopes, z.shape[0] * z.shape[1], z.size)
    threads.in_shares(run_rows, len(dh), z.size)
    d[-1, :, :size] = dh + g[0]
    d[-1, :, size:] = 0
    return d


def flat(x: Array) -> Array:
    """All rows of all steps as a matrix, in the same memory."""
    return x.reshape(-1, x.shape[-1])

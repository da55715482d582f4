"""Matrix products in our own threads, for plans that run with single-threaded BLAS.

BLAS threads keep spinning for some milliseconds after a product, on cores that other kernels could use. So a large plan makes
BLAS single-threaded and splits its large products between our threads, like all other kernels.
"""

from __future__ import annotations

import numpy as np

from tensorgrad.core.backend import Array
from tensorgrad.core.signature import Shape
from tensorgrad.kernels import threads, thresholds


def way_to_share(a: Shape, b: Shape, count: int) -> str:
    """How a product of arrays with these shapes is split between threads: along the "stack" of matrices, the "rows" or
    "columns" of the result, or the "terms" of the sums; "" if it is not split."""
    (m, k), n = a[-2:], b[-1]
    if count < 2:
        return ""
    if len(a) > 2 or len(b) > 2:
        return "stack" if len(a) == len(b) and a[0] == b[0] and a[0] > 1 else ""
    return "terms" if k >= 16 * max(m, n) else "rows" if m >= n else "columns"


def matmul(a: Array, b: Array, out: Array) -> None:
    """out = a @ b for two matrices or two equally long stacks; large ones in threads if BLAS is single-threaded.

    Each thread computes a part of the stack, the rows or the columns; for a small result a part of the terms, which rounds
    differently than a single thread.
    """
    if a.ndim < 2 or b.ndim < 2:
        np.matmul(a, b, out)
        return
    (m, k), n = a.shape[-2:], b.shape[-1]
    count = threads.get_num_threads() if 2 * out.size * k >= thresholds.PRODUCT and threads.has_single_blas() else 1
    way = way_to_share(a.shape, b.shape, count)
    if not way:
        np.matmul(a, b, out)
    elif way == "stack":
        threads.in_threads(lambda i, j: np.matmul(a[i:j], b[i:j], out[i:j]), len(a), min(count, len(a)))
    elif way == "terms":
        sums = np.empty((count, m, n), out.dtype)
        threads.in_threads(lambda i, j: add_up(a, b, sums, i, j), count, count)
        np.add.reduce(sums, 0, None, out)
    elif way == "rows":
        threads.in_threads(lambda i, j: np.matmul(a[i:j], b, out[i:j]), m, count)
    else:
        threads.in_threads(lambda i, j: np.matmul(a, b[:, i:j], out[:, i:j]), n, count)


def add_up(a: Array, b: Array, sums: Array, first: int, last: int) -> None:
    """sums[i] = a b over the i-th part of the terms, for i from `first` on."""
    ends = [a.shape[1] * i // len(sums) for i in range(first, last + 1)]
    for i, start, stop in zip(range(first, last), ends, ends[1:], strict=False):
        np.matmul(a[:, start:stop], b[start:stop], sums[i])

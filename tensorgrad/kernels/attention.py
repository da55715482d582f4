"""The softmax of attention and its gradient, in one pass over the scores. None or False to fall back to the ops in NumPy."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from tensorgrad.kernels import build, thresholds
from tensorgrad.kernels.build import Kernel, fast_kernel


@functools.cache
def kernel(name: str, dtype: Any) -> Kernel | None:
    """The kernel of fast.py with this name."""
    z = np.zeros((1, 1), dtype)
    return fast_kernel(name, z, 1, 1, 1) if name == "softmax_of_seen" else fast_kernel(name, z, z.copy())


def kernel_of(name: str, *arrays: Any) -> Kernel | None:
    """The same, if it exists for such arrays and is worthwhile for their size."""
    first = arrays[0]
    is_supported = type(first) is np.ndarray and first.dtype.char in "fd" and first.size >= thresholds.KERNEL
    have_same_form = all(type(a) is np.ndarray and a.dtype == first.dtype and a.shape == first.shape for a in arrays)
    is_usable = is_supported and have_same_form and all(a.flags.c_contiguous for a in arrays)
    return kernel(name, first.dtype) if is_usable and build.has_numba() else None


def softmax_of_seen(z: Any, start: int, causal: bool) -> bool:
    """Overwrite the scores z (..., l, s) of the queries from `start` on with their softmax; if `causal`, that of query i only
    covers keys 0 .. i, and the rest is 0. Returns whether a kernel did it."""
    run = kernel_of("softmax_of_seen", z)
    if run is None:
        return False
    run(z.reshape(-1, z.shape[-1]), int(start), z.shape[-2], int(causal))
    return True


def softmax_grad(p: Any, dp: Any) -> bool:
    """Overwrite dp (..., s) with the gradient of the scores, p (dp - sum of p dp). Returns whether a kernel did it."""
    run = kernel_of("softmax_grad", dp, p)
    if run is None:
        return False
    run(p.reshape(-1, p.shape[-1]), dp.reshape(-1, p.shape[-1]))
    return True

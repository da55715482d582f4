"""Copying windows of images and summing them, in one pass over memory. None to fall back to the ops in NumPy."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from tensorgrad.core.backend import Array
from tensorgrad.core.memory import new
from tensorgrad.core.signature import Shape
from tensorgrad.kernels import build, threads, thresholds
from tensorgrad.kernels.build import Kernel, fast_kernel


@functools.cache
def kernel(name: str, dtype: Any) -> Kernel | None:
    """The kernel of fast.py with this name; None to fall back to NumPy."""
    image, pieces, numbers = np.zeros((1,) * 4, dtype), np.zeros((1,) * 6, dtype), ((1, 1), (0, 0), (1, 1), 0, 1)
    return fast_kernel(name, *((image, pieces) if name == "windows" else (pieces, image)), *numbers)


def kernel_of(name: str, x: Array, size: int, axes: int) -> Kernel | None:
    """The same, if it exists for this number of axes and is worthwhile for this size."""
    is_supported = type(x) is np.ndarray and x.dtype.char in "fd" and axes in (1, 2) and size >= thresholds.KERNEL
    return kernel(name, x.dtype) if is_supported and build.has_numba() else None


def windows(x: Array, shape: Shape, stride: Shape, padding: Shape, dilation: Shape) -> Array | None:
    """As ops.windows, with the result's shape, (c, *kernel, n, *places)."""
    run = kernel_of("windows", x, math.prod(shape), len(stride))
    if run is None:
        return None
    y = new(shape, x.dtype)
    image, pieces, numbers = as_image(np.ascontiguousarray(x)), as_pieces(y), as_two_axes(stride, padding, dilation)
    threads.in_shares(lambda start, stop: run(image, pieces, *numbers, start, stop), len(image), y.size)
    return y


def fold(x: Array, size: Shape, stride: Shape, padding: Shape, dilation: Shape) -> Array | None:
    """As ops.fold, with the size of the last axes."""
    axes = len(size)
    run = kernel_of("fold", x, x.size, axes)
    if run is None:
        return None
    y = np.zeros((x.shape[axes + 1], x.shape[0], *size), x.dtype)
    pieces, image, numbers = as_pieces(np.ascontiguousarray(x)), as_image(y), as_two_axes(stride, padding, dilation)
    threads.in_shares(lambda start, stop: run(pieces, image, *numbers, start, stop), len(image), x.size)
    return y


def as_image(x: Array) -> Array:
    """(n, c, l) as (n, c, 1, l); (n, c, h, w) unchanged."""
    return x if x.ndim == 4 else x[:, :, None]


def as_pieces(x: Array) -> Array:
    """(c, i, n, p) as (c, 1, i, n, 1, p); unchanged for two axes."""
    return x if x.ndim == 6 else x[:, None, :, :, None]


def as_two_axes(stride: Shape, padding: Shape, dilation: Shape) -> tuple[Shape, Shape, Shape]:
    """The settings of one axis as those of two, the first with one element."""
    if len(stride) == 2:
        return stride, padding, dilation
    return (1, *stride), (0, *padding), (1, *dilation)

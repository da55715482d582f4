"""Pooling over the last one, two or three axes of (n,c,...)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce
from operator import mul
from typing import Any

import numpy as np

from tensorgrad.core.arguments import check_memory, truth
from tensorgrad.core.backend import Array, is_floating, namespace
from tensorgrad.core.operand import Operand, T
from tensorgrad.core.signature import Shape
from tensorgrad.core.state import one_box
from tensorgrad.core.tensor import raw
from tensorgrad.errors import ArgumentError, ShapeError
from tensorgrad.ops import statistics
from tensorgrad.ops.conv import AXES
from tensorgrad.ops.elementwise import as_narrow, as_wide, where
from tensorgrad.ops.index import getitem
from tensorgrad.ops.linalg import as_operand, scoped
from tensorgrad.ops.pad import pad
from tensorgrad.ops.rearrange import take
from tensorgrad.ops.reduce import mean
from tensorgrad.ops.shape import reshape, swapaxes, transpose
from tensorgrad.ops.windows import positions, several, windows

__all__ = [
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d",
    "adaptive_max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d", "max_pool1d", "max_pool2d", "max_pool3d",
]  # fmt: skip


@one_box
def max_pool1d(
    x: Operand[T],
    kernel_size: int | Shape,
    stride: int | Shape | None = None,
    padding: int | Shape = 0,
    dilation: int | Shape = 1,
    ceil_mode: bool = False,
) -> T | Array:
    """`max_pool2d` with one axis: x (n,c,l)."""
    return largest("max_pool1d", 1, x, kernel_size, stride, padding, dilation, ceil_mode)


@one_box
def max_pool2d(
    x: Operand[T],
    kernel_size: int | Shape,
    stride: int | Shape | None = None,
    padding: int | Shape = 0,
    dilation: int | Shape = 1,
    ceil_mode: bool = False,
) -> T | Array:
    """The largest element of every window of `kernel_size`, with a `stride` of `kernel_size` by default; x (n,c,h,w).

    backward    gx = g where x is first in a window

    padding     elements of -inf around x: at most half of a window
    dilation    distance between the elements of a window
    ceil_mode   True for incomplete windows at the right and bottom; by default remaining elements are in no window

    Of equal elements the first in the window, in row-major order, gets the gradient; padding never does, not even if all are
    -inf. Raises ShapeError for a window that does not fit into x.
    """
    return largest("max_pool2d", 2, x, kernel_size, stride, padding, dilation, ceil_mode)


@one_box
def max_pool3d(
    x: Operand[T],
    kernel_size: int | Shape,
    stride: int | Shape | None = None,
    padding: int | Shape = 0,
    dilation: int | Shape = 1,
    ceil_mode: bool = False,
) -> T | Array:
    """`max_pool2d` with one more axis: x (n,c,d,h,w)."""
    return largest("max_pool3d", 3, x, kernel_size, stride, padding, dilation, ceil_mode)


@one_box
def avg_pool1d(
    x: Operand[T],
    kernel_size: int | Shape,
    stride: int | Shape | None = None,
    padding: int | Shape = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> T | Array:
    """`avg_pool2d` with one axis: x (n,c,l)."""
    return averaged("avg_pool1d", 1, x, kernel_size, stride, padding, ceil_mode, count_include_pad)


@one_box
def avg_pool2d(
    x: Operand[T],
    kernel_size: int | Shape,
    stride: int | Shape | None = None,
    padding: int | Shape = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> T | Array:
    """The mean of every window of `kernel_size`, with a `stride` of `kernel_size` by default; x (n,c,h,w).

    padding     zeros around x: at most half of a window
    ceil_mode   True for incomplete windows at the right and bottom, whose mean is over x and its padding; by default remaining
                elements are in no window
    count_include_pad   False for means over elements of x only

    Raises ShapeError for a window that does not fit into x.
    """
    return averaged("avg_pool2d", 2, x, kernel_size, stride, padding, ceil_mode, count_include_pad)


@one_box
def avg_pool3d(
    x: Operand[T],
    kernel_size: int | Shape,
    stride: int | Shape | None = None,
    padding: int | Shape = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> T | Array:
    """`avg_pool2d` with one more axis: x (n,c,d,h,w)."""
    return averaged("avg_pool3d", 3, x, kernel_size, stride, padding, ceil_mode, count_include_pad)


@one_box
def adaptive_avg_pool1d(x: Operand[T], output_size: int | tuple[int | None, ...] | None) -> T | Array:
    """`adaptive_avg_pool2d` with one axis: x (n,c,l)."""
    return adapted("adaptive_avg_pool1d", 1, x, output_size, False)


@one_box
def adaptive_avg_pool2d(x: Operand[T], output_size: int | tuple[int | None, ...] | None) -> T | Array:
    """The means of x (n,c,h,w) over p by q areas that cover it: y (n,c,p,q).

    output_size   p and q, or one number for both; None keeps the size. Area i has rows floor(i h/p) to ceil((i+1) h/p), and
                  columns likewise, so areas overlap if p does not divide h
    """
    return adapted("adaptive_avg_pool2d", 2, x, output_size, False)


@one_box
def adaptive_avg_pool3d(x: Operand[T], output_size: int | tuple[int | None, ...] | None) -> T | Array:
    """`adaptive_avg_pool2d` with one more axis: x (n,c,d,h,w)."""
    return adapted("adaptive_avg_pool3d", 3, x, output_size, False)


@one_box
def adaptive_max_pool1d(x: Operand[T], output_size: int | tuple[int | None, ...] | None) -> T | Array:
    """`adaptive_max_pool2d` with one axis: x (n,c,l)."""
    return adapted("adaptive_max_pool1d", 1, x, output_size, True)


@one_box
def adaptive_max_pool2d(x: Operand[T], output_size: int | tuple[int | None, ...] | None) -> T | Array:
    """The largest elements of x (n,c,h,w) in p by q areas, those of `adaptive_avg_pool2d`: y (n,c,p,q).

    Of equal elements the first of the area, in row-major order, gets the gradient.
    """
    return adapted("adaptive_max_pool2d", 2, x, output_size, True)


@one_box
def adaptive_max_pool3d(x: Operand[T], output_size: int | tuple[int | None, ...] | None) -> T | Array:
    """`adaptive_max_pool2d` with one more axis: x (n,c,d,h,w)."""
    return adapted("adaptive_max_pool3d", 3, x, output_size, True)


def largest(op: str, axes: int, x: Any, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: Any) -> Any:
    x, kernel, stride, padding = operands(op, axes, x, kernel, stride, padding, dilation)
    dilation = several(op, "dilation", dilation, axes, 1)
    extra_elements = (
        extra(op, x.shape[2:], kernel, stride, padding, dilation) if truth(op, "ceil_mode", ceil_mode) else (0,) * axes
    )
    sides = [(p, p + m) for p, m in zip(padding, extra_elements, strict=True)]
    y: Any
    if any(map(any, sides)) and any(n > 1 for n in dilation):
        y, shape = clipped(op, x, kernel, stride, sides, dilation)
    else:  # windows without gaps beyond an edge contain the outermost element
        y, shape = pooled(op, pad(x, ((0, 0), (0, 0), *sides), mode="edge"), kernel, stride, (0,) * axes, dilation)
    return swapaxes(reshape(statistics.max(y, axis=1), shape), 0, 1)


def averaged(op: str, axes: int, x: Any, kernel: Any, stride: Any, padding: Any, ceil_mode: Any, include_pad: Any) -> Any:
    x, kernel, stride, padding = operands(op, axes, x, kernel, stride, padding, 1)
    include_pad, dilation, size = truth(op, "count_include_pad", include_pad), (1,) * axes, x.shape[2:]
    extra_elements = extra(op, size, kernel, stride, padding, dilation) if truth(op, "ceil_mode", ceil_mode) else (0,) * axes
    if any(extra_elements):
        x = pad(x, ((0, 0), (0, 0), *[(0, m) for m in extra_elements]))
    y, shape = pooled(op, x, kernel, stride, padding, dilation)
    y = swapaxes(reshape(mean(y, axis=1), shape), 0, 1)
    counts: list[Any] = []
    for n, k, s, p, count in zip(size, kernel, stride, padding, shape[2:], strict=True):
        first = s * np.arange(count) - p  # first index of the window, in x
        last = np.minimum(first + k, n + p)
        counts.append(last - first if include_pad else np.minimum(last, n) - np.maximum(first, 0))
    if all((n == k).all() for n, k in zip(counts, kernel, strict=True)):
        return y
    shares = reduce(mul, np.ix_(*[k / n for n, k in zip(counts, kernel, strict=True)]))
    return y * namespace([raw(y)]).asarray(shares, y.dtype)


def adapted(op: str, axes: int, x: Any, output_size: Any, is_max: bool) -> Any:
    x = image(op, axes, x)
    sizes = output_size if isinstance(output_size, (tuple, list)) else (output_size,) * axes
    filled_sizes = [n if m is None else m for n, m in zip(x.shape[2:], sizes, strict=False)]
    result = several(op, "output_size", filled_sizes if len(sizes) == axes else output_size, axes, 1)
    if not all(x.shape[2:]):
        raise ShapeError(f"{scoped(op)}: input has shape {x.shape}, which is empty")
    if all(n % m == 0 for n, m in zip(x.shape[2:], result, strict=True)):
        kernel = tuple([n // m for n, m in zip(x.shape[2:], result, strict=True)])
        y, shape = pooled(op, x, kernel, kernel, (0,) * axes, (1,) * axes)
        return swapaxes(reshape(statistics.max(y, axis=1) if is_max else mean(y, axis=1), shape), 0, 1)
    original, x = x, x if is_max else as_wide(x)
    for axis in range(axes + 1, 1, -1):  # last axis first, so that the first of equal elements is in row-major order
        n, m = x.shape[axis], result[axis - 2]
        check_memory(op, (*x.shape[:axis], m, n // m + 2, *x.shape[axis + 1 :]), max(x.dtype.itemsize, 8))
        first, last = np.arange(m) * n // m, -(np.arange(1, m + 1) * -n // m)
        at = first[:, None] + np.arange((last - first).max())
        inside = at < last[:, None]
        part = getitem(x, (slice(None),) * axis + (np.minimum(at, last[:, None] - 1),))
        if is_max:  # short areas are padded by repeating their last element
            x = statistics.max(part, axis=axis + 1)
        else:
            trailing = (1,) * (x.ndim - axis - 1)
            xp = namespace([raw(x)])
            part = where(xp.asarray(inside.reshape(*at.shape, *trailing)), part, 0).sum(axis + 1)
            x = part * xp.asarray((1 / inside.sum(1)).reshape(m, *trailing), x.dtype)
    return x if is_max else as_narrow(x, original)


def operands(
    op: str, axes: int, x: Any, kernel: Any, stride: Any, padding: Any, dilation: Any
) -> tuple[Any, Shape, Shape, Shape]:
    """Check the arguments of a pool: x, and window, stride and padding as one number for each axis."""
    x = image(op, axes, x)
    kernel = several(op, "kernel_size", kernel, axes, 1)
    stride = kernel if stride is None else several(op, "stride", stride, axes, 1)
    padding = several(op, "padding", padding, axes, 0)
    dilations = several(op, "dilation", dilation, axes, 1)
    if any(2 * p > d * (k - 1) + 1 for p, k, d in zip(padding, kernel, dilations, strict=True)):
        raise ArgumentError(f"{scoped(op)}: padding must be at most half of a window {kernel}, got {padding}")
    return x, kernel, stride, padding


def image(op: str, axes: int, x: Any) -> Any:
    """x, which must have so many axes besides samples and channels."""
    x = as_operand(op, x)
    if x.ndim != axes + 2:
        raise ShapeError(f"{scoped(op)}: input has shape {x.shape}, expected (n,c,{AXES[axes]})")
    return x


def extra(op: str, size: Shape, kernel: Shape, stride: Shape, padding: Shape, dilation: Shape) -> Shape:
    """The additional elements along each axis for incomplete windows, which must start in x or its leading padding."""
    result = []
    for n, k, s, p, d in zip(size, kernel, stride, padding, dilation, strict=True):
        span = d * (k - 1) + 1
        count = -((n + 2 * p - span) // -s) + 1
        count -= (count - 1) * s >= n + p
        result.append(max((count - 1) * s + span - n - 2 * p, 0))
    return tuple(result)


def pooled(op: str, x: Any, kernel: Shape, stride: Shape, padding: Shape, dilation: Shape) -> tuple[Any, Shape]:
    """The windows of x as (c, elements of a window, all windows), and the shape (c,n,*positions) of the results."""
    shape = (x.shape[1], x.shape[0], *positions(scoped(op), x.shape[2:], kernel, stride, padding, dilation))
    patches = windows(x, kernel, stride, padding, dilation)
    return reshape(patches, (shape[0], math.prod(kernel), math.prod(shape[1:]))), shape


def clipped(
    op: str, x: Any, kernel: Shape, stride: Shape, sides: Sequence[tuple[int, int]], dilation: Shape
) -> tuple[Any, Shape]:
    """`pooled` with elements beyond an edge replaced by the outermost element of the window inside x: maximum and its first
    position stay the same. A window entirely beyond an edge has the lowest number.
    """
    least = -np.inf if is_floating(x.dtype) else np.iinfo(x.dtype).min if x.dtype.kind in "iu" else False
    padded_size = tuple([n + a + b for n, (a, b) in zip(x.shape[2:], sides, strict=True)])
    shape = (x.shape[1], x.shape[0], *positions(scoped(op), padded_size, kernel, stride, (0,) * len(kernel), dilation))
    for axis, (k, s, d, (before, _), count) in enumerate(zip(kernel, stride, dilation, sides, shape[2:], strict=True)):
        n = x.shape[2 + 2 * axis]
        at = s * np.arange(count) - before + d * np.arange(k)[:, None]
        at = np.where(at < 0, at % d, np.where(at < n, at, n - 1 - (n - 1 - at) % d))
        inside = (at >= 0) & (at < n)
        x = take(x, np.clip(at, 0, n - 1), 2 + 2 * axis)  # (n, c, k, positions, remaining axes)
        if not inside.all():
            x = where(namespace([raw(x)]).asarray(inside.reshape(*at.shape, *(1,) * (x.ndim - 4 - 2 * axis))), x, least)
    axes = len(kernel)
    y = transpose(x, (1, *range(2, 2 + 2 * axes, 2), 0, *range(3, 3 + 2 * axes, 2)))
    return reshape(y, (shape[0], math.prod(kernel), math.prod(shape[1:]))), shape

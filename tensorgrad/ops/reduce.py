"""Reductions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tensorgrad.core.arguments import integer_axes, sizes, truth
from tensorgrad.core.backend import Array, Xp
from tensorgrad.core.op import Op, Rules, Sample, Value
from tensorgrad.core.operand import Operand, T
from tensorgrad.core.signature import Axis, Shape
from tensorgrad.core.state import suggesting_keywords
from tensorgrad.kernels import thresholds
from tensorgrad.kernels.reference import column_sum
from tensorgrad.ops.shape import broadcast_to

__all__ = ["mean", "sum", "sum_to"]

_reduce: Any = np.add.reduce  # typed as Any, because NumPy's stubs distinguish True and False


def add_up(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """The sum over axis, by NumPy's reduce (faster than `x.sum`).

    NumPy only sums pairwise along the last axis; over many rows float32 is accumulated in float64.
    """
    if x.ndim == 3 and axis in (1, (1,)) and x.dtype.char in "fd" and x.shape[1] <= thresholds.COLUMN and x.flags.c_contiguous:
        y = np.matmul(np.ones(x.shape[1], x.dtype), x)  # columns of several matrices: NumPy takes 15 times as long
        return y[:, None] if keepdims else y
    if x.dtype.char == "f" and x.ndim > 1 and axis is not None and x.size > thresholds.COLUMN:
        axes = {a % x.ndim for a in ((axis,) if isinstance(axis, int) else axis)}
        if x.ndim - 1 not in axes and math.prod(x.shape[a] for a in axes) > thresholds.COLUMN:
            return _reduce(x, axis=axis, keepdims=keepdims, dtype=np.float64).astype(np.float32)
    return _reduce(x, axis=axis, keepdims=keepdims)


def keepdims_shape(shape: Shape, axis: Axis) -> Shape:
    """`shape` with reduced axes as 1; for a number NumPy accepts the axes 0 and -1, too."""
    if axis is None or not shape:
        return (1,) * len(shape)
    reduced = {a % len(shape) for a in ((axis,) if isinstance(axis, int) else axis)}
    return tuple(1 if i in reduced else n for i, n in enumerate(shape))


def sample_axis(rng: np.random.Generator, ndim: int) -> Axis:
    """None, one axis counted from either end, or several, for an array with `ndim` axes."""
    kind = rng.integers(3)
    if kind == 0 or not ndim:
        return None
    if kind == 1:
        return int(rng.integers(-ndim, ndim))
    return tuple(int(a) for a in rng.permutation(ndim)[: rng.integers(0, ndim + 1)])


def is_matrix(x: Any) -> bool:
    """Whether x is a contiguous matrix with a dtype that BLAS supports."""
    return type(x) is np.ndarray and x.ndim == 2 and x.size > 0 and x.dtype.char in "fd" and x.flags.c_contiguous


class Reduction(Op):
    """An op over `axis` (an int, several, or None for all); with `keepdims` reduced axes stay with size 1."""

    signature = "()->()"

    @suggesting_keywords
    def __call__(self, x: Operand[T], axis: Axis = None, keepdims: bool = False) -> T | Array:
        if axis is not None and type(axis) is not int:
            axis = integer_axes(self.name, axis)
        return self.apply(x, axis=axis, keepdims=keepdims if type(keepdims) is bool else truth(self.name, "keepdims", keepdims))

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        (x,), _ = super().sample(rng, sizes)
        return (x,), {"axis": sample_axis(rng, x.ndim), "keepdims": bool(rng.integers(2))}


class Sum(Reduction):
    """The sum over `axis` (an int, several, or None for all); with `keepdims` reduced axes stay with size 1.

    forward    y  = sum of x over axis
    backward   gx = g repeated over axis
    """

    name, symbol = "sum", "Σ"
    linear = "x"

    def forward(self, xp: Xp, x: Array, *, axis: Axis, keepdims: bool) -> Array:
        if xp is np and axis == 0 and not keepdims and is_matrix(x):
            y = np.empty(x.shape[1], x.dtype)
            column_sum(x, y)
            return y
        x = xp.asarray(x)
        if xp is np and x.dtype.char == "f":
            return add_up(x, axis, keepdims)
        return x.sum(axis=axis, keepdims=keepdims)

    def backward(self, g: Value, y: Value, x: Value, *, axis: Axis, keepdims: bool) -> Rules:
        return (lambda: broadcast_to(g.reshape(keepdims_shape(x.shape, axis)), x.shape),)


class Mean(Reduction):
    """The mean over `axis` (an int, several, or None for all); with `keepdims` reduced axes stay with size 1.

    forward    y  = 1/n sum of x over axis          (n: the number of elements of each mean)
    backward   gx = g / n repeated over axis
    """

    name = "mean"
    linear = "x"

    def forward(self, xp: Xp, x: Array, *, axis: Axis, keepdims: bool) -> Array:
        x = xp.asarray(x)
        if not x.ndim and axis is not None:
            x.mean(axis=axis)  # refuses axis 0 of a number
        if not x.size:  # the mean of no elements is NaN, without a warning
            return x.sum(axis=axis, keepdims=keepdims) * np.nan
        if xp is not np or x.dtype.char not in "fd":
            return x.mean(axis=axis, keepdims=keepdims)
        with np.errstate(over="ignore"):
            total = add_up(x, axis=axis, keepdims=keepdims)
            flat = total.reshape(-1)
            n = x.size // max(flat.size, 1)
            if not flat.dot(flat) < math.inf and not np.isfinite(total).all():  # the sum may overflow where the mean does not
                power = n.bit_length()
                return np.ldexp(add_up(np.ldexp(x, -power), axis=axis, keepdims=keepdims) / n, power)
        return total / n

    def backward(self, g: Value, y: Value, x: Value, *, axis: Axis, keepdims: bool) -> Rules:
        shape = keepdims_shape(x.shape, axis)
        n = max(math.prod(x.shape) // max(math.prod(shape), 1), 1)
        return (lambda: broadcast_to(g.reshape(shape) / n, x.shape),)


class SumTo(Op):
    """x summed to `shape`: the transpose of broadcasting.

    forward    y  = sum of x over the axes that broadcasting `shape` to x.shape adds or widens
    backward   gx = g repeated to x.shape
    """

    name, signature, symbol = "sum_to", "()->()", "Σ"
    linear = "x"

    def __call__(self, x: Operand[T], shape: Sequence[int]) -> T | Array:
        return self.apply(x, shape=sizes(self.name, shape))

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        (x,), _ = super().sample(rng, sizes)
        return (x,), {"shape": tuple(n if rng.random() < 0.5 else 1 for n in x.shape[rng.integers(0, x.ndim + 1) :])}

    def forward(self, xp: Xp, x: Array, *, shape: Shape) -> Array:
        added = x.ndim - len(shape)
        widened = tuple(i + added for i, n in enumerate(shape) if n == 1 and x.shape[i + added] != 1)
        if added < 0 or any(n not in (1, x.shape[i + added]) for i, n in enumerate(shape)):
            raise ValueError(f"shape {shape} does not broadcast to {x.shape}")
        axes = tuple(range(added)) + widened
        y = add_up(x, axes, True) if xp is np and x.dtype.char == "f" else x.sum(axis=axes, keepdims=True)
        return y.reshape(shape)

    def backward(self, g: Value, y: Value, x: Value, *, shape: Shape) -> Rules:
        return (lambda: broadcast_to(g, x.shape),)


sum, mean, sum_to = Sum(), Mean(), SumTo()

"""Sorting and order statistics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tensorgrad.core.arguments import axes_in, axis_in, integer, is_sequence, number, truth
from tensorgrad.core.backend import Array, Xp
from tensorgrad.core.op import Op, Sample
from tensorgrad.core.operand import Operand, T, TopK, shape_of
from tensorgrad.core.signature import Axis
from tensorgrad.core.state import named, one_box, scoped
from tensorgrad.errors import ArgumentError, ShapeError
from tensorgrad.ops.compare import isnan
from tensorgrad.ops.elementwise import as_narrow, as_wide, where
from tensorgrad.ops.index import getitem
from tensorgrad.ops.linalg import as_operand
from tensorgrad.ops.rearrange import flatten, flip, stack, take_along_axis
from tensorgrad.ops.reduce import keepdims_shape
from tensorgrad.ops.shape import reshape, transpose

__all__ = ["argsort", "median", "quantile", "sort", "topk"]


class ArgSort(Op):
    """The indices that sort x along an axis, in ascending order; None for the flattened x. The sort is stable, NaN comes last.
    No gradient.

    forward    y  = i_1, i_2, ... with x[i_1] <= x[i_2] <= ...
    """

    name, signature = "argsort", "()->()"

    @named
    def __call__(self, x: Operand[T], axis: int | None = -1) -> T | Array:
        if axis is None:
            return self.apply(flatten(x), axis=0)
        return self.apply(x, axis=integer(self.name, "axis", axis))

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        shape = tuple(int(n) for n in rng.choice(sizes, rng.integers(1, 4)))
        return (np.round(self.values(rng, shape)),), {"axis": int(rng.integers(-len(shape), len(shape)))}

    def forward(self, xp: Xp, x: Array, *, axis: int) -> Array:
        return xp.argsort(xp.asarray(x), axis=axis, kind="stable")


@one_box
def sort(x: Operand[T], axis: int | None = -1) -> T | Array:
    """x sorted along an axis in ascending order, NaN last; None for the flattened x.

    The gradient is passed to the original position; the sort is stable.
    """
    x = flatten(x) if axis is None else as_operand("sort", x)
    axis = 0 if axis is None else axis_in("sort", axis, x.ndim)
    return take_along_axis(x, argsort(x, axis), axis)


@named
def topk(x: Operand[T], k: int, axis: int = -1, largest: bool = True) -> TopK:
    """The k largest elements along an axis, in descending order, or the k smallest, in ascending order; (values, indices).

    Of equal elements the first comes first. NaN counts as the largest.
    """
    x = as_operand("topk", x)
    axis, k = axis_in("topk", axis, x.ndim), integer("topk", "k", k, 0)
    n = x.shape[axis]
    if k > n:
        raise ShapeError(f"{scoped('topk')}: k is {k}, but axis {axis} of {x.shape} has {n} elements")
    order = argsort(x, axis)
    if truth("topk", "largest", largest):  # reversed, so that of equal elements the first comes last
        order = n - 1 - flip(argsort(flip(x, axis), axis), axis)
    indices = getitem(order, (*[slice(None)] * axis, slice(0, k)))
    return TopK(take_along_axis(x, indices, axis), indices)


@one_box
def quantile(x: Operand[T], q: float | Sequence[float], axis: Axis = None, keepdims: bool = False) -> T | Array:
    """The q-quantile of the elements, q in 0 .. 1, with linear interpolation, as in NumPy.

    q   one number, or several: the results are then along a new first axis

    NaN if an element is NaN. The gradient goes to the two elements around the result.
    """
    several = is_sequence(q)
    shares = [share(p) for p in (list(q) if several else [q])]  # type: ignore[arg-type]
    return quantiles("quantile", x, shares, axis, keepdims, several)


@one_box
def median(x: Operand[T], axis: Axis = None, keepdims: bool = False) -> T | Array:
    """The median: the middle element, or the mean of the two middle ones; NaN if an element is NaN."""
    return quantiles("median", x, [0.5], axis, keepdims, False)


def share(q: Any) -> float:
    fraction = number("quantile", "q", q)
    if not 0 <= fraction <= 1:
        raise ArgumentError(f"{scoped('quantile')}: q must be between 0 and 1, got {fraction}")
    return float(fraction)


def quantiles(op: str, x: Any, shares: Sequence[float], axis: Axis, keepdims: bool, several: bool) -> Any:
    operand = as_operand(op, x)
    keepdims, shape = truth(op, "keepdims", keepdims), shape_of(operand)
    axes = axes_in(op, axis, len(shape))
    kept_axes = [i for i in range(len(shape)) if i not in axes]
    n = math.prod(shape[i] for i in axes)
    if not n:
        raise ShapeError(f"{scoped(op)}: axis {axis} of {shape} is empty")
    rows = reshape(transpose(as_wide(operand), (*kept_axes, *axes)), (*[shape[i] for i in kept_axes], n))
    rows = sort(rows, -1)
    last = getitem(rows, (..., n - 1))  # NaN if any element is

    def at(p: float) -> Any:
        position = p * (n - 1)
        low = int(position)
        below = getitem(rows, (..., low))
        if position == low:
            y = below
        else:
            above, part = getitem(rows, (..., low + 1)), position - low
            y = below + (above - below) * part if part < 0.5 else above - (above - below) * (1 - part)
            y = where(below == above, below, y)  # also for two infinities
        y = where(isnan(last), last, y)
        return as_narrow(reshape(y, keepdims_shape(shape, axes) if keepdims else tuple(shape[i] for i in kept_axes)), operand)

    results = [at(p) for p in shares]
    return stack(results) if several else results[0]


argsort = ArgSort()

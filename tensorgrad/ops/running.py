"""Cumulative operations along an axis: products, extremes and logarithms of sums; differences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tensorgrad.core.arguments import axis_in, integer
from tensorgrad.core.backend import Array, Xp
from tensorgrad.core.op import Op, Rules, Sample, Tangents, Value
from tensorgrad.core.operand import Operand, T
from tensorgrad.core.state import named, one_box, scoped
from tensorgrad.errors import ShapeError
from tensorgrad.ops.assign import zeros_matching
from tensorgrad.ops.compare import equal, not_equal
from tensorgrad.ops.elementwise import mul_grad, where
from tensorgrad.ops.exponential import exp
from tensorgrad.ops.index import getitem
from tensorgrad.ops.linalg import as_operand
from tensorgrad.ops.rearrange import concatenate, flatten, flip, take_along_axis

__all__ = ["cummax", "cummin", "cumprod", "diff", "logcumsumexp"]


class CumProd(Op):
    """Cumulative products along an axis; None for the flattened x. The gradient uses no division, so it is right at zeros too.

    forward    y_i = x_1 x_2 ... x_i
    backward   gx_i = y_{i-1} s_i,   s_i = g_i + x_{i+1} s_{i+1}
    tangent    ty_i = y_{i-1} tx_i + x_i ty_{i-1}
    """

    name, signature, reads = "cumprod", "()->()", "y x"

    @named
    def __call__(self, x: Operand[T], axis: int | None = None) -> T | Array:
        return self.apply(flatten(x), axis=0) if axis is None else self.apply(x, axis=integer(self.name, "axis", axis))

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        shape = tuple(int(n) for n in rng.choice(sizes, rng.integers(1, 4)))
        x = self.values(rng, shape)
        return (np.where(rng.random(shape) < 0.1, 0.0, x),), {"axis": int(rng.integers(-len(shape), len(shape)))}

    def forward(self, xp: Xp, x: Array, *, axis: int) -> Array:
        return xp.cumprod(x, axis=axis)

    def backward(self, g: Value, y: Value, x: Value, *, axis: int) -> Rules:
        def gx() -> Value:
            after = shifted(flip(x, axis), axis, 0)  # reversed x, shifted: x_{i+1} at position i
            return mul_grad(flip(recurrence(after, flip(g, axis), axis), axis), shifted(y, axis, 1))

        return (gx,)

    def jvp(self, y: Value, x: Value, *, axis: int) -> Tangents:
        return (lambda t: recurrence(x, mul_grad(t, shifted(y, axis, 1)), axis),)


class LogCumSumExp(Op):
    """log of the cumulative sums of e^x along an axis; None for the flattened x. Does not overflow.

    forward    y_i = log(e^x_1 + ... + e^x_i)
    backward   gx_i = e^(x_i - y_i) s_i,   s_i = g_i + e^(y_i - y_{i+1}) s_{i+1}
    tangent    ty_i = e^(x_i - y_i) tx_i + e^(y_{i-1} - y_i) ty_{i-1}

    The exponentials are at most 1: of equal infinities 1, but 0 of -inf less -inf.
    """

    name, signature, reads = "logcumsumexp", "()->()", "y x"
    real = True

    @named
    def __call__(self, x: Operand[T], axis: int | None = None) -> T | Array:
        return self.apply(flatten(x), axis=0) if axis is None else self.apply(x, axis=integer(self.name, "axis", axis))

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        shape = tuple(int(n) for n in rng.choice(sizes, rng.integers(1, 4)))
        return (self.values(rng, shape),), {"axis": int(rng.integers(-len(shape), len(shape)))}

    def forward(self, xp: Xp, x: Array, *, axis: int) -> Array:
        axis_in(self.name, axis, x.ndim)
        if xp is np:
            return np.logaddexp.accumulate(x, axis)
        y, d = xp.moveaxis(x, axis, 0).copy(), 1
        while d < len(y):
            y[d:] = xp.logaddexp(y[d:], y[:-d].copy())
            d *= 2
        return xp.moveaxis(y, 0, axis)

    def backward(self, g: Value, y: Value, x: Value, *, axis: int) -> Rules:
        def gx() -> Value:
            reversed_y = flip(y, axis)
            # reversed e^(y_i - y_{i+1}); the first value is not used
            steps = exp_difference(reversed_y, shifted(reversed_y, axis))
            return mul_grad(flip(recurrence(steps, flip(g, axis), axis), axis), exp_difference(x, y))

        return (gx,)

    def jvp(self, y: Value, x: Value, *, axis: int) -> Tangents:
        return (lambda t: recurrence(exp_difference(shifted(y, axis), y), mul_grad(t, exp_difference(x, y)), axis),)


class FirstSoFar(Op):
    """The index of the first largest (which="argmax") or smallest ("argmin") element up to each position along an axis. NaN
    counts as both. No gradient.

    forward    y_i = the first j with x_j = max(x_1, ..., x_i), or min
    """

    name, signature, public = "first_so_far", "()->()", "cummax"

    def __call__(self, x: Operand[T], axis: int = 0, which: str = "argmax") -> T | Array:
        return self.apply(x, axis=axis, which=which)

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        shape = tuple(int(n) for n in rng.choice(sizes, rng.integers(1, 4)))
        x = np.round(self.values(rng, shape))
        return (x,), {"axis": int(rng.integers(-len(shape), len(shape))), "which": ("argmax", "argmin")[rng.integers(2)]}

    def forward(self, xp: Xp, x: Array, *, axis: int, which: str) -> Array:
        x = xp.moveaxis(x, axis_in(self.public, axis, x.ndim), 0)
        best, place = x.copy(), xp.empty(x.shape, np.intp)
        place[...] = xp.arange(len(x)).reshape((-1, *(1,) * (x.ndim - 1)))
        extreme, d = (xp.maximum if which == "argmax" else xp.minimum), 1
        while d < len(x):  # combine results over d elements with those of the neighbour to 2 d
            before, where_before = best[:-d].copy(), place[:-d].copy()
            combined = extreme(best[d:], before)
            is_before = (combined == before) | ((before != before) & (combined != combined))
            place[d:] = xp.where(is_before, where_before, place[d:])
            best[d:] = combined
            d *= 2
        return xp.moveaxis(place, 0, axis)


@one_box
def cummax(x: Operand[T], axis: int | None = None) -> T | Array:
    """The cumulative maximum along an axis; None for the flattened x. NaN propagates.

    Of equal elements the first gets the gradient.
    """
    return so_far("cummax", x, axis, "argmax")


@one_box
def cummin(x: Operand[T], axis: int | None = None) -> T | Array:
    """The cumulative minimum along an axis; None for the flattened x. NaN propagates.

    Of equal elements the first gets the gradient.
    """
    return so_far("cummin", x, axis, "argmin")


def so_far(op: str, x: Any, axis: int | None, which: str) -> Any:
    x = flatten(x) if axis is None else as_operand(op, x)
    axis = 0 if axis is None else axis_in(op, axis, x.ndim)
    return take_along_axis(x, first_so_far(x, axis, which), axis)


def exp_difference(x: Value, y: Value) -> Value:
    """e^(x - y), at most 1; 1 for equal infinities, except 0 for -inf and -inf."""
    is_equal = equal(x, y)
    return where(equal(y, -np.inf), 0.0, exp(where(is_equal, 0.0, x) - where(is_equal, 0.0, y)))


def shifted(x: Value, axis: int, first: float | None = None) -> Value:
    """x shifted by one position along an axis; the vacant first position gets `first`, or the first element."""
    before = (slice(None),) * (axis % x.ndim)
    if not x.shape[axis]:
        return x
    head = getitem(x, (*before, slice(0, 1)))
    head = head if first is None else zeros_matching(head, head.shape) + first
    return concatenate([head, getitem(x, (*before, slice(0, -1)))], axis=axis)


def recurrence(a: Value, b: Value, axis: int) -> Value:
    """s_i = b_i + a_i s_{i-1} along an axis, s_0 being 0, in log2 n steps (a parallel scan)."""
    before, d = (slice(None),) * (axis % a.ndim), 1
    while d < a.shape[axis]:
        ahead, behind = (*before, slice(d, None)), (*before, slice(0, -d))
        first = (*before, slice(0, d))
        later = getitem(a, ahead)
        b = concatenate([getitem(b, first), getitem(b, ahead) + mul_grad(getitem(b, behind), later)], axis=axis)
        a = concatenate([getitem(a, first), later * getitem(a, behind)], axis=axis)
        d *= 2
    return b


@named
def diff(x: Operand[T], n: int = 1, axis: int = -1) -> T | Array:
    """The n-th difference x_{i+1} - x_i along an axis; for booleans whether they differ."""
    y, n = as_operand("diff", x), integer("diff", "n", n, 0)
    if not y.ndim:
        raise ShapeError(f"{scoped('diff')}: expected at least one axis, got shape {y.shape}")
    axis = axis_in("diff", axis, y.ndim)
    before = (slice(None),) * axis
    for _ in range(min(n, y.shape[axis])):
        later, earlier = getitem(y, (*before, slice(1, None))), getitem(y, (*before, slice(0, -1)))
        y = not_equal(later, earlier) if y.dtype.kind == "b" else later - earlier
    return y


cumprod, logcumsumexp, first_so_far = CumProd(), LogCumSumExp(), FirstSoFar()

"""Further reductions: extremes, products, variances, norms, cumulative sums."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tensorgrad.core.arguments import axes_in, integer, integer_axes, truth
from tensorgrad.core.backend import Array, Xp, asarray, is_array, is_half
from tensorgrad.core.op import Op, Rules, Sample, Tangents, Value
from tensorgrad.core.operand import Operand, T, shape_of
from tensorgrad.core.signature import Axis, Shape
from tensorgrad.core.state import one_box, scoped, suggesting_keywords
from tensorgrad.core.tensor import Tensor, raw
from tensorgrad.errors import ShapeError
from tensorgrad.kernels import thresholds
from tensorgrad.kernels.reference import dot
from tensorgrad.ops.compare import equal
from tensorgrad.ops.elementwise import as_narrow, as_wide, astype, cast, mul_grad, mul_tangent, where
from tensorgrad.ops.exponential import exp
from tensorgrad.ops.index import getitem
from tensorgrad.ops.rearrange import concatenate, flatten, flip
from tensorgrad.ops.reduce import Reduction, add_up, keepdims_shape, mean, sample_axis
from tensorgrad.ops.reduce import sum as sum_of
from tensorgrad.ops.shape import broadcast_to, reshape, transpose

__all__ = [
    "all", "amax", "amin", "any", "argmax", "argmin", "average", "cumsum", "logsumexp", "max", "min", "norm", "prod", "ptp",
    "std", "var",
]  # fmt: skip


class Max(Reduction):
    """The maximum over `axis`. Of equal elements the first, in row-major order, gets the whole gradient.

    forward    y  = max of x over axis
    backward   gx = g at the first x that is y, 0 elsewhere
    tangent    ty = tx at the first x that is y
    """

    name, reads = "max", "x"

    def forward(self, xp: Xp, x: Array, *, axis: Axis, keepdims: bool) -> Array:
        return xp.asarray(x).max(axis=axis, keepdims=keepdims)

    def backward(self, g: Value, y: Value, x: Value, *, axis: Axis, keepdims: bool) -> Rules:
        return (lambda: where(first_of(x, axis=axis, which="argmax"), reshape(g, keepdims_shape(x.shape, axis)), 0.0),)

    def jvp(self, y: Value, x: Value, *, axis: Axis, keepdims: bool) -> Tangents:
        return (lambda t: sum_of(where(first_of(x, axis=axis, which="argmax"), t, 0.0), axis, keepdims),)


class Min(Reduction):
    """The minimum over `axis`. Of equal elements the first, in row-major order, gets the whole gradient.

    forward    y  = min of x over axis
    backward   gx = g at the first x that is y, 0 elsewhere
    tangent    ty = tx at the first x that is y
    """

    name, reads = "min", "x"

    def forward(self, xp: Xp, x: Array, *, axis: Axis, keepdims: bool) -> Array:
        return xp.asarray(x).min(axis=axis, keepdims=keepdims)

    def backward(self, g: Value, y: Value, x: Value, *, axis: Axis, keepdims: bool) -> Rules:
        return (lambda: where(first_of(x, axis=axis, which="argmin"), reshape(g, keepdims_shape(x.shape, axis)), 0.0),)

    def jvp(self, y: Value, x: Value, *, axis: Axis, keepdims: bool) -> Tangents:
        return (lambda t: sum_of(where(first_of(x, axis=axis, which="argmin"), t, 0.0), axis, keepdims),)


class FirstOf(Op):
    """A mask of the first largest (which="argmax") or smallest ("argmin") element over axis, in row-major order.

    No gradient.

    forward    y_i = [i is the first with x_i = max x], or min
    """

    name, signature, public = "first_of", "()->()", "max"

    def __call__(self, x: Operand[T], axis: Axis = None, which: str = "argmax") -> T | Array:
        return self.apply(x, axis=axis, which=which)

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        (x,), _ = super().sample(rng, sizes)
        return (x,), {"axis": sample_axis(rng, x.ndim), "which": ("argmax", "argmin")[rng.integers(2)]}

    def forward(self, xp: Xp, x: Array, *, axis: Axis, which: str) -> Array:
        axes = axes_in(self.name, axis, x.ndim) if x.ndim else ()
        if xp is np and len(axes) == 1 and 0 < x.shape[axes[0]] <= math.prod(x.shape[axes[0] + 1 :]) / thresholds.FIRST:
            return first_along(x, axes[0], which)
        order = [*[i for i in range(x.ndim) if i not in axes], *sorted(axes)]
        transposed = x.transpose(order)
        flat = transposed.reshape((*transposed.shape[: x.ndim - len(axes)], math.prod(x.shape[i] for i in axes)))
        mask = xp.arange(flat.shape[-1]) == getattr(flat, which)(axis=-1)[..., None]
        return mask.reshape(transposed.shape).transpose(np.argsort(order))


def first_along(x: Array, axis: int, which: str) -> Array:
    """`first_of` for a short axis with many numbers after it: compares long rows at once."""
    best = (np.max if which == "argmax" else np.min)(x, axis=axis, keepdims=True)
    mask = np.asarray(x == best)
    if (nan := np.not_equal(best, best)).any():
        mask |= np.not_equal(x, x) & nan
    rows = np.moveaxis(mask, axis, 0)
    found_before = rows[0].copy()
    for row in rows[1:]:
        row &= ~found_before
        found_before |= row
    return mask


class LogSumExp(Reduction):
    """log of the sum of e^x, without overflow; -inf if all x are.

    forward    y  = log sum e^x over axis
    backward   gx = g e^(x - y),   g where x and y are +inf, 0 where they are -inf
    tangent    ty = sum of tx e^(x - y) over axis,   1 in place of e^(x - y) where x and y are +inf, 0 where they are -inf
    """

    name, reads = "logsumexp", "x y"
    real = True

    def forward(self, xp: Xp, x: Array, *, axis: Axis, keepdims: bool) -> Array:
        x = xp.asarray(x)
        if not x.size:
            return x.sum(axis=axis, keepdims=keepdims) - math.inf
        top = x.max(axis=axis, keepdims=True)
        top = xp.where(xp.isfinite(top), top, xp.zeros_like(top))
        with np.errstate(divide="ignore"):  # log 0 = -inf is intended
            y = xp.log(xp.exp(x - top).sum(axis=axis, keepdims=True)) + top
        return y if keepdims else y.reshape(x.sum(axis=axis).shape)

    def backward(self, g: Value, y: Value, x: Value, *, axis: Axis, keepdims: bool) -> Rules:
        def gx() -> Value:
            shape = keepdims_shape(x.shape, axis)
            top = reshape(y, shape)
            share = exp(where(equal(x, math.inf), 0.0, x - where(equal(top, -math.inf), 0.0, top)))
            return mul_grad(reshape(g, shape), share)

        return (gx,)

    def jvp(self, y: Value, x: Value, *, axis: Axis, keepdims: bool) -> Tangents:
        def ty(t: Value) -> Value:
            top = reshape(y, keepdims_shape(x.shape, axis))
            is_top = equal(x, top)  # also for infinities, whose difference is NaN
            share = exp(where(is_top, 0.0, x) - where(is_top, 0.0, top))
            return sum_of(mul_tangent(t, where(equal(x, -math.inf), 0.0, share)), axis, keepdims)

        return (ty,)


class Norm(Reduction):
    """The Euclidean norm. At 0 the derivative is taken as 0, and the second one, too, which is infinite around it.  Only order
    2 is supported: the first argument is the axis, as in every reduction here, while PyTorch's norm has p. If squares would
    overflow or underflow x is first divided by a power of two, which does not round.

    forward    y  = sqrt(sum of x² over axis)
    backward   gx = g x / y,   0 where y = 0
    tangent    ty = sum of tx x / y over axis,   0 where y = 0
    """

    name, reads = "norm", "x y"
    real = True

    def forward(self, xp: Xp, x: Array, *, axis: Axis, keepdims: bool) -> Array:
        x = xp.asarray(x)
        if xp is np or not x.size:  # testing values would wait for a GPU
            y = sum_of_squares(xp, x, axis, keepdims)
            if not x.size or all_ordinary(y, x):
                return xp.sqrt(y)
        top = xp.absolute(x).max(axis=axis, keepdims=True)
        power = xp.frexp(xp.where(top < math.inf, top, xp.ones_like(top)))[1]
        y = xp.sqrt(sum_of_squares(xp, xp.ldexp(x, -power), axis, keepdims))
        return xp.ldexp(y, power.reshape(y.shape))

    def backward(self, g: Value, y: Value, x: Value, *, axis: Axis, keepdims: bool) -> Rules:
        def gx() -> Value:
            shape = keepdims_shape(x.shape, axis)
            length = reshape(y, shape)
            # g / y first might overflow or underflow; x / inf is 0 at 0, and so is its derivative
            return mul_grad(reshape(g, shape), x / where(equal(length, 0), math.inf, length))

        return (gx,)

    def jvp(self, y: Value, x: Value, *, axis: Axis, keepdims: bool) -> Tangents:
        def ty(t: Value) -> Value:
            length = reshape(y, keepdims_shape(x.shape, axis))
            return sum_of(mul_tangent(t, x / where(equal(length, 0), math.inf, length)), axis, keepdims)

        return (ty,)


def sum_of_squares(xp: Xp, x: Array, axis: Axis, keepdims: bool) -> Array:
    """The sum of x² over axis, infinite without a warning on overflow."""
    if xp is not np:
        return (x * x).sum(axis=axis, keepdims=keepdims)
    if axis is None and not keepdims and x.dtype.char in LEAST and x.flags.c_contiguous:
        flat, y = x.reshape(-1), np.empty((), x.dtype)
        with np.errstate(over="ignore"):
            dot(flat, flat, y)
        return y
    with np.errstate(over="ignore"):
        if x.ndim and axis in (-1, x.ndim - 1) and x.shape[-1] <= thresholds.DOT:
            return dots(x, x, keepdims=keepdims)
        return add_up(x * x, axis=axis, keepdims=keepdims)


def all_ordinary(y: Array, x: Array) -> bool:
    """Whether no relevant square in the sums y of squares of x has overflowed or become subnormal."""
    if x.dtype.char not in LEAST:
        return False
    least = x.size // (y.size or 1) * LEAST[x.dtype.char]
    if y.ndim == 0:
        return bool(least < y < math.inf)
    flat = y.reshape(-1)
    # one call that detects non-finite elements
    return bool(np.minimum.reduce(flat) > least and flat.dot(flat) < math.inf)


dots: Any = np.vecdot  # NumPy's stubs lack its keepdims
LEAST = {char: float(np.finfo(char).tiny / np.finfo(char).eps) for char in "fd"}  # below, squares lose digits


class CumSum(Op):
    """Cumulative sums along an axis; None for the flattened x.

    forward    y_i = x_1 + ... + x_i
    backward   gx_i = g_i + ... + g_n
    """

    name, signature = "cumsum", "()->()"
    linear = "x"

    @suggesting_keywords
    def __call__(self, x: Operand[T], axis: int | None = None) -> T | Array:
        return self.apply(flatten(x), axis=0) if axis is None else self.apply(x, axis=integer(self.name, "axis", axis))

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        shape = tuple(int(n) for n in rng.choice(sizes, rng.integers(1, 4)))
        return (self.values(rng, shape),), {"axis": int(rng.integers(-len(shape), len(shape)))}

    def forward(self, xp: Xp, x: Array, *, axis: int) -> Array:
        return xp.cumsum(x, axis=axis)

    def backward(self, g: Value, y: Value, x: Value, *, axis: int) -> Rules:
        return (lambda: flip(cumsum(flip(g, axis), axis), axis),)


class ArgMax(Op):
    """The index of the largest element along an axis, the first of equal ones; None for the flattened x. No gradient.

    forward    y  = the first i with x_i = max x
    """

    name, signature = "argmax", "()->()"

    @suggesting_keywords
    def __call__(self, x: Operand[T], axis: int | None = None, keepdims: bool = False) -> T | Array:
        axis = None if axis is None else integer(self.name, "axis", axis)
        return self.apply(x, axis=axis, keepdims=truth(self.name, "keepdims", keepdims))

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        (x,), _ = super().sample(rng, sizes)
        return (x,), {"axis": int(rng.integers(-x.ndim, x.ndim)) if x.ndim else None, "keepdims": False}

    def forward(self, xp: Xp, x: Array, *, axis: int | None, keepdims: bool) -> Array:
        return xp.asarray(x).argmax(axis=axis, keepdims=keepdims)


class ArgMin(ArgMax):
    """The index of the smallest element along an axis, the first of equal ones; None for the flattened x. No gradient.

    forward    y  = the first i with x_i = min x
    """

    name = "argmin"

    def forward(self, xp: Xp, x: Array, *, axis: int | None, keepdims: bool) -> Array:
        return xp.asarray(x).argmin(axis=axis, keepdims=keepdims)


class Any_(Reduction):
    """Whether any element is not 0. No gradient.

    forward    y  = x_1 or x_2 or ...
    """

    name = "any"

    def forward(self, xp: Xp, x: Array, *, axis: Axis, keepdims: bool) -> Array:
        return xp.asarray(x).any(axis=axis, keepdims=keepdims)


class All(Reduction):
    """Whether every element is not 0. No gradient.

    forward    y  = x_1 and x_2 and ...
    """

    name = "all"

    def forward(self, xp: Xp, x: Array, *, axis: Axis, keepdims: bool) -> Array:
        return xp.asarray(x).all(axis=axis, keepdims=keepdims)


@one_box
def prod(x: Operand[T], axis: Axis = None, keepdims: bool = False) -> T | Array:
    """The product over `axis`, computed in pairs, so that its gradient, the product of the others, is right at zeros too."""
    operand: Any = _array(x)
    shape = shape_of(operand)
    axes = axes_in("prod", axis, len(shape)) if shape or axis not in (0, -1) else ()
    widened = operand
    if is_half(operand.dtype):
        widened = as_wide(operand)
    elif operand.dtype.kind in "bui":  # as in NumPy: uint64 or int64
        widened = cast(operand, np.uint64 if operand.dtype.kind == "u" else np.int64)
    order = [*[i for i in range(len(shape)) if i not in axes], *sorted(axes)]
    rest = tuple(n for i, n in enumerate(shape) if i not in axes)
    y = reshape(transpose(widened, tuple(order)), (*rest, math.prod(shape[i] for i in axes)))
    while (n := shape_of(y)[-1]) > 1:
        half = n // 2
        pairs = getitem(y, (..., slice(0, 2 * half, 2))) * getitem(y, (..., slice(1, 2 * half, 2)))  # neighbours
        if n % 2:
            last = getitem(y, (..., slice(n - 1, n)))
            pairs = getitem(pairs, (..., slice(0, 1))) * last if half == 1 else _joined(pairs, last)
        y = pairs
    if not shape_of(y)[-1]:
        y = astype(sum_of(y, -1) + 1, raw(widened).dtype)  # 1 for no elements, independent of x
    return as_narrow(reshape(y, keepdims_shape(shape, axes) if keepdims else rest), operand)


def _joined(pairs: Any, last: Any) -> Any:
    """`pairs` with its first element multiplied by `last`."""
    return concatenate([getitem(pairs, (..., slice(0, 1))) * last, getitem(pairs, (..., slice(1, None)))], axis=-1)


@one_box
def var(x: Operand[T], axis: Axis = None, ddof: int = 0, keepdims: bool = False) -> T | Array:
    """The variance, mean((x - mean(x))²) n / (n - ddof), with n the number of elements of each mean."""
    axis, ddof = integer_axes("var", axis), integer("var", "ddof", ddof)
    operand, x = _wide(x)
    d = x - mean(x, axis, True)
    return as_narrow(mean(d * d, axis, keepdims) * _correction("var", shape_of(x), axis, ddof), operand)


@one_box
def std(x: Operand[T], axis: Axis = None, ddof: int = 0, keepdims: bool = False) -> T | Array:
    """The standard deviation, the square root of `var`. For equal elements it is 0, and its derivative is taken as 0."""
    axis, ddof = integer_axes("std", axis), integer("std", "ddof", ddof)
    operand, x = _wide(x)
    shape = shape_of(x)
    n = math.prod(shape) // (math.prod(keepdims_shape(shape, axis)) or 1) or 1
    y = norm(x - mean(x, axis, True), axis=axis, keepdims=keepdims) * math.sqrt(_correction("std", shape, axis, ddof) / n)
    return as_narrow(y, operand)


@one_box
def average(x: Operand[T], axis: Axis = None, weights: Operand[T] | None = None, *, keepdims: bool = False) -> T | Array:
    """The weighted mean over `axis`: sum(w x) / sum(w).

    weights   of the shape of x, or 1-d, with one number for each position along `axis`, a single axis
    """
    axis = integer_axes("average", axis)
    if weights is None:
        return mean(x, axis, keepdims)
    operand, x = _wide(x)
    w = _array(weights)
    shape, w_shape = shape_of(x), shape_of(w)
    if w_shape != shape:
        at = axes_in("average", axis, len(shape))
        if axis is None or len(at) != 1 or w_shape != (shape[at[0]],):
            raise ShapeError(
                f"{scoped('average')}: weights have shape {w_shape}, expected {shape} or one weight per position along one axis"
            )
        w = reshape(w, tuple(n if i in at else 1 for i, n in enumerate(shape)))
    w = broadcast_to(as_wide(w), shape)
    return as_narrow(sum_of(w * x, axis, keepdims) / sum_of(w, axis, keepdims), operand)


@one_box
def ptp(x: Operand[T], axis: Axis = None, keepdims: bool = False) -> T | Array:
    """Peak to peak: the maximum minus the minimum."""
    return max(x, axis, keepdims) - min(x, axis, keepdims)


def _wide(x: Any) -> tuple[Any, Any]:
    """An operand as an array or a Tensor, in the dtype of statistics: float64 for integers, as NumPy's mean."""
    x = _array(x)
    return x, as_wide(x) if is_half(x.dtype) else x


def _array(x: Any) -> Any:
    """Arrays and Tensors unchanged, anything else as an array."""
    if isinstance(x, Tensor) or is_array(x):
        return x
    array = np.asarray(x)
    return array if array.dtype.kind in "biuf" else asarray(x, where=scoped("array"))


def _correction(op: str, shape: Shape, axis: Axis, ddof: int) -> float:
    n = math.prod(shape) // (math.prod(keepdims_shape(shape, axis)) or 1)
    if n and n <= ddof:
        raise ShapeError(f"{op}: ddof={ddof} needs more than {ddof} elements, axis {axis} of {shape} has {n}")
    return n / (n - ddof) if n else 1.0


first_of = FirstOf()
max, min, logsumexp, norm = Max(), Min(), LogSumExp(), Norm()
cumsum, argmax, argmin, any, all = CumSum(), ArgMax(), ArgMin(), Any_(), All()
amax, amin = max, min

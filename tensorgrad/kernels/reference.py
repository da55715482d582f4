"""The fused kernels in NumPy: the reference for tests, and the fallback."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from tensorgrad.core.backend import Array, check, on_gpu
from tensorgrad.errors import LabelError
from tensorgrad.kernels import thresholds


def where(condition: Array, a: Array, b: Array, out: Array) -> None:
    """out = a where the condition holds, else b; np.where has no `out`."""
    out[...] = np.where(condition, a, b)


def clear(out: Array) -> None:
    """out = 0"""
    out.fill(0)


def relu_grad(g: Array, unit: Array, out: Array) -> None:
    """out = g where unit > 0, exactly 0 elsewhere. All three of one floating dtype and shape; out may be g or unit.

    `where` takes 7 times as long on random masks, a product makes NaN of inf * 0; masking the bits does neither.
    """
    if g.dtype.itemsize > 8:  # no integer is as wide as a long double
        out[...] = np.where(unit > 0, g, 0)
        return
    bits = f"i{g.dtype.itemsize}"
    keep = np.negative((unit > 0).view(np.int8), dtype=bits)  # -1 is all ones
    np.bitwise_and(keep, g.view(bits), out=out.view(bits))


def mul_grad(g: Array, d: Array, out: Array | None = None) -> Array:
    """g d, exactly 0 where g is 0, even where d is not finite; out may be g or d."""
    if is_finite(d):
        return np.multiply(g, d, out=out)
    zero = np.equal(g, 0)
    with np.errstate(invalid="ignore"):  # 0 times infinity is replaced
        return zeroed(zero, np.multiply(g, d, out=out))


def div_grad(g: Array, d: Array, out: Array | None = None) -> Array:
    """g / d, exactly 0 where g is 0, even where d is 0; out may be g or d."""
    zero = np.equal(g, 0) if out is not None and np.may_share_memory(out, g) else None
    with np.errstate(invalid="ignore"):  # 0 / 0 is replaced
        y = np.divide(g, d, out=out)
    if is_finite(y):
        return y
    return zeroed(np.equal(g, 0) if zero is None else zero, y)


def mul_tangent(t: Array, d: Array) -> Array:
    """t d, exactly 0 where one of them is 0, even where the other is not finite."""
    with np.errstate(invalid="ignore"):  # 0 times infinity is replaced
        y = np.multiply(t, d)
    return y if is_finite(y) else zeroed(np.equal(t, 0) | np.equal(d, 0), y)


def zeroed(zero: Array, y: Array) -> Array:
    """y with 0 where `zero` holds; in place if y is an array."""
    if not isinstance(y, np.ndarray):
        return y.dtype.type(0) if zero else y
    np.copyto(y, 0, where=zero)
    return y


def is_finite(x: Array) -> bool:
    """Whether no element is infinite or NaN."""
    if not isinstance(x, np.ndarray):
        return math.isfinite(x)
    if x.size <= thresholds.BLAS and x.dtype.char in "fd" and x.flags.c_contiguous and np.vdot(x, x) < math.inf:
        return True  # by one call of BLAS, which warns of nothing; a sum of squares can also overflow, which says nothing
    return bool(np.logical_and.reduce(np.isfinite(x), axis=None))


def column_sum(x: Array, out: Array | None = None) -> Array:
    """The sum of x over all axes except the last, written to out if given; x (..., n), out (n)."""
    rows = x.reshape(-1, x.shape[-1])
    if len(rows) > thresholds.COLUMN and x.dtype.kind == "f":  # in parts, like `dot`
        parts = range(0, len(rows), thresholds.COLUMN)
        return np.add.reduce([column_sum(rows[i : i + thresholds.COLUMN]) for i in parts], axis=0, out=out)
    if rows.size >= thresholds.ONES_PRODUCT and x.dtype.kind == "f" and x.dtype.itemsize >= 4:
        return np.matmul(np.ones(len(rows), x.dtype), rows, out=out)
    return np.add.reduce(rows, axis=0, out=out)


def dot(a: Array, b: Array, out: Array) -> None:
    """out = sum of a b; a, b (n), out (). In parts that are added in 64 bits: BLAS adds sequentially."""
    if a.size <= thresholds.DOT:
        np.dot(a, b, out=out)
    else:
        parts = range(0, a.size, thresholds.DOT)
        sums = [np.dot(a[i : i + thresholds.DOT], b[i : i + thresholds.DOT]) for i in parts]
        out[()] = np.add.accumulate(sums, dtype=np.float64)[-1]


@functools.cache
def unsigned(dtype: Any) -> Any:
    """The unsigned integers of the size of a dtype of integers."""
    return np.dtype(dtype.str.replace("i", "u"))


def check_range(labels: Array, classes: int, op: str = "softmax_cross_entropy") -> None:
    """Raise LabelError unless every label is a class."""
    if on_gpu(labels):
        check((labels < 0) | (labels >= classes), f"{op}: a label is out of range, expected 0 to {classes - 1}")
        return
    # read as unsigned, a negative index is a huge one: a single pass finds both ends
    if labels.size and np.maximum.reduce(labels.view(unsigned(labels.dtype)), axis=None) >= classes:
        invalid = labels[(labels < 0) | (labels >= classes)].reshape(-1)[0]
        raise LabelError(f"{op}: label {invalid} is out of range, expected 0 to {classes - 1} for {classes} classes")


def check_rows(indices: Array, rows: int) -> None:
    """Raise LabelError unless every index is a non-negative row number."""
    # read as unsigned, a negative index is a huge one: a single pass finds both ends
    if indices.size and np.maximum.reduce(indices.view(unsigned(indices.dtype)), axis=None) >= rows:
        invalid = indices[(indices < 0) | (indices >= rows)].reshape(-1)[0]
        raise LabelError(f"embedding: index {invalid} is out of range, expected 0 to {rows - 1}")


def softmax_cross_entropy(z: Array, t: Array, g: Array, samples: int, loss: Array, dz: Array) -> None:
    """The cross-entropy of softmax(z) and its gradient in one pass: the result of the derivation on paper.

    z (m,k) logits;  t (m) class indices;  g () the gradient of the loss;  loss () and dz (m*k), row-major, are written

    loss = -1/samples sum log softmax(z)[i, t_i],   dz = g (softmax(z) - one_hot(t)) / samples
    """
    check_range(t, z.shape[-1])
    dz, label_index = dz.reshape(z.shape), (np.arange(len(z)), t)
    np.subtract(z, np.maximum.reduce(z, axis=1, keepdims=True), out=dz)
    label_total = dz[label_index].sum()
    np.exp(dz, out=dz)
    mass = np.add.reduce(dz, axis=1, keepdims=True)
    loss[...] = (np.log(mass).sum() - label_total) / samples
    factor = g / z.dtype.type(samples)
    np.multiply(dz, factor / mass, out=dz)
    dz[label_index] -= factor

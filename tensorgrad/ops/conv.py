"""Convolution and pooling over the last two axes of (n,c,h,w): strided windows, and one matrix product."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tensorgrad.core.arguments import is_sequence, is_whole, room_for, whole
from tensorgrad.core.backend import Array, Xp
from tensorgrad.core.op import Op, Rules, Sample, Value
from tensorgrad.core.operand import Operand, T
from tensorgrad.core.signature import Shape
from tensorgrad.core.state import one_box, shown
from tensorgrad.errors import ArgumentError, DTypeError, ShapeError
from tensorgrad.ops import statistics
from tensorgrad.ops.linalg import as_operand, scoped
from tensorgrad.ops.reduce import mean
from tensorgrad.ops.shape import reshape, swapaxes

__all__ = ["avg_pool2d", "conv2d", "fold2d", "max_pool2d", "windows2d"]

Pair = tuple[int, int]


class Windows2d(Op):
    """Every window of kernel[0] by kernel[1] elements, `stride` apart, of x with `padding` zeros around it.

    Axes c, i, j lead and n, p, q come last, so that a convolution is one matrix product and long runs of memory are copied.

    forward    y[c,i,j,n,p,q] = x[n, c, stride p + i - padding, stride q + j - padding], 0 outside of x
    backward   gx             = each element of g added to the one that it was copied from
    """

    name, signature = "windows2d", "(n,c,h,w)->(c,i,j,n,p,q)"
    moves = True

    def __call__(self, x: Operand[T], kernel: Pair, stride: Pair = (1, 1), padding: Pair = (0, 0)) -> T | Array:
        kernel, stride = pair(self.name, "kernel", kernel, 1), pair(self.name, "stride", stride, 1)
        return self.apply(x, kernel=kernel, stride=stride, padding=pair(self.name, "padding", padding, 0))

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        attrs, (h, w) = sample_windows(rng)
        return (self.values(rng, (*(int(n) for n in rng.choice(sizes, 2)), h, w)),), attrs

    def forward(self, xp: Xp, x: Array, *, kernel: Pair, stride: Pair, padding: Pair) -> Array:
        if x.ndim != 4:
            raise ValueError("not four axes")  # the signature says it better
        p, q = positions(self.name, x.shape[2:], kernel, stride, padding)
        room_for(self.name, (x.shape[1], *kernel, x.shape[0], p, q), x.dtype.itemsize)
        if any(padding):
            x = xp.pad(x, ((0, 0), (0, 0), (padding[0],) * 2, (padding[1],) * 2))
        n, c, h, w = x.strides
        shape = (x.shape[1], *kernel, x.shape[0], p, q)
        steps = (c, h, w, n, h * stride[0], w * stride[1])
        return xp.lib.stride_tricks.as_strided(x, shape, steps).copy("C")

    def backward(self, g: Value, y: Value, x: Value, *, kernel: Pair, stride: Pair, padding: Pair) -> Rules:
        return (lambda: fold2d(g, x.shape[2:], stride, padding),)


class Fold2d(Op):
    """Windows put back where `windows2d` took them from, elements that meet being added: its transpose as a linear map.

    forward    y[n,c,k,l] = sum of x[c,i,j,n,p,q] with stride p + i - padding = k, stride q + j - padding = l      y (n,c,*size)
    backward   gx         = the windows of g
    """

    name, signature = "fold2d", "(c,i,j,n,p,q)->(n,c,h,w)"

    def __call__(self, x: Operand[T], size: Pair, stride: Pair = (1, 1), padding: Pair = (0, 0)) -> T | Array:
        size, stride = pair(self.name, "size", size, 0), pair(self.name, "stride", stride, 1)
        return self.apply(x, size=size, stride=stride, padding=pair(self.name, "padding", padding, 0))

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        attrs, size = sample_windows(rng)
        kernel, stride, padding = attrs.values()
        n, c = (int(n) for n in rng.choice(sizes, 2))
        shape = (c, *kernel, n, *positions(self.name, size, kernel, stride, padding))
        return (self.values(rng, shape),), {"size": size, "stride": stride, "padding": padding}

    def forward(self, xp: Xp, x: Array, *, size: Pair, stride: Pair, padding: Pair) -> Array:
        if x.ndim != 6:
            raise ValueError("not six axes")  # the signature says it better
        c, kh, kw, n, p, q = x.shape
        if positions(self.name, size, (kh, kw), stride, padding) != (p, q):
            windows = f"{p} by {q} windows of {kh} by {kw}"
            raise ShapeError(f"fold2d: {windows} are not those of {tuple(size)} with stride {stride}, padding {padding}")
        y = xp.zeros((n, c, size[0] + 2 * padding[0], size[1] + 2 * padding[1]), x.dtype)
        for i in range(kh):
            for j in range(kw):
                at = y[:, :, i : i + stride[0] * (p - 1) + 1 : stride[0], j : j + stride[1] * (q - 1) + 1 : stride[1]]
                at += x[:, i, j].swapaxes(0, 1)
        return y[:, :, padding[0] : padding[0] + size[0], padding[1] : padding[1] + size[1]]

    def backward(self, g: Value, y: Value, x: Value, *, size: Pair, stride: Pair, padding: Pair) -> Rules:
        return (lambda: windows2d(g, x.shape[1:3], stride, padding),)


@one_box
def conv2d(
    x: Operand[T], weight: Operand[T], bias: Operand[T] | None = None, stride: int | Pair = 1, padding: int | Pair = 0
) -> T | Array:
    """y[n,o,p,q] = bias[o] + sum over c, i, j of weight[o,c,i,j] x[n, c, stride p + i - padding, stride q + j - padding]

    What PyTorch calls a convolution: the kernel is not flipped, and x is 0 outside.

    x        (n,c,h,w)
    weight   (o,c,kh,kw); bias (o), or None
    stride, padding   one number, or (for rows, for columns)

    Returns (n,o,p,q) with p = (h + 2 padding - kh) // stride + 1, q likewise. Raises ShapeError for shapes that do not fit.
    """
    x, weight = as_operand("conv2d", x), as_operand("conv2d", weight)
    stride, padding = pair("conv2d", "stride", stride, 1), pair("conv2d", "padding", padding, 0)
    if x.ndim != 4 or weight.ndim != 4 or x.shape[1] != weight.shape[1]:
        given = f"input {x.shape} and weight {weight.shape}"
        raise ShapeError(f"{scoped('conv2d')}: {given} do not fit; expected (n,c,h,w),(o,c,kh,kw)")
    out, kernel = weight.shape[0], (weight.shape[2], weight.shape[3])
    if bias is not None:
        bias = as_operand("conv2d", bias)
        if bias.shape != (out,):
            raise ShapeError(f"{scoped('conv2d')}: bias has shape {bias.shape}, expected ({out},) for weight {weight.shape}")
    p, q = positions(scoped("conv2d"), x.shape[2:], kernel, stride, padding)
    k = math.prod(weight.shape[1:])
    y = reshape(weight, (out, k)) @ reshape(windows2d(x, kernel, stride, padding), (k, x.shape[0] * p * q))
    if bias is not None:
        y = y + reshape(bias, (out, 1))
    return swapaxes(reshape(y, (out, x.shape[0], p, q)), 0, 1)


@one_box
def max_pool2d(x: Operand[T], size: int | Pair, stride: int | Pair | None = None) -> T | Array:
    """The largest element of every window of `size`, `stride` (by default `size`) apart; x (n,c,h,w).

    Of equal elements the first in the window, row by row, gets the gradient. What is left over at the right and at the bottom
    is in no window. Raises ShapeError for a window that does not fit into x.
    """
    y, shape = pooled("max_pool2d", x, size, stride)
    return swapaxes(reshape(statistics.max(y, axis=1), shape), 0, 1)


@one_box
def avg_pool2d(x: Operand[T], size: int | Pair, stride: int | Pair | None = None) -> T | Array:
    """The mean of every window of `size`, `stride` (by default `size`) apart; x (n,c,h,w).

    What is left over at the right and at the bottom is in no window. Raises ShapeError for a window that does not fit into x.
    """
    y, shape = pooled("avg_pool2d", x, size, stride)
    return swapaxes(reshape(mean(y, axis=1), shape), 0, 1)


def pooled(op: str, x: Any, size: int | Pair, stride: int | Pair | None) -> tuple[Any, Shape]:
    """The windows of x as (c, elements of a window, n p q), and the shape (c,n,p,q) of one number for each."""
    x = as_operand(op, x)
    if x.ndim != 4:
        raise ShapeError(f"{scoped(op)}: input has shape {x.shape}, expected (n,c,h,w)")
    size = pair(op, "size", size, 1)
    stride = size if stride is None else pair(op, "stride", stride, 1)
    shape = (x.shape[1], x.shape[0], *positions(scoped(op), x.shape[2:], size, stride, (0, 0)))
    return reshape(windows2d(x, size, stride), (shape[0], size[0] * size[1], math.prod(shape[1:]))), shape


def positions(op: str, size: Shape, kernel: Pair, stride: Pair, padding: Pair) -> Pair:
    """How many windows there are, down and across."""
    fits = [n + 2 * around - k for n, k, around in zip(size, kernel, padding, strict=True)]
    if min(fits) < 0:
        padded = f" with padding {padding}" if any(padding) else ""
        raise ShapeError(f"{op}: a window of {tuple(kernel)} does not fit into {tuple(size)}{padded}")
    return fits[0] // stride[0] + 1, fits[1] // stride[1] + 1


def pair(op: str, what: str, value: int | Pair, least: int) -> Pair:
    """One number for both axes, or two, as two."""
    both: tuple[Any, ...] = tuple(value) if is_sequence(value) else (value, value)  # type: ignore[arg-type]
    if len(both) != 2 or not all(map(is_whole, both)):
        raise DTypeError(f"{scoped(op)}: {what} must be one whole number or two, got {shown(value)}")
    if min(both) < least:
        raise ArgumentError(f"{scoped(op)}: {what} must be at least {least}, got {shown(value)}")
    return whole(op, what, both[0]), whole(op, what, both[1])


def sample_windows(rng: np.random.Generator) -> tuple[dict[str, Pair], Pair]:
    """Settings of a convolution, and a size that they fit."""

    def draw(low: int, high: int) -> Pair:
        return int(rng.integers(low, high)), int(rng.integers(low, high))

    kernel, stride, padding, extra = draw(1, 4), draw(1, 4), draw(0, 2), draw(0, 4)
    size = tuple(max(k + e - 2 * p, 1) for k, e, p in zip(kernel, extra, padding, strict=True))
    return {"kernel": kernel, "stride": stride, "padding": padding}, size  # type: ignore[return-value]  # two of them


windows2d, fold2d = Windows2d(), Fold2d()

"""Strided windows over the last axes of (n,c,...) and their transpose, the basis of convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np

from tensorgrad.core.arguments import check_memory, integer, integers, is_integer, is_sequence
from tensorgrad.core.backend import Array, Xp
from tensorgrad.core.op import Op, Rules, Sample, Value
from tensorgrad.core.operand import Operand, T
from tensorgrad.core.signature import Shape
from tensorgrad.core.state import describe, scoped
from tensorgrad.errors import ArgumentError, DTypeError, ShapeError
from tensorgrad.kernels import windows as kernels

__all__ = ["fold", "windows"]

NUMBERS = ("no", "one", "two", "three")


class Windows(Op):
    """All windows of `kernel` elements, `stride` apart, over the last axes of x (n,c,*size), with `padding` zeros around it.

    dilation   distance between the elements of a window. Each of the four has one number for each of those axes

    The axes c and kernel come first, n and the positions last, so that a convolution is one matrix product and long
    contiguous runs are copied. With two axes:

    forward    y[c,i,j,n,p,q] = x[n, c, stride p + dilation i - padding, stride q + dilation j - padding], 0 outside of x
    backward   gx             = each element of g added to the one that it was copied from
    """

    name, signature = "windows", "(*)->(*)"
    linear = "x"
    moves = True

    def __call__(
        self, x: Operand[T], kernel: Shape, stride: Shape | int = 1, padding: Shape | int = 0, dilation: Shape | int = 1
    ) -> T | Array:
        kernel = integers(self.name, "kernel", kernel, 1)
        n = len(kernel)
        stride, padding = several(self.name, "stride", stride, n, 1), several(self.name, "padding", padding, n, 0)
        dilation = several(self.name, "dilation", dilation, n, 1)
        return self.apply(x, kernel=kernel, stride=stride, padding=padding, dilation=dilation)

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        attrs, size = sample_windows(rng)
        return (self.values(rng, (*(int(n) for n in rng.choice(sizes, 2)), *size)),), attrs

    def forward(self, xp: Xp, x: Array, *, kernel: Shape, stride: Shape, padding: Shape, dilation: Shape) -> Array:
        if x.ndim != len(kernel) + 2:
            raise ShapeError(f"windows: x has shape {x.shape}, expected {len(kernel) + 2} axes for a kernel {kernel}")
        counts = positions(self.name, x.shape[2:], kernel, stride, padding, dilation)
        shape = (x.shape[1], *kernel, x.shape[0], *counts)
        check_memory(self.name, shape, x.dtype.itemsize)
        if xp is np and (result := kernels.windows(x, shape, stride, padding, dilation)) is not None:
            return result
        if any(padding):
            x = xp.pad(x, ((0, 0), (0, 0), *[(n, n) for n in padding]))
        n, c, *steps = x.strides
        within = [step * d for step, d in zip(steps, dilation, strict=True)]
        between = [step * s for step, s in zip(steps, stride, strict=True)]
        return xp.lib.stride_tricks.as_strided(x, shape, (c, *within, n, *between)).copy("C")

    def backward(self, g: Value, y: Value, x: Value, *, kernel: Shape, stride: Shape, padding: Shape, dilation: Shape) -> Rules:
        return (lambda: fold(g, x.shape[2:], stride, padding, dilation),)


class Fold(Op):
    """The transpose of `windows`: puts windows back, adding overlapping elements.

    size       the last axes of y (n,c,*size). With two of them:

    forward    y[n,c,k,l] = sum of x[c,i,j,n,p,q] with stride p + dilation i - padding = k, stride q + dilation j - padding = l
    backward   gx         = the windows of g
    """

    name, signature = "fold", "(*)->(*)"
    linear = "x"

    def __call__(
        self, x: Operand[T], size: Shape, stride: Shape | int = 1, padding: Shape | int = 0, dilation: Shape | int = 1
    ) -> T | Array:
        size = integers(self.name, "size", size, 0)
        n = len(size)
        stride, padding = several(self.name, "stride", stride, n, 1), several(self.name, "padding", padding, n, 0)
        return self.apply(x, size=size, stride=stride, padding=padding, dilation=several(self.name, "dilation", dilation, n, 1))

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        attrs, size = sample_windows(rng)
        n, c = (int(n) for n in rng.choice(sizes, 2))
        kernel = attrs.pop("kernel")
        shape = (c, *kernel, n, *positions(self.name, size, kernel, **attrs))
        return (self.values(rng, shape),), {"size": size, **attrs}

    def forward(self, xp: Xp, x: Array, *, size: Shape, stride: Shape, padding: Shape, dilation: Shape) -> Array:
        axes = len(size)
        if x.ndim != 2 * axes + 2:
            raise ShapeError(f"fold: x has shape {x.shape}, expected {2 * axes + 2} axes for a size {size}")
        kernel, counts = x.shape[1 : axes + 1], x.shape[axes + 2 :]
        if positions(self.name, size, kernel, stride, padding, dilation) != counts:
            settings = f"stride {stride}, padding {padding}, dilation {dilation}"
            raise ShapeError(f"fold: {counts} windows of {kernel} do not match size {size} with {settings}")
        if xp is np and (result := kernels.fold(x, size, stride, padding, dilation)) is not None:
            return result
        padded = (x.shape[axes + 1], x.shape[0], *[n + 2 * p for n, p in zip(size, padding, strict=True)])
        check_memory(self.name, padded, x.dtype.itemsize)
        y = xp.zeros(padded, x.dtype)
        grid = list(zip(stride, dilation, counts, strict=True))
        for at in product(*map(range, kernel)):
            part = tuple([slice(i * d, i * d + s * (n - 1) + 1, s) for i, (s, d, n) in zip(at, grid, strict=True)])
            target = y[:, :, *part]
            target += x[:, *at].swapaxes(0, 1)
        return y[:, :, *[slice(p, p + n) for n, p in zip(size, padding, strict=True)]]

    def backward(self, g: Value, y: Value, x: Value, *, size: Shape, stride: Shape, padding: Shape, dilation: Shape) -> Rules:
        return (lambda: windows(g, x.shape[1 : len(size) + 1], stride, padding, dilation),)


def positions(op: str, size: Shape, kernel: Shape, stride: Shape, padding: Shape, dilation: Shape) -> Shape:
    """The number of windows along each axis."""
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    slack = [n + 2 * around - span for n, span, around in zip(size, spans, padding, strict=True)]
    if min(slack) < 0:
        padded = f" with padding {padding}" if any(padding) else ""
        dilated = f" with dilation {tuple(dilation)}" if max(dilation) > 1 else ""
        raise ShapeError(f"{op}: a window of {tuple(kernel)}{dilated} does not fit into {tuple(size)}{padded}")
    return tuple([n // s + 1 for n, s in zip(slack, stride, strict=True)])


def several(op: str, what: str, value: Any, axes: int, least: int) -> Shape:
    """One number for all axes, or one per axis, as a tuple."""
    numbers: tuple[Any, ...] = tuple(value) if is_sequence(value) else (value,) * axes
    if len(numbers) != axes or not all(map(is_integer, numbers)):
        expected = "an integer" + (f" or {NUMBERS[axes]}" if 1 < axes < len(NUMBERS) else "")
        raise DTypeError(f"{scoped(op)}: {what} must be {expected}, got {describe(value)}")
    result = tuple([integer(op, what, n) for n in numbers])
    if min(result, default=least) < least:
        raise ArgumentError(f"{scoped(op)}: {what} must be at least {least}, got {describe(value)}")
    return result


def sample_windows(rng: np.random.Generator) -> tuple[dict[str, Shape], Shape]:
    """Settings of a convolution over one, two or three axes, and a valid size."""
    axes = (1, 2, 2, 3)[rng.integers(4)]

    def draw(low: int, high: int) -> Shape:
        return tuple(int(n) for n in rng.integers(low, high, axes))

    kernel, stride, padding, dilation, extra = draw(1, 5 - axes), draw(1, 4), draw(0, 2), draw(1, 3), draw(0, 5 - axes)
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    size = tuple(max(n + e - 2 * p, 1) for n, e, p in zip(spans, extra, padding, strict=True))
    return {"kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation}, size


windows, fold = Windows(), Fold()

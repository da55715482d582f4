"""Resizing of images (n,c,...) by interpolation, and pixel shuffle."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tensorgrad.core.arguments import choice, integer, number, truth
from tensorgrad.core.backend import Array, namespace
from tensorgrad.core.operand import Operand, T
from tensorgrad.core.signature import Shape
from tensorgrad.core.state import describe, one_box, scoped
from tensorgrad.core.tensor import raw
from tensorgrad.errors import ArgumentError, ShapeError
from tensorgrad.ops.elementwise import as_narrow, as_wide
from tensorgrad.ops.linalg import as_operand
from tensorgrad.ops.pool import adapted
from tensorgrad.ops.rearrange import take
from tensorgrad.ops.shape import broadcast_to, reshape, transpose
from tensorgrad.ops.windows import several

__all__ = ["interpolate", "pixel_shuffle", "pixel_unshuffle"]

LINEAR = ("", "linear", "bilinear", "trilinear")  # by number of axes
MODES = ("nearest", "nearest-exact", *LINEAR[1:], "bicubic", "area")


@one_box
def interpolate(
    x: Operand[T],
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
) -> T | Array:
    """Resize x (n,c,l), (n,c,h,w) or (n,c,d,h,w) along its last axes, by PyTorch's formulas.

    size            the new sizes, or one number for all; or
    scale_factor    factors of the sizes, likewise: n elements become m = floor(n scale)
    mode            "nearest", "nearest-exact", "linear", "bilinear", "trilinear" for one, two, three axes, "bicubic" for two,
                    or "area", which is `adaptive_avg_pool2d`
    align_corners   for linear and cubic modes: True aligns the centres of the first and last elements; by default elements
                    are areas whose outer borders are aligned

    With r = 1 / scale, or n / m for sizes, element j of the result is read from the position

        nearest         floor(j r);      nearest-exact   floor((j + 1/2) r)
        linear, cubic   s = (j + 1/2) r - 1/2,   or s = j (n - 1) / (m - 1) with align_corners
        linear          y_j = (1 - t) x_i + t x_{i+1},   i = floor(s) and t = s - i, s being at least 0
        cubic           y_j = sum over k = -1 .. 2 of w(t - k) x_{i+k},   w by Keys 1981 with a = -3/4

    along each axis; the outermost elements are repeated beyond the border. Linear and cubic modes are matrix products: 0 times
    infinity is NaN. Raises ShapeError or ValueError for arguments that do not fit.
    """
    op = "interpolate"
    x = as_operand(op, x)
    mode, axes = choice(op, "mode", mode, MODES), x.ndim - 2
    if not 1 <= axes <= 3 or not all(x.shape[2:]):
        raise ShapeError(f"{scoped(op)}: input has shape {x.shape}, expected (n,c,l), (n,c,h,w) or (n,c,d,h,w) with elements")
    if (mode in LINEAR and LINEAR[axes] != mode) or (mode == "bicubic" and axes != 2):
        raise ArgumentError(f"{scoped(op)}: mode {mode!r} does not support the {axes} axes of {x.shape[2:]}")
    if align_corners is not None and mode not in (*LINEAR, "bicubic"):
        raise ArgumentError(
            f"{scoped(op)}: align_corners needs a linear or cubic mode, got {describe(align_corners)} with {mode!r}"
        )
    corners = align_corners is not None and truth(op, "align_corners", align_corners)
    sizes, ratios = scaled(op, x.shape[2:], size, scale_factor)
    if mode == "area":
        return adapted(op, axes, x, sizes, False)
    y: Any = x
    if mode.startswith("nearest"):
        for axis, (n, m, r) in enumerate(zip(x.shape[2:], sizes, ratios, strict=True), 2):
            if m % n == 0 and r == n / m:  # integer upscaling repeats elements
                lead, tail = y.shape[:axis], y.shape[axis + 1 :]
                wide = broadcast_to(reshape(y, (*lead, n, 1, *tail)), (*lead, n, m // n, *tail))
                y = reshape(wide, (*lead, m, *tail))
            else:
                at = (np.arange(m) + (0.5 if mode == "nearest-exact" else 0)) * r
                y = take(y, np.minimum(at.astype(int), n - 1), axis)
        return y
    y = as_wide(x)
    for axis, (n, m, r) in enumerate(zip(x.shape[2:], sizes, ratios, strict=True), 2):
        if n != m or r != 1:
            a = namespace([raw(y)]).asarray(
                weights(n, m, r, mode == "bicubic", corners), y.dtype if y.dtype.kind == "f" else None
            )
            lead, tail = y.shape[:axis], y.shape[axis + 1 :]
            y = a @ reshape(y, (math.prod(lead), n, math.prod(tail))) if tail else y @ a.T
            y = reshape(y, (*lead, m, *tail))
    return as_narrow(y, x)


def scaled(op: str, shape: Shape, size: Any, scale: Any) -> tuple[Shape, tuple[float, ...]]:
    """The new sizes, and the distance in x between neighbouring elements of the result."""
    axes = len(shape)
    if (size is None) == (scale is None):
        raise ArgumentError(f"{scoped(op)}: expected size or scale_factor, got {'neither' if size is None else 'both'}")
    if size is not None:
        sizes = several(op, "size", size, axes, 1)
        return sizes, tuple([n / m for n, m in zip(shape, sizes, strict=True)])
    listed = list(scale) if isinstance(scale, (tuple, list)) else [scale] * axes
    factors = [number(op, "scale_factor", s) for s in listed]
    if len(factors) != axes or not all(int(n * s) >= 1 for n, s in zip(shape, factors, strict=True)):
        raise ArgumentError(f"{scoped(op)}: scale_factor {describe(scale)} gives an invalid size for the axes {shape}")
    return tuple([int(n * s) for n, s in zip(shape, factors, strict=True)]), tuple([1 / s for s in factors])


def weights(n: int, m: int, r: float, cubic: bool, corners: bool) -> Array:
    """The interpolation matrix (m,n): the weight of each of n elements in each of m new ones."""
    s = np.arange(m) * ((n - 1) / (m - 1) if m > 1 else 0) if corners else (np.arange(m) + 0.5) * r - 0.5
    if not cubic:
        s = np.clip(s, 0, n - 1)
    i = np.floor(s).astype(int)
    t = s - i
    taps = {k: keys(np.abs(t - k)) for k in range(-1, 3)} if cubic else {0: 1 - t, 1: t}
    matrix = np.zeros((m, n))
    for k, w in taps.items():
        matrix[np.arange(m), np.clip(i + k, 0, n - 1)] += w  # a row occurs once for each k
    return matrix


def keys(d: Array) -> Array:
    """The weight at distance d, at most 2 (Keys 1981), with a = -3/4."""
    a = -0.75
    return np.where(d < 1, ((a + 2) * d - (a + 3)) * d * d + 1, ((a * d - 5 * a) * d + 8 * a) * d - 4 * a)


@one_box
def pixel_shuffle(x: Operand[T], upscale_factor: int) -> T | Array:
    """Channels to space (Shi et al. 2016): x (...,c r²,h,w) to y (...,c,h r,w r) with r = upscale_factor.

    y[..., c, h r + i, w r + j] = x[..., c r² + i r + j, h, w]. Raises ShapeError if r² does not divide the channels.
    """
    op = "pixel_shuffle"
    x, r = as_operand(op, x), integer(op, "upscale_factor", upscale_factor, 1)
    if x.ndim < 3 or x.shape[-3] % (r * r):
        raise ShapeError(f"{scoped(op)}: input has shape {x.shape}, expected (..., c, h, w) with c divisible by {r * r}")
    *lead, c, h, w = x.shape
    k = len(lead)
    y = transpose(reshape(x, (*lead, c // (r * r), r, r, h, w)), (*range(k), *(k + i for i in (0, 3, 1, 4, 2))))
    return reshape(y, (*lead, c // (r * r), h * r, w * r))


@one_box
def pixel_unshuffle(x: Operand[T], downscale_factor: int) -> T | Array:
    """Space to channels, the inverse of `pixel_shuffle`: x (...,c,h r,w r) to y (...,c r²,h,w) with r = downscale_factor.

    Raises ShapeError if r does not divide the sizes.
    """
    op = "pixel_unshuffle"
    x, r = as_operand(op, x), integer(op, "downscale_factor", downscale_factor, 1)
    if x.ndim < 3 or x.shape[-2] % r or x.shape[-1] % r:
        raise ShapeError(f"{scoped(op)}: input has shape {x.shape}, expected (..., c, h, w) with h and w divisible by {r}")
    *lead, c, h, w = x.shape
    k = len(lead)
    y = transpose(reshape(x, (*lead, c, h // r, r, w // r, r)), (*range(k), *(k + i for i in (0, 2, 4, 1, 3))))
    return reshape(y, (*lead, c * r * r, h // r, w // r))

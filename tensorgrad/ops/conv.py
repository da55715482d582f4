"""Convolutions over the last one, two or three axes of (n,c,...), and their transposes: windows and one matrix product."""

from __future__ import annotations

import math
from typing import Any

from tensorgrad.core.arguments import integer
from tensorgrad.core.backend import Array
from tensorgrad.core.operand import Operand, T
from tensorgrad.core.signature import Shape
from tensorgrad.core.state import one_box
from tensorgrad.errors import ArgumentError, ShapeError
from tensorgrad.ops.linalg import as_operand, scoped
from tensorgrad.ops.pad import pad
from tensorgrad.ops.shape import reshape, swapaxes
from tensorgrad.ops.windows import fold, positions, several, windows

__all__ = ["conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"]

AXES = ("", "l", "h,w", "d,h,w")  # names of the axes in errors


@one_box
def conv1d(
    x: Operand[T],
    weight: Operand[T],
    bias: Operand[T] | None = None,
    stride: int | Shape = 1,
    padding: int | Shape | str = 0,
    dilation: int | Shape = 1,
    groups: int = 1,
) -> T | Array:
    """y[n,o,p] = bias[o] + sum over c, i of weight[o,c,i] x[n, c, stride p + dilation i - padding]

    `conv2d` with one axis: x (n,c,l), weight (o,c/groups,k), bias (o) or None, y (n,o,p).
    """
    return convolved("conv1d", 1, x, weight, bias, stride, padding, dilation, groups)


@one_box
def conv2d(
    x: Operand[T],
    weight: Operand[T],
    bias: Operand[T] | None = None,
    stride: int | Shape = 1,
    padding: int | Shape | str = 0,
    dilation: int | Shape = 1,
    groups: int = 1,
) -> T | Array:
    """y[n,o,p,q] = bias[o] + sum over c, i, j of
                    weight[o,c,i,j] x[n, c, stride p + dilation i - padding, stride q + dilation j - padding]

    backward  gx = sum of g weight over windows,   gweight = sum of g x,   gbias = sum of g

    As in PyTorch, the kernel is not flipped. x is 0 outside.

    x        (n,c,h,w)
    weight   (o,c/groups,kh,kw); bias (o), or None
    stride, padding, dilation   one number, or (rows, columns). padding "valid" is 0; "same" gives y the size of x, with the
             additional zero of an even kernel at the end, and needs stride 1
    groups   g: input and output channels are divided into g groups; each output sees the input channels of its group

    Returns (n,o,p,q) with p = (h + 2 padding - dilation (kh - 1) - 1) // stride + 1, q likewise. Raises ShapeError for shapes
    that do not fit.
    """
    return convolved("conv2d", 2, x, weight, bias, stride, padding, dilation, groups)


@one_box
def conv3d(
    x: Operand[T],
    weight: Operand[T],
    bias: Operand[T] | None = None,
    stride: int | Shape = 1,
    padding: int | Shape | str = 0,
    dilation: int | Shape = 1,
    groups: int = 1,
) -> T | Array:
    """`conv2d` with one more axis: x (n,c,d,h,w), weight (o,c/groups,kd,kh,kw), bias (o) or None, y (n,o,p,q,r)."""
    return convolved("conv3d", 3, x, weight, bias, stride, padding, dilation, groups)


@one_box
def conv_transpose1d(
    x: Operand[T],
    weight: Operand[T],
    bias: Operand[T] | None = None,
    stride: int | Shape = 1,
    padding: int | Shape = 0,
    output_padding: int | Shape = 0,
    groups: int = 1,
    dilation: int | Shape = 1,
) -> T | Array:
    """`conv_transpose2d` with one axis: x (n,c,l), weight (c,o/groups,k), bias (o) or None, y (n,o,p)."""
    return transposed("conv_transpose1d", 1, x, weight, bias, stride, padding, output_padding, groups, dilation)


@one_box
def conv_transpose2d(
    x: Operand[T],
    weight: Operand[T],
    bias: Operand[T] | None = None,
    stride: int | Shape = 1,
    padding: int | Shape = 0,
    output_padding: int | Shape = 0,
    groups: int = 1,
    dilation: int | Shape = 1,
) -> T | Array:
    """y[n,o,k,l] = bias[o] + sum over c and stride p + dilation i - padding = k, stride q + dilation j - padding = l of
                    weight[c,o,i,j] x[n,c,p,q]

    The transpose of `conv2d` as a linear map, with the same weight: its gradient with respect to x.

    x        (n,c,h,w)
    weight   (c,o/groups,kh,kw); bias (o), or None
    stride, padding, dilation   of the convolution; one number, or (rows, columns)
    output_padding   additional rows and columns, fewer than the stride: several sizes have the same result of conv2d

    Returns (n,o,p,q) with p = (h - 1) stride - 2 padding + dilation (kh - 1) + 1 + output_padding, q likewise. Raises
    ShapeError for shapes that do not fit.
    """
    return transposed("conv_transpose2d", 2, x, weight, bias, stride, padding, output_padding, groups, dilation)


@one_box
def conv_transpose3d(
    x: Operand[T],
    weight: Operand[T],
    bias: Operand[T] | None = None,
    stride: int | Shape = 1,
    padding: int | Shape = 0,
    output_padding: int | Shape = 0,
    groups: int = 1,
    dilation: int | Shape = 1,
) -> T | Array:
    """`conv_transpose2d` with one more axis: x (n,c,d,h,w), weight (c,o/groups,kd,kh,kw), bias (o) or None, y (n,o,p,q,r)."""
    return transposed("conv_transpose3d", 3, x, weight, bias, stride, padding, output_padding, groups, dilation)


def convolved(op: str, axes: int, x: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, groups: Any) -> Any:
    """A convolution over the last `axes` axes."""
    x, weight, bias, groups = operands(op, axes, x, weight, bias, groups, False)
    stride, dilation = several(op, "stride", stride, axes, 1), several(op, "dilation", dilation, axes, 1)
    out, kernel, samples = weight.shape[0], weight.shape[2:], x.shape[0]
    if isinstance(padding, str):
        total = padding_of(op, padding, kernel, stride, dilation)
        extra = [n % 2 for n in total]
        if any(extra):
            x = pad(x, ((0, 0), (0, 0), *[(0, n) for n in extra]))
        padding = tuple([n // 2 for n in total])
    else:
        padding = several(op, "padding", padding, axes, 0)
    out_size = positions(scoped(op), x.shape[2:], kernel, stride, padding, dilation)
    k, n = math.prod(weight.shape[1:]), samples * math.prod(out_size)
    patches = windows(x, kernel, stride, padding, dilation)
    if groups == 1:
        y = reshape(weight, (out, k)) @ reshape(patches, (k, n))
    else:
        y = reshape(reshape(weight, (groups, out // groups, k)) @ reshape(patches, (groups, k, n)), (out, n))
    if bias is not None:
        y = y + reshape(bias, (out, 1))
    return swapaxes(reshape(y, (out, samples, *out_size)), 0, 1)


def transposed(
    op: str,
    axes: int,
    x: Any,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    output_padding: Any,
    groups: Any,
    dilation: Any,
) -> Any:
    """A transposed convolution over the last `axes` axes."""
    x, weight, bias, groups = operands(op, axes, x, weight, bias, groups, True)
    stride, dilation = several(op, "stride", stride, axes, 1), several(op, "dilation", dilation, axes, 1)
    padding, output_padding = several(op, "padding", padding, axes, 0), several(op, "output_padding", output_padding, axes, 0)
    if any(m >= s for m, s in zip(output_padding, stride, strict=True)):
        raise ArgumentError(f"{scoped(op)}: output_padding must be less than the stride {stride}, got {output_padding}")
    samples, channels, *size = x.shape
    out, kernel = weight.shape[1] * groups, weight.shape[2:]
    grid = zip(size, stride, padding, dilation, kernel, output_padding, strict=True)
    result = tuple([(n - 1) * s - 2 * p + d * (k - 1) + 1 + m for n, s, p, d, k, m in grid])
    if min(result) < 1:
        raise ShapeError(f"{scoped(op)}: the result of input {x.shape} with weight {weight.shape} would have size {result}")
    if groups == 1:
        rows = swapaxes(reshape(weight, (channels, out * math.prod(kernel))), 0, 1)
        y = rows @ reshape(swapaxes(x, 0, 1), (channels, samples * math.prod(size)))
    else:
        group_channels = channels // groups
        rows = swapaxes(reshape(weight, (groups, group_channels, out // groups * math.prod(kernel))), 1, 2)
        y = rows @ reshape(swapaxes(x, 0, 1), (groups, group_channels, samples * math.prod(size)))
    y = fold(reshape(y, (out, *kernel, samples, *size)), result, stride, padding, dilation)
    return y if bias is None else y + reshape(bias, (out,) + (1,) * axes)


def operands(op: str, axes: int, x: Any, weight: Any, bias: Any, groups: Any, is_transposed: bool) -> tuple[Any, Any, Any, int]:
    """Check the shapes of a convolution's operands; of a transposed one if `is_transposed`."""
    x, weight = as_operand(op, x), as_operand(op, weight)
    groups = integer(op, "groups", groups, 1)
    right_axes = x.ndim == weight.ndim == axes + 2
    if not right_axes or x.shape[1] != (weight.shape[0] if is_transposed else weight.shape[1] * groups):
        share = "" if groups == 1 else f"/{groups}"
        names = ",".join(f"k{axis}" for axis in AXES[axes].split(",")) if axes > 1 else "k"
        weight_axes = f"c,o{share}" if is_transposed else f"o,c{share}"
        expected = f"(n,c,{AXES[axes]}),({weight_axes},{names})"
        raise ShapeError(f"{scoped(op)}: input {x.shape} and weight {weight.shape} are incompatible; expected {expected}")
    if weight.shape[0] % groups:
        unit = "channels" if is_transposed else "outputs"
        raise ShapeError(f"{scoped(op)}: {weight.shape[0]} {unit} are not divisible into {groups} groups")
    if bias is not None:
        bias, out = as_operand(op, bias), weight.shape[1] * groups if is_transposed else weight.shape[0]
        if bias.shape != (out,):
            raise ShapeError(f"{scoped(op)}: bias has shape {bias.shape}, expected ({out},) for weight {weight.shape}")
    return x, weight, bias, groups


def padding_of(op: str, padding: str, kernel: Shape, stride: Shape, dilation: Shape) -> Shape:
    """The total number of zeros on both ends of each axis for "same" or "valid"."""
    if padding not in ("same", "valid"):
        raise ArgumentError(f'{scoped(op)}: padding must be integers, "same" or "valid", got {padding!r}')
    if padding == "same" and max(stride) > 1:
        raise ArgumentError(f'{scoped(op)}: padding "same" needs stride 1, got stride {stride}')
    return tuple([d * (k - 1) if padding == "same" else 0 for k, d in zip(kernel, dilation, strict=True)])

"""Layers without weights for images (n,c,...): padding, resizing, pixel shuffle."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from tensorgrad import ops
from tensorgrad.errors import ArgumentError, ShapeError
from tensorgrad.nn import functional as F
from tensorgrad.nn.arguments import describe, flag, integer, integers, one_of, real
from tensorgrad.nn.module import Module
from tensorgrad.nn.resize import MODES
from tensorgrad.ops.linalg import as_operand

__all__ = [
    "CircularPad1d", "CircularPad2d", "CircularPad3d", "ConstantPad1d", "ConstantPad2d", "ConstantPad3d", "PixelShuffle",
    "PixelUnshuffle", "ReflectionPad1d", "ReflectionPad2d", "ReflectionPad3d", "ReplicationPad1d", "ReplicationPad2d",
    "ReplicationPad3d", "Unflatten", "Upsample", "ZeroPad1d", "ZeroPad2d", "ZeroPad3d",
]  # fmt: skip


class Padding(Module):
    """Pad the last axes of x, which may have any number of axes before them.

    padding   one number for all sides, or two for each axis, the last axis first: (left, right, top, bottom, front, back)
    axes      number of padded axes
    """

    axes: ClassVar[int]
    mode: ClassVar[str] = "constant"
    value = 0.0

    def __init__(self, padding: int | tuple[int, ...]) -> None:
        super().__init__()
        caller = type(self).__name__
        sides = integers(caller, "padding", padding)
        if np.ndim(padding) and len(sides) != 2 * self.axes:
            raise ArgumentError(f"{caller}: padding must be an integer or {2 * self.axes}, got {describe(padding)}")
        self.padding = sides if np.ndim(padding) else sides * (2 * self.axes)

    def forward(self, x: Any) -> Any:
        caller = type(self).__name__
        x = as_operand(caller, x)
        if x.ndim < self.axes:
            raise ShapeError(f"{caller}: input has shape {x.shape}, expected at least {self.axes} axes")
        pairs = [self.padding[i : i + 2] for i in range(2 * self.axes - 2, -2, -2)]
        return ops.pad(x, ((0, 0),) * (x.ndim - self.axes) + tuple(pairs), self.value, self.mode)

    def extra_repr(self) -> str:
        return f"{self.padding}"


class ConstantPad(Padding):
    """Pad the last axes with a number."""

    def __init__(self, padding: int | tuple[int, ...], value: float) -> None:
        super().__init__(padding)
        self.value = real(type(self).__name__, "value", value)

    def extra_repr(self) -> str:
        return f"{self.padding}, {self.value}"


class ConstantPad1d(ConstantPad):
    """Pad the last axis with `value`. padding: one number, or (left, right)."""

    axes = 1


class ConstantPad2d(ConstantPad):
    """Pad the last two axes with `value`. padding: one number, or (left, right, top, bottom)."""

    axes = 2


class ConstantPad3d(ConstantPad):
    """Pad the last three axes with `value`. padding: one number, or (left, right, top, bottom, front, back)."""

    axes = 3


class ZeroPad1d(Padding):
    """Pad the last axis with zeros. padding: one number, or (left, right)."""

    axes = 1


class ZeroPad2d(Padding):
    """Pad the last two axes with zeros. padding: one number, or (left, right, top, bottom)."""

    axes = 2


class ZeroPad3d(Padding):
    """Pad the last three axes with zeros. padding: one number, or (left, right, top, bottom, front, back)."""

    axes = 3


class ReflectionPad1d(Padding):
    """Pad the last axis by reflection at its outermost elements. padding: one number, or (left, right)."""

    axes, mode = 1, "reflect"


class ReflectionPad2d(Padding):
    """Pad the last two axes by reflection at their outermost elements. padding: one number, or (left, right, top, bottom)."""

    axes, mode = 2, "reflect"


class ReflectionPad3d(Padding):
    """Pad the last three axes by reflection at their outermost elements. padding: one number, or (left, right, top, bottom,
    front, back).
    """

    axes, mode = 3, "reflect"


class ReplicationPad1d(Padding):
    """Pad the last axis by repeating its outermost elements. padding: one number, or (left, right)."""

    axes, mode = 1, "edge"


class ReplicationPad2d(Padding):
    """Pad the last two axes by repeating their outermost elements. padding: one number, or (left, right, top, bottom)."""

    axes, mode = 2, "edge"


class ReplicationPad3d(Padding):
    """Pad the last three axes by repeating outermost elements. padding: one number, or (left, right, top, bottom, front,
    back).
    """

    axes, mode = 3, "edge"


class CircularPad1d(Padding):
    """Pad the last axis circularly, from its other end. padding: one number, or (left, right)."""

    axes, mode = 1, "wrap"


class CircularPad2d(Padding):
    """Pad the last two axes circularly, from their other ends. padding: one number, or (left, right, top, bottom)."""

    axes, mode = 2, "wrap"


class CircularPad3d(Padding):
    """Pad the last three axes circularly. padding: one number, or (left, right, top, bottom, front, back)."""

    axes, mode = 3, "wrap"


class Unflatten(Module):
    """Split one axis into several: x (..., product of sizes, ...) to y (..., *sizes, ...). One of the sizes may be -1."""

    def __init__(self, axis: int, unflattened_size: tuple[int, ...]) -> None:
        super().__init__()
        caller = type(self).__name__
        self.axis = integer(caller, "axis", axis, None)
        self.unflattened_size = integers(caller, "unflattened_size", unflattened_size, -1)
        if not self.unflattened_size or self.unflattened_size.count(-1) > 1:
            raise ArgumentError(
                f"{caller}: unflattened_size must be sizes, one of which may be -1, got {describe(unflattened_size)}"
            )

    def forward(self, x: Any) -> Any:
        caller = type(self).__name__
        x = as_operand(caller, x)
        if not -x.ndim <= self.axis < x.ndim:
            raise ShapeError(f"{caller}: input has shape {x.shape}, axis {self.axis} is out of bounds")
        at = self.axis % x.ndim
        product = 1
        for n in self.unflattened_size:
            product *= n if n != -1 else 1
        is_inferred = -1 in self.unflattened_size
        if (x.shape[at] % product if product else 1) if is_inferred else x.shape[at] != product:
            raise ShapeError(f"{caller}: axis {self.axis} of {x.shape} is not the product of {self.unflattened_size}")
        sizes = tuple([x.shape[at] // product if n == -1 else n for n in self.unflattened_size])
        return ops.reshape(x, (*x.shape[:at], *sizes, *x.shape[at + 1 :]))

    def extra_repr(self) -> str:
        return f"{self.axis}, {self.unflattened_size}"


class Upsample(Module):
    """Resize x (n,c,...) along its last axes; see nn.functional.interpolate."""

    def __init__(
        self,
        size: int | tuple[int, ...] | None = None,
        scale_factor: float | tuple[float, ...] | None = None,
        mode: str = "nearest",
        align_corners: bool | None = None,
    ) -> None:
        super().__init__()
        caller = type(self).__name__
        self.mode = one_of(caller, "mode", mode, MODES)
        self.align_corners = None if align_corners is None else flag(caller, "align_corners", align_corners)
        if align_corners is not None and mode in ("nearest", "nearest-exact", "area"):
            raise ArgumentError(f"{caller}: align_corners needs a linear or cubic mode, got {align_corners} with {mode!r}")
        if (size is None) == (scale_factor is None):
            raise ArgumentError(f"{caller}: expected either size or scale_factor, got {'neither' if size is None else 'both'}")
        self.size: int | tuple[int, ...] | None = None
        self.scale_factor: float | tuple[float, ...] | None = None
        if size is not None:
            numbers = integers(caller, "size", size, 1)
            self.size = numbers if np.ndim(size) else numbers[0]
        else:
            factors_given = scale_factor if isinstance(scale_factor, (tuple, list)) else [scale_factor]
            factors = tuple([real(caller, "scale_factor", s, 0, above=True) for s in factors_given])
            self.scale_factor = factors if isinstance(scale_factor, (tuple, list)) else factors[0]
        for name in ("size", "scale_factor"):
            if isinstance(value := getattr(self, name), tuple) and not 1 <= len(value) <= 3:
                raise ArgumentError(f"{caller}: {name} must be a number or one per axis, for up to three axes, got {value}")

    def forward(self, x: Any) -> Any:
        return F.interpolate(x, self.size, self.scale_factor, self.mode, self.align_corners)

    def extra_repr(self) -> str:
        size = f"size={self.size}" if self.size is not None else f"scale_factor={self.scale_factor}"
        return f"{size}, mode={self.mode!r}" + ("" if self.align_corners is None else f", align_corners={self.align_corners}")


class PixelShuffle(Module):
    """Channels to space: x (...,c r²,h,w) to y (...,c,h r,w r) with r = upscale_factor; see nn.functional.pixel_shuffle."""

    def __init__(self, upscale_factor: int) -> None:
        super().__init__()
        self.upscale_factor = integer(type(self).__name__, "upscale_factor", upscale_factor, 1)

    def forward(self, x: Any) -> Any:
        return F.pixel_shuffle(x, self.upscale_factor)

    def extra_repr(self) -> str:
        return f"{self.upscale_factor}"


class PixelUnshuffle(Module):
    """Space to channels: x (...,c,h r,w r) to y (...,c r²,h,w) with r = downscale_factor; the inverse of PixelShuffle."""

    def __init__(self, downscale_factor: int) -> None:
        super().__init__()
        self.downscale_factor = integer(type(self).__name__, "downscale_factor", downscale_factor, 1)

    def forward(self, x: Any) -> Any:
        return F.pixel_unshuffle(x, self.downscale_factor)

    def extra_repr(self) -> str:
        return f"{self.downscale_factor}"

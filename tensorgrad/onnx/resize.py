"""ONNX's Resize implemented with tensorgrad's ops, for `load`: nearest and linear, axis by axis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tensorgrad import ops
from tensorgrad.core.tensor import raw
from tensorgrad.onnx.limits import estimate
from tensorgrad.onnx.operators import numbers, operator


def target(x: Any, scales: Any, sizes: Any, axes: Any) -> tuple[list[int], list[float]]:
    """The new sizes of all axes, and the scale factors that they are meant to have."""
    resized_axes = range(x.ndim) if axes is None else [a % x.ndim for a in axes]
    new, factors = list(x.shape), [1.0] * x.ndim
    has_sizes = sizes is not None and sizes.shape != (0,)
    if has_sizes:
        for axis, n in zip(resized_axes, numbers(sizes), strict=True):
            new[axis], factors[axis] = n, n / x.shape[axis]
    else:
        for axis, s in zip(resized_axes, np.asarray(raw(scales)).tolist(), strict=True):
            new[axis], factors[axis] = int(np.floor(np.float32(x.shape[axis]) * np.float32(s))), s
    if min(new) < 1:
        raise ValueError(f"to {tuple(new)}")
    return new, factors


def coordinates(n: int, old: int, scale: float, transformation: str) -> Any:
    """The positions of the n new entries among the old ones, in float32 as in onnxruntime."""
    i, s = np.arange(n, dtype=np.float32), np.float32(scale)
    half, one = np.float32(0.5), np.float32(1)
    if transformation == "asymmetric":
        return i / s
    if transformation == "align_corners":
        return i * np.float32(old - 1) / np.float32(n - 1) if n > 1 else i
    if transformation == "pytorch_half_pixel" and n == 1:
        return i
    if transformation in ("half_pixel", "pytorch_half_pixel"):
        return (i + half) / s - half
    if transformation == "half_pixel_symmetric":
        centre = np.float32(old) / 2 * (one - np.float32(n) / (s * np.float32(old)))
        return centre + (i + half) / s - half
    raise NotImplementedError(f"coordinate_transformation_mode={transformation}")


NEAREST: dict[str, Callable[[Any], Any]] = {
    "floor": np.floor,
    "ceil": np.ceil,
    "round_prefer_floor": lambda x: np.ceil(x - np.float32(0.5)),
    "round_prefer_ceil": lambda x: np.floor(x + np.float32(0.5)),
}


@operator("Resize")
def resize(
    x: Any, roi: Any = None, scales: Any = None, sizes: Any = None, *, mode: str = "nearest", axes: Any = None,
    coordinate_transformation_mode: str = "half_pixel", nearest_mode: str = "round_prefer_floor", antialias: int = 0,
    exclude_outside: int = 0, extrapolation_value: float = 0.0, cubic_coeff_a: float = -0.75,
    keep_aspect_ratio_policy: str = "stretch",
) -> Any:  # fmt: skip
    if mode not in ("nearest", "linear") or antialias or keep_aspect_ratio_policy != "stretch":
        raise NotImplementedError(f"mode={mode}, antialias={antialias}, keep_aspect_ratio_policy={keep_aspect_ratio_policy}")
    for axis, (n, factor) in enumerate(zip(*target(x, scales, sizes, axes), strict=True)):
        old = x.shape[axis]
        if n == old and factor == 1:
            continue
        positions = coordinates(n, old, factor, coordinate_transformation_mode)
        leading = (slice(None),) * axis
        if mode == "nearest":
            indices = np.clip(NEAREST[nearest_mode](positions), 0, old - 1).astype(np.int64)
            x = ops.getitem(x, (*leading, indices))
            continue
        positions = np.clip(positions, 0, old - 1)
        low = np.floor(positions).astype(np.int64)
        weight = (positions - low).astype(x.dtype).reshape(-1, *(1,) * (x.ndim - axis - 1))
        below, above = ops.getitem(x, (*leading, low)), ops.getitem(x, (*leading, np.minimum(low + 1, old - 1)))
        x = below * (1 - weight) + above * weight
    return x


@estimate("Resize")
def resize_estimate(
    x: Any, roi: Any = None, scales: Any = None, sizes: Any = None, *, axes: Any = None, **_: Any
) -> tuple[int, int]:
    """Axes are resized one after the other."""
    new = target(x, scales, sizes, axes)[0]
    largest = 1
    for n, old in zip(new, x.shape, strict=True):
        largest *= max(n, old)
    return 4 * largest, 0

"""Clipping, and replacement of non-finite numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tensorgrad.core.arguments import number
from tensorgrad.core.backend import Array, Xp, asarray, finfo, is_array, is_floating
from tensorgrad.core.op import Op, Rules, Sample, Tangents, Value
from tensorgrad.core.operand import Operand, T
from tensorgrad.core.state import named, scoped
from tensorgrad.core.tensor import Tensor
from tensorgrad.errors import ArgumentError
from tensorgrad.ops.compare import equal, isnan
from tensorgrad.ops.elementwise import maximum, minimum, where

__all__ = ["clip", "nan_to_num"]


class Clip(Op):
    """y = min(max(x, low), high); None is no bound. The derivative is 1 inside and at the bounds, 0 outside.

    Bounds that are arrays or Tensors apply element by element, as minimum(maximum(x, low), high).
    Raises ValueError if both are None, or low is above high.

    forward    y  = min(max(x, low), high)
    backward   gx = g * [x = y]
    tangent    ty = tx * [x = y]
    """

    name, signature, reads = "clip", "()->()", "y x"
    kinks = (-1.0, 0.5)

    @named
    def __call__(self, x: Operand[T], low: Operand[T] | None = None, high: Operand[T] | None = None) -> T | Array:
        low, high = bound("low", low), bound("high", high)
        if low is None and high is None:
            raise ArgumentError(f"{scoped(self.name)}: low and high are both None, expected at least one bound")
        if (low is None or isinstance(low, (int, float))) and (high is None or isinstance(high, (int, float))):
            if low is not None and high is not None and not low <= high:
                raise ArgumentError(f"{scoped(self.name)}: low is {low} and high is {high}, expected low <= high")
            return self.apply(x, low=low, high=high)
        x = x if low is None else maximum(x, low)
        return x if high is None else minimum(x, high)

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        args, _ = super().sample(rng, sizes)
        low, high = ((-1.0, 0.5), (None, 0.5), (-1.0, None))[rng.integers(3)]
        return args, {"low": low, "high": high}

    def forward(self, xp: Xp, x: Array, *, low: float | None, high: float | None) -> Array:
        if xp is not np and x.dtype.kind == "b":  # CuPy refuses booleans and None
            x = x.astype(np.result_type(x.dtype, *[limit for limit in (low, high) if limit is not None]))
        return xp.clip(x, low, high)

    def backward(self, g: Value, y: Value, x: Value, *, low: float | None, high: float | None) -> Rules:
        return (lambda: where(x == y, g, 0),)

    def jvp(self, y: Value, x: Value, *, low: float | None, high: float | None) -> Tangents:
        return (lambda t: where(x == y, t, 0),)


@named
def nan_to_num(x: Operand[T], *, nan: float = 0.0, posinf: float | None = None, neginf: float | None = None) -> T | Array:
    """Replace NaN and infinities in x by numbers: by default 0, and the largest and lowest numbers of the dtype.

    Replaced elements have gradient 0.
    """
    y: Any = x if isinstance(x, Tensor) else asarray(x, where=scoped("nan_to_num"))
    largest = float(finfo(y.dtype).max) if is_floating(y.dtype) else 0.0  # nothing to replace in integers
    high = largest if posinf is None else number("nan_to_num", "posinf", posinf)
    low = -largest if neginf is None else number("nan_to_num", "neginf", neginf)
    nan = number("nan_to_num", "nan", nan)
    if not is_floating(y.dtype):
        return y * 1
    y = where(isnan(y), nan, y)
    return where(equal(y, math.inf), high, where(equal(y, -math.inf), low, y))


def bound(what: str, value: Any) -> Any:
    """A bound: a 0-d one as a number, other arrays and Tensors unchanged."""
    if value is None or isinstance(value, (Tensor, list, tuple)) or (is_array(value) and value.ndim):
        return value
    return number("clip", what, value)


clip = Clip()

"""Rounding, and division with an integer quotient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tensorgrad.core.arguments import integer
from tensorgrad.core.backend import Array, Xp, is_floating
from tensorgrad.core.op import Op, Rules, Sample, Tangents, Value
from tensorgrad.core.operand import Binary, Operand, T, Unary
from tensorgrad.core.state import scoped
from tensorgrad.errors import ArgumentError
from tensorgrad.ops.elementwise import mul_grad, mul_tangent

__all__ = ["ceil", "floor", "floordiv", "mod", "round", "trunc"]


class Floor(Unary):
    """The largest integer not above x. The derivative is 0.

    forward    y  = floor(x)
    backward   gx = 0
    tangent    ty = 0
    """

    name, signature = "floor", "()->()"

    def forward(self, xp: Xp, x: Array) -> Array:
        return xp.floor(x)

    def backward(self, g: Value, y: Value, x: Value) -> Rules:
        return (None,)

    def jvp(self, y: Value, x: Value) -> Tangents:
        return (None,)


class Ceil(Unary):
    """The smallest integer not below x. The derivative is 0.

    forward    y  = ceil(x)
    backward   gx = 0
    tangent    ty = 0
    """

    name, signature = "ceil", "()->()"

    def forward(self, xp: Xp, x: Array) -> Array:
        return xp.ceil(x)

    def backward(self, g: Value, y: Value, x: Value) -> Rules:
        return (None,)

    def jvp(self, y: Value, x: Value) -> Tangents:
        return (None,)


class Trunc(Unary):
    """x rounded towards 0. The derivative is 0.

    forward    y  = sign(x) floor(|x|)
    backward   gx = 0
    tangent    ty = 0
    """

    name, signature = "trunc", "()->()"

    def forward(self, xp: Xp, x: Array) -> Array:
        return xp.trunc(x)

    def backward(self, g: Value, y: Value, x: Value) -> Rules:
        return (None,)

    def jvp(self, y: Value, x: Value) -> Tangents:
        return (None,)


class Round(Op):
    """x rounded to a number of decimals (negative: tens, hundreds, ...), halves to even.

    The derivative is 0, and taken as 0 where it jumps.

    forward    y  = round(x 10^d) / 10^d          (d: decimals)
    backward   gx = 0
    tangent    ty = 0
    """

    name, signature = "round", "()->()"

    def __call__(self, x: Operand[T], decimals: int = 0) -> T | Array:
        decimals = integer(self.name, "decimals", decimals)
        if abs(decimals) > 300:
            raise ArgumentError(f"{scoped(self.name)}: decimals must be between -300 and 300, got {decimals}")
        return self.apply(x, decimals=decimals)

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        args, _ = super().sample(rng, sizes)
        return args, {"decimals": int(rng.integers(-1, 3))}

    def forward(self, xp: Xp, x: Array, *, decimals: int) -> Array:
        x = xp.asarray(x)
        if decimals <= 0 or x.dtype.kind != "f":
            return xp.round(x, decimals)
        with np.errstate(over="ignore"):
            y = xp.round(x, decimals)
        return xp.where(xp.abs(x) < 2.0**52, y, x)  # larger numbers have no decimals, and x 10^d might overflow

    def backward(self, g: Value, y: Value, x: Value, *, decimals: int) -> Rules:
        return (None,)

    def jvp(self, y: Value, x: Value, *, decimals: int) -> Tangents:
        return (None,)


class Mod(Binary):
    """y = a % b, the remainder with the sign of b. y jumps where a / b is an integer; the derivative there uses the value of
    floor(a/b) at that point.

    forward    y  = a - b floor(a/b)
    backward   ga = g,   gb = -g floor(a/b)
    tangent    ty = ta - tb floor(a/b)
    """

    name, signature, symbol, reads = "mod", "(),()->()", "%", "a b"

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        return sample_quotient(self, rng, sizes)

    def forward(self, xp: Xp, a: Array, b: Array) -> Array:
        return xp.remainder(a, b) if xp is np else remainder(xp, a, b)

    def backward(self, g: Value, y: Value, a: Value, b: Value) -> Rules:
        return lambda: g, lambda: -mul_grad(g, a // b)

    def jvp(self, y: Value, a: Value, b: Value) -> Tangents:
        return lambda t: t, lambda t: mul_tangent(-t, floordiv(a, b))


class FloorDiv(Binary):
    """y = a // b, the quotient rounded down. The derivative is 0.

    forward    y  = floor(a/b)
    backward   ga = 0,   gb = 0
    tangent    ty = 0
    """

    name, signature, symbol = "floordiv", "(),()->()", "//"

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        return sample_quotient(self, rng, sizes)

    def forward(self, xp: Xp, a: Array, b: Array) -> Array:
        return xp.floor_divide(a, b) if xp is np else quotient(xp, a, b)

    def backward(self, g: Value, y: Value, a: Value, b: Value) -> Rules:
        return None, None

    def jvp(self, y: Value, a: Value, b: Value) -> Tangents:
        return None, None


def remainder(xp: Xp, a: Any, b: Any) -> Array:
    """NumPy's a % b on a GPU: CuPy's a - b floor(a / b) is wrong for large a or infinite b."""
    a, b, is_real = to_common_dtype(xp, a, b)
    if not is_real:
        return xp.remainder(a, b)
    rest = xp.fmod(a, b)
    opposite_signs = (b < 0) != (rest < 0)
    return xp.where(rest == 0, xp.copysign(xp.zeros_like(rest), b), xp.where(opposite_signs, rest + b, rest))


def quotient(xp: Xp, a: Any, b: Any) -> Array:
    """NumPy's a // b on a GPU, from the remainder, so that 1 // 0.1 is 9."""
    a, b, is_real = to_common_dtype(xp, a, b)
    if not is_real:
        return xp.floor_divide(a, b)
    rest = xp.fmod(a, b)
    exact = (a - rest) / b
    exact = xp.where((rest != 0) & ((b < 0) != (rest < 0)), exact - 1, exact)
    rounded = xp.floor(exact)
    rounded = xp.where(exact - rounded > 0.5, rounded + 1, rounded)
    rounded = xp.where(exact == 0, xp.copysign(xp.zeros_like(rest), a / b), rounded)
    return xp.where(b == 0, a / b, rounded)


def to_common_dtype(xp: Xp, a: Any, b: Any) -> tuple[Array, Array, bool]:
    """Operands in the dtype of the result, and whether it is floating."""
    dtype = xp.result_type(a, b)
    return xp.asarray(a, dtype), xp.asarray(b, dtype), is_floating(dtype)


def sample_quotient(op: Op, rng: np.random.Generator, sizes: Sequence[int]) -> Sample:
    """Arguments with quotients of either sign, well away from integers."""
    a, b = op.parsed.shapes(rng, sizes)
    sign = rng.choice([-1.0, 1.0])
    return (rng.integers(-2, 3, a) + rng.uniform(0.3, 0.7, a), np.asarray(sign * rng.uniform(1, 1.05, b))), {}


floor, ceil, trunc, round = Floor(), Ceil(), Trunc(), Round()
mod, floordiv = Mod(), FloorDiv()

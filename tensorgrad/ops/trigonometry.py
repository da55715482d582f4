"""Trigonometric and hyperbolic functions, and some inverses."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tensorgrad.core.backend import Array, Xp
from tensorgrad.core.op import Rules, Sample, Tangents, Value
from tensorgrad.core.operand import Binary, Unary
from tensorgrad.ops.compare import equal, isfinite
from tensorgrad.ops.elementwise import div_grad, mul_grad, mul_tangent, where
from tensorgrad.ops.functions import hypot, sqrt, square

__all__ = ["arccos", "arcsin", "arctan", "arctan2", "cos", "cosh", "sin", "sinh", "tan"]


class Sin(Unary):
    """y = sin(x), x in radians

    forward    y  = sin x
    backward   gx = g cos x
    tangent    ty = tx cos x
    """

    name, signature, reads = "sin", "()->()", "x"
    real = True

    def forward(self, xp: Xp, x: Array) -> Array:
        return xp.sin(x)

    def backward(self, g: Value, y: Value, x: Value) -> Rules:
        return (lambda: mul_grad(g, cos(x)),)

    def jvp(self, y: Value, x: Value) -> Tangents:
        return (lambda t: mul_tangent(t, cos(x)),)


class Cos(Unary):
    """y = cos(x), x in radians

    forward    y  = cos x
    backward   gx = -g sin x
    tangent    ty = -tx sin x
    """

    name, signature, reads = "cos", "()->()", "x"
    real = True

    def forward(self, xp: Xp, x: Array) -> Array:
        return xp.cos(x)

    def backward(self, g: Value, y: Value, x: Value) -> Rules:
        return (lambda: -mul_grad(g, sin(x)),)

    def jvp(self, y: Value, x: Value) -> Tangents:
        return (lambda t: mul_tangent(-t, sin(x)),)


class Tan(Unary):
    """y = tan(x), x in radians

    forward    y  = tan x
    backward   gx = g (1 + y²)
    tangent    ty = tx (1 + y²)
    """

    name, signature, reads = "tan", "()->()", "y"
    real = True
    domain = (-1.2, 1.2)

    def forward(self, xp: Xp, x: Array) -> Array:
        return xp.tan(x)

    def backward(self, g: Value, y: Value, x: Value) -> Rules:
        return (lambda: mul_grad(g, 1 + y * y),)

    def jvp(self, y: Value, x: Value) -> Tangents:
        return (lambda t: mul_tangent(t, square(y) + 1),)


class Arcsin(Unary):
    """y = arcsin(x), in radians. At x = ±1 the derivative is infinite.

    forward    y  = arcsin x
    backward   gx = g / √(1 - x²)
    tangent    ty = tx / √(1 - x²)
    """

    name, signature, reads = "arcsin", "()->()", "x"
    real = True
    domain = (-0.9, 0.9)

    def forward(self, xp: Xp, x: Array) -> Array:
        return xp.arcsin(x)

    def backward(self, g: Value, y: Value, x: Value) -> Rules:
        return (lambda: div_grad(g, sqrt((1 - x) * (1 + x))),)

    def jvp(self, y: Value, x: Value) -> Tangents:
        return (lambda t: div_grad(t, sqrt((1 - x) * (1 + x))),)


class Arccos(Unary):
    """y = arccos(x), in radians. At x = ±1 the derivative is infinite.

    forward    y  = arccos x
    backward   gx = -g / √(1 - x²)
    tangent    ty = -tx / √(1 - x²)
    """

    name, signature, reads = "arccos", "()->()", "x"
    real = True
    domain = (-0.9, 0.9)

    def forward(self, xp: Xp, x: Array) -> Array:
        return xp.arccos(x)

    def backward(self, g: Value, y: Value, x: Value) -> Rules:
        return (lambda: -div_grad(g, sqrt((1 - x) * (1 + x))),)

    def jvp(self, y: Value, x: Value) -> Tangents:
        return (lambda t: div_grad(-t, sqrt((1 - x) * (1 + x))),)


class Arctan(Unary):
    """y = arctan(x), in radians

    forward    y  = arctan x
    backward   gx = g / (1 + x²)
    tangent    ty = tx / (1 + x²)
    """

    name, signature, reads = "arctan", "()->()", "x"
    real = True

    def forward(self, xp: Xp, x: Array) -> Array:
        return xp.arctan(x)

    def backward(self, g: Value, y: Value, x: Value) -> Rules:
        def gx() -> Value:
            with np.errstate(over="ignore"):  # x² = inf gives the right limit, 0
                return div_grad(g, 1 + x * x)

        return (gx,)

    def jvp(self, y: Value, x: Value) -> Tangents:
        def ty(t: Value) -> Value:
            with np.errstate(over="ignore"):  # x² = inf gives the right limit, 0
                return div_grad(t, square(x) + 1)

        return (ty,)


class Arctan2(Binary):
    """The angle of the point (b, a), in radians: arctan(a / b) in the right quadrant. At (0, 0) the derivative is taken as 0.

    forward    y  = arctan2(a, b),   -π .. π
    backward   ga = g b / (a² + b²),   gb = -g a / (a² + b²),   0 where both are 0
    tangent    ty = (ta b - a tb) / (a² + b²),   0 where both are 0
    """

    name, signature, reads = "arctan2", "(),()->()", "a b"
    domain = (0.3, 2.0)
    real = True

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        (a, b), _ = super().sample(rng, sizes)
        return (a * rng.choice([-1.0, 1.0], a.shape), b * rng.choice([-1.0, 1.0], b.shape)), {}

    def forward(self, xp: Xp, a: Array, b: Array) -> Array:
        return xp.arctan2(a, b)

    def backward(self, g: Value, y: Value, a: Value, b: Value) -> Rules:
        return lambda: mul_grad(g, over_square(b, a, b)), lambda: -mul_grad(g, over_square(a, a, b))

    def jvp(self, y: Value, a: Value, b: Value) -> Tangents:
        return lambda t: mul_tangent(t, over_square(b, a, b)), lambda t: -mul_tangent(t, over_square(a, a, b))


def over_square(x: Value, a: Value, b: Value) -> Value:
    """x / (a² + b²), also if a² or b² overflows; 0 if both are 0, or one is infinite."""
    length = hypot(a, b)
    length = where(equal(length, 0), math.inf, length)
    return where(isfinite(length), x, 0.0) / length / length


class Sinh(Unary):
    """y = sinh(x)

    forward    y  = (e^x - e^-x) / 2
    backward   gx = g cosh x
    tangent    ty = tx cosh x
    """

    name, signature, reads = "sinh", "()->()", "x"
    real = True

    def forward(self, xp: Xp, x: Array) -> Array:
        return xp.sinh(x)

    def backward(self, g: Value, y: Value, x: Value) -> Rules:
        return (lambda: mul_grad(g, cosh(x)),)

    def jvp(self, y: Value, x: Value) -> Tangents:
        return (lambda t: mul_tangent(t, cosh(x)),)


class Cosh(Unary):
    """y = cosh(x)

    forward    y  = (e^x + e^-x) / 2
    backward   gx = g sinh x
    tangent    ty = tx sinh x
    """

    name, signature, reads = "cosh", "()->()", "x"
    real = True

    def forward(self, xp: Xp, x: Array) -> Array:
        return xp.cosh(x)

    def backward(self, g: Value, y: Value, x: Value) -> Rules:
        return (lambda: mul_grad(g, sinh(x)),)

    def jvp(self, y: Value, x: Value) -> Tangents:
        return (lambda t: mul_tangent(t, sinh(x)),)


sin, cos, tan = Sin(), Cos(), Tan()
arcsin, arccos, arctan, arctan2 = Arcsin(), Arccos(), Arctan(), Arctan2()
sinh, cosh = Sinh(), Cosh()

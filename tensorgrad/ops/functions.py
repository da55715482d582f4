"""Mathematical functions of one argument; powers, exp and log are in exponential.py."""

from __future__ import annotations

import importlib
import math

from tensorgrad.core.backend import Array, Xp
from tensorgrad.core.op import Rules, Tangents, Value
from tensorgrad.core.operand import Binary, Unary
from tensorgrad.kernels import common
from tensorgrad.ops.clip import clip
from tensorgrad.ops.compare import equal, isfinite, logical_and, logical_not
from tensorgrad.ops.elementwise import div_grad, mul_grad, mul_tangent, where
from tensorgrad.ops.exponential import exp

__all__ = [
    "erf",
    "expm1",
    "hypot",
    "log2",
    "log10",
    "logaddexp",
    "reciprocal",
    "sqrt",
    "square",
]  # fmt: skip


class Expm1(Unary):
    """y = exp(x) - 1, exact near 0 too

    forward    y  = e^x - 1
    backward   gx = g e^x
    tangent    ty = tx e^x
    """

    name, signature, reads = "expm1", "()->()", "x"
    real = True

    def forward(self, xp: Xp, x: Array) -> Array:
        return xp.expm1(x)

    def backward(self, g: Value, y: Value, x: Value) -> Rules:
        return (lambda: mul_grad(g, exp(x)),)

    def jvp(self, y: Value, x: Value) -> Tangents:
        return (lambda t: mul_tangent(t, exp(x)),)


class Log2(Unary):
    """y = log2(x), the logarithm to base 2

    forward    y  = ln x / ln 2
    backward   gx = g / (x ln 2)
    tangent    ty = tx / (x ln 2)
    """

    name, signature, reads = "log2", "()->()", "x"
    real = True
    domain = (0.4, 3.0)

    def forward(self, xp: Xp, x: Array) -> Array:
        return xp.log2(x)

    def backward(self, g: Value, y: Value, x: Value) -> Rules:
        return (lambda: div_grad(g, x * math.log(2)),)

    def jvp(self, y: Value, x: Value) -> Tangents:
        return (lambda t: div_grad(t, x) / math.log(2),)


class Log10(Unary):
    """y = log10(x), the logarithm to base 10

    forward    y  = ln x / ln 10
    backward   gx = g / (x ln 10)
    tangent    ty = tx / (x ln 10)
    """

    name, signature, reads = "log10", "()->()", "x"
    real = True
    domain = (0.4, 3.0)

    def forward(self, xp: Xp, x: Array) -> Array:
        return xp.log10(x)

    def backward(self, g: Value, y: Value, x: Value) -> Rules:
        return (lambda: div_grad(g, x * math.log(10)),)

    def jvp(self, y: Value, x: Value) -> Tangents:
        return (lambda t: div_grad(t, x) / math.log(10),)


class LogAddExp(Binary):
    """y = log(e^a + e^b), without overflow. If y is infinite, arguments equal to it have derivative 1.

    forward    y  = ln(e^a + e^b)
    backward   ga = g e^(a - y),   gb = g e^(b - y)
    tangent    ty = ta e^(a - y) + tb e^(b - y)
    """

    name, signature, reads = "logaddexp", "(),()->()", "y a b"
    real = True

    def forward(self, xp: Xp, a: Array, b: Array) -> Array:
        return xp.logaddexp(a, b)

    def backward(self, g: Value, y: Value, a: Value, b: Value) -> Rules:
        return lambda: mul_grad(g, exp(gap(a, y))), lambda: mul_grad(g, exp(gap(b, y)))

    def jvp(self, y: Value, a: Value, b: Value) -> Tangents:
        return lambda t: mul_tangent(t, exp(gap(a, y))), lambda t: mul_tangent(t, exp(gap(b, y)))


def gap(a: Value, y: Value) -> Value:
    """a - y, 0 for equal infinities."""
    equal_infinities = logical_and(equal(a, y), logical_not(isfinite(y)))
    return where(equal_infinities, 0.0, a) - where(equal_infinities, 0.0, y)


class Sqrt(Unary):
    """y = √x. At x = 0 the derivative is infinite.

    forward    y  = √x
    backward   gx = g / (2 y)
    tangent    ty = tx / (2 y)
    """

    name, signature, reads = "sqrt", "()->()", "y"
    real = True
    domain = (0.1, 3.0)

    def forward(self, xp: Xp, x: Array) -> Array:
        return xp.sqrt(x)

    def backward(self, g: Value, y: Value, x: Value) -> Rules:
        return (lambda: div_grad(g, 2 * y),)

    def jvp(self, y: Value, x: Value) -> Tangents:
        return (lambda t: div_grad(t / 2, y),)


class Square(Unary):
    """y = x²

    forward    y  = x²
    backward   gx = 2 g x
    tangent    ty = 2 x tx
    """

    name, signature, reads = "square", "()->()", "x"

    def forward(self, xp: Xp, x: Array) -> Array:
        return xp.square(x)

    def backward(self, g: Value, y: Value, x: Value) -> Rules:
        return (lambda: mul_grad(g, 2 * x),)

    def jvp(self, y: Value, x: Value) -> Tangents:
        return (lambda t: mul_tangent(t + t, x),)


class Hypot(Binary):
    """y = √(a² + b²), also if a² or b² overflows. At (0, 0) the derivative is taken as 0.

    forward    y  = √(a² + b²)
    backward   ga = g a / y,   gb = g b / y,   0 where y = 0
    tangent    ty = (a ta + b tb) / y,   0 where y = 0
    """

    name, signature, reads = "hypot", "(),()->()", "y a b"
    real = True

    def forward(self, xp: Xp, a: Array, b: Array) -> Array:
        return xp.hypot(a, b)

    def backward(self, g: Value, y: Value, a: Value, b: Value) -> Rules:
        return lambda: mul_grad(g, a / where(y == 0, math.inf, y)), lambda: mul_grad(g, b / where(y == 0, math.inf, y))

    def jvp(self, y: Value, a: Value, b: Value) -> Tangents:
        return lambda t: mul_tangent(t, a / where(y == 0, math.inf, y)), lambda t: mul_tangent(
            t, b / where(y == 0, math.inf, y)
        )


class Reciprocal(Unary):
    """y = 1 / x; for integers too it is the real quotient

    forward    y  = 1 / x
    backward   gx = -g y²
    tangent    ty = -tx y²
    """

    name, signature, reads = "reciprocal", "()->()", "y"
    domain = (0.4, 3.0)

    def forward(self, xp: Xp, x: Array) -> Array:
        return xp.true_divide(1, x)

    def backward(self, g: Value, y: Value, x: Value) -> Rules:
        return (lambda: -mul_grad(mul_grad(g, y), y),)

    def jvp(self, y: Value, x: Value) -> Tangents:
        return (lambda t: -mul_tangent(mul_tangent(t, y), y),)


class Erf(Unary):
    """The error function, within 3 units in the last place.

    In float64 by the rational approximations of W. J. Cody, Rational Chebyshev approximations for the error function,
    Mathematics of Computation 23 (1969) 631-637, with the coefficients of his CALERF (netlib, specfun). In float32 by shorter
    approximations fitted for it: of erf x / x, and of 1 / (e^(x²) erfc x).

    forward    y  = 2/√π integral of e^(-t²) for t from 0 to x
    backward   gx = g 2/√π e^(-x²)
    tangent    ty = tx 2/√π e^(-x²)
    """

    name, signature, reads = "erf", "()->()", "x"
    real = True

    def forward(self, xp: Xp, x: Array) -> Array:
        x = x if hasattr(x, "dtype") else xp.asarray(x)  # the symbol of a kernel chain is not an array
        if xp.__name__ == "cupy":
            return importlib.import_module("cupyx.scipy.special").erf(x)
        return common.erf(x)

    def backward(self, g: Value, y: Value, x: Value) -> Rules:
        def gx() -> Value:
            clipped = clip(x, -40, 40)  # beyond, where x² may overflow, e^(-x²) is 0
            return mul_grad(g, exp(-square(clipped)) * (2 / math.sqrt(math.pi)))

        return (gx,)

    def jvp(self, y: Value, x: Value) -> Tangents:
        def ty(t: Value) -> Value:
            return mul_tangent(t, exp(-square(clip(x, -40, 40))) * (2 / math.sqrt(math.pi)))  # for large x, x² may overflow

        return (ty,)


expm1, log2, log10, logaddexp = Expm1(), Log2(), Log10(), LogAddExp()
sqrt, square, hypot, reciprocal = Sqrt(), Square(), Hypot(), Reciprocal()
erf = Erf()

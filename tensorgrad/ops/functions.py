"""Mathematical functions of one argument; powers, exp and log stand in exponential.py."""

from __future__ import annotations

import importlib
import math

import numpy as np

from tensorgrad.core.backend import Array, Xp
from tensorgrad.core.op import Rules, Value
from tensorgrad.core.operand import Binary, Unary
from tensorgrad.ops.elementwise import clip, div_grad, mul_grad, where
from tensorgrad.ops.exponential import exp

__all__ = [
    "arccos", "arcsin", "arctan", "cos", "cosh", "erf", "expm1", "hypot", "log2", "reciprocal", "sin", "sinh", "sqrt",
    "square", "tan",
]  # fmt: skip


class Expm1(Unary):
    """y = exp(x) - 1, exact near 0 too

    forward    y  = e^x - 1
    backward   gx = g e^x
    """

    name, signature, reads = "expm1", "()->()", "x"
    real = True

    def forward(self, xp: Xp, x: Array) -> Array:
        return xp.expm1(x)

    def backward(self, g: Value, y: Value, x: Value) -> Rules:
        return (lambda: mul_grad(g, exp(x)),)


class Log2(Unary):
    """y = log2(x), the logarithm to base 2

    forward    y  = ln x / ln 2
    backward   gx = g / (x ln 2)
    """

    name, signature, reads = "log2", "()->()", "x"
    real = True
    domain = (0.4, 3.0)

    def forward(self, xp: Xp, x: Array) -> Array:
        return xp.log2(x)

    def backward(self, g: Value, y: Value, x: Value) -> Rules:
        return (lambda: div_grad(g, x * math.log(2)),)


class Sqrt(Unary):
    """y = √x. At x = 0 the derivative is infinite.

    forward    y  = √x
    backward   gx = g / (2 y)
    """

    name, signature, reads = "sqrt", "()->()", "y"
    real = True
    domain = (0.1, 3.0)

    def forward(self, xp: Xp, x: Array) -> Array:
        return xp.sqrt(x)

    def backward(self, g: Value, y: Value, x: Value) -> Rules:
        return (lambda: div_grad(g, 2 * y),)


class Square(Unary):
    """y = x²

    forward    y  = x²
    backward   gx = 2 g x
    """

    name, signature, reads = "square", "()->()", "x"

    def forward(self, xp: Xp, x: Array) -> Array:
        return xp.square(x)

    def backward(self, g: Value, y: Value, x: Value) -> Rules:
        return (lambda: mul_grad(g, 2 * x),)


class Hypot(Binary):
    """y = √(a² + b²), though a² or b² may not fit. Where both are 0 the derivative is taken as 0.

    forward    y  = √(a² + b²)
    backward   ga = g a / y,   gb = g b / y,   0 where y = 0
    """

    name, signature, reads = "hypot", "(),()->()", "y a b"
    real = True

    def forward(self, xp: Xp, a: Array, b: Array) -> Array:
        return xp.hypot(a, b)

    def backward(self, g: Value, y: Value, a: Value, b: Value) -> Rules:
        return lambda: mul_grad(g, a / where(y == 0, 1.0, y)), lambda: mul_grad(g, b / where(y == 0, 1.0, y))


class Reciprocal(Unary):
    """y = 1 / x; of integers too it is the true quotient

    forward    y  = 1 / x
    backward   gx = -g y²
    """

    name, signature, reads = "reciprocal", "()->()", "y"
    domain = (0.4, 3.0)

    def forward(self, xp: Xp, x: Array) -> Array:
        return xp.true_divide(1, x)

    def backward(self, g: Value, y: Value, x: Value) -> Rules:
        return (lambda: -mul_grad(mul_grad(g, y), y),)


class Sin(Unary):
    """y = sin(x), x in radians

    forward    y  = sin x
    backward   gx = g cos x
    """

    name, signature, reads = "sin", "()->()", "x"
    real = True

    def forward(self, xp: Xp, x: Array) -> Array:
        return xp.sin(x)

    def backward(self, g: Value, y: Value, x: Value) -> Rules:
        return (lambda: mul_grad(g, cos(x)),)


class Cos(Unary):
    """y = cos(x), x in radians

    forward    y  = cos x
    backward   gx = -g sin x
    """

    name, signature, reads = "cos", "()->()", "x"
    real = True

    def forward(self, xp: Xp, x: Array) -> Array:
        return xp.cos(x)

    def backward(self, g: Value, y: Value, x: Value) -> Rules:
        return (lambda: -mul_grad(g, sin(x)),)


class Tan(Unary):
    """y = tan(x), x in radians

    forward    y  = tan x
    backward   gx = g (1 + y²)
    """

    name, signature, reads = "tan", "()->()", "y"
    real = True
    domain = (-1.2, 1.2)

    def forward(self, xp: Xp, x: Array) -> Array:
        return xp.tan(x)

    def backward(self, g: Value, y: Value, x: Value) -> Rules:
        return (lambda: mul_grad(g, 1 + y * y),)


class Arcsin(Unary):
    """y = arcsin(x), in radians. At x = ±1 the derivative is infinite.

    forward    y  = arcsin x
    backward   gx = g / √(1 - x²)
    """

    name, signature, reads = "arcsin", "()->()", "x"
    real = True
    domain = (-0.9, 0.9)

    def forward(self, xp: Xp, x: Array) -> Array:
        return xp.arcsin(x)

    def backward(self, g: Value, y: Value, x: Value) -> Rules:
        return (lambda: div_grad(g, sqrt((1 - x) * (1 + x))),)


class Arccos(Unary):
    """y = arccos(x), in radians. At x = ±1 the derivative is infinite.

    forward    y  = arccos x
    backward   gx = -g / √(1 - x²)
    """

    name, signature, reads = "arccos", "()->()", "x"
    real = True
    domain = (-0.9, 0.9)

    def forward(self, xp: Xp, x: Array) -> Array:
        return xp.arccos(x)

    def backward(self, g: Value, y: Value, x: Value) -> Rules:
        return (lambda: -div_grad(g, sqrt((1 - x) * (1 + x))),)


class Arctan(Unary):
    """y = arctan(x), in radians

    forward    y  = arctan x
    backward   gx = g / (1 + x²)
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


class Sinh(Unary):
    """y = sinh(x)

    forward    y  = (e^x - e^-x) / 2
    backward   gx = g cosh x
    """

    name, signature, reads = "sinh", "()->()", "x"
    real = True

    def forward(self, xp: Xp, x: Array) -> Array:
        return xp.sinh(x)

    def backward(self, g: Value, y: Value, x: Value) -> Rules:
        return (lambda: mul_grad(g, cosh(x)),)


class Cosh(Unary):
    """y = cosh(x)

    forward    y  = (e^x + e^-x) / 2
    backward   gx = g sinh x
    """

    name, signature, reads = "cosh", "()->()", "x"
    real = True

    def forward(self, xp: Xp, x: Array) -> Array:
        return xp.cosh(x)

    def backward(self, g: Value, y: Value, x: Value) -> Rules:
        return (lambda: mul_grad(g, sinh(x)),)


class Erf(Unary):
    """The error function, within 3 units in the last place.

    By the rational approximations of W. J. Cody, Rational Chebyshev approximations for the error function, Mathematics of
    Computation 23 (1969) 631-637, with the coefficients of his CALERF (netlib, specfun).

    forward    y  = 2/√π integral of e^(-t²) for t from 0 to x
    backward   gx = g 2/√π e^(-x²)
    """

    name, signature, reads = "erf", "()->()", "x"
    real = True

    def forward(self, xp: Xp, x: Array) -> Array:
        x = xp.asarray(x)
        if xp.__name__ == "cupy":
            return importlib.import_module("cupyx.scipy.special").erf(x)
        a = xp.minimum(xp.absolute(x), 6.0)  # from there on erf rounds to 1
        square = a * a
        inner = a * (horner(ERF_P, square) / horner(ERF_Q, square))
        outer = 1 - xp.exp(-square) * (horner(ERFC_P, a) / horner(ERFC_Q, a))
        return xp.copysign(xp.where(a < 0.5, inner, outer), x)

    def backward(self, g: Value, y: Value, x: Value) -> Rules:
        def gx() -> Value:
            near = clip(x, -40, 40)  # beyond, where x² might overflow, e^(-x²) is 0 in any case
            return mul_grad(g, exp(-near * near) * (2 / math.sqrt(math.pi)))

        return (gx,)


def horner(coefficients: tuple[float, ...], x: Array) -> Array:
    """The polynomial with these coefficients, the highest power's first."""
    first, second, *others = coefficients
    y = first * x + second
    for c in others:
        y *= x
        y += c
    return y


# erf x = x P(x²)/Q(x²) for |x| < 0.5, and erfc x = e^(-x²) P(x)/Q(x) above
ERF_P = (
    1.85777706184603153e-1, 3.16112374387056560e0, 1.13864154151050156e2, 3.77485237685302021e2, 3.20937758913846947e3,
)  # fmt: skip
ERF_Q = (1.0, 2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3, 2.84423683343917062e3)
ERFC_P = (
    2.15311535474403846e-8, 5.64188496988670089e-1, 8.88314979438837594e0, 6.61191906371416295e1, 2.98635138197400131e2,
    8.81952221241769090e2, 1.71204761263407058e3, 2.05107837782607147e3, 1.23033935479799725e3,
)  # fmt: skip
ERFC_Q = (
    1.0, 1.57449261107098347e1, 1.17693950891312499e2, 5.37181101862009858e2, 1.62138957456669019e3, 3.29079923573345963e3,
    4.36261909014324716e3, 3.43936767414372164e3, 1.23033935480374942e3,
)  # fmt: skip

expm1, log2 = Expm1(), Log2()
sqrt, square, hypot, reciprocal = Sqrt(), Square(), Hypot(), Reciprocal()
sin, cos, tan = Sin(), Cos(), Tan()
arcsin, arccos, arctan = Arcsin(), Arccos(), Arctan()
sinh, cosh = Sinh(), Cosh()
erf = Erf()

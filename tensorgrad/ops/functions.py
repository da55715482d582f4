"""Mathematical functions of one argument; powers, exp and log stand in exponential.py."""

from __future__ import annotations

import importlib
import math

import numpy as np

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
    """y = log(e^a + e^b), without overflow. Where y is infinite what is equal to it has derivative 1.

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
    """a - y, 0 of two equal infinities."""
    same = logical_and(equal(a, y), logical_not(isfinite(y)))
    return where(same, 0.0, a) - where(same, 0.0, y)


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
    """y = √(a² + b²), though a² or b² may not fit. Where both are 0 the derivative is taken as 0.

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
    """y = 1 / x; of integers too it is the true quotient

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
    ones, fitted for it: of erf x / x, and of 1 / (e^(x²) erfc x).

    forward    y  = 2/√π integral of e^(-t²) for t from 0 to x
    backward   gx = g 2/√π e^(-x²)
    tangent    ty = tx 2/√π e^(-x²)
    """

    name, signature, reads = "erf", "()->()", "x"
    real = True

    def forward(self, xp: Xp, x: Array) -> Array:
        x = x if hasattr(x, "dtype") else xp.asarray(x)  # a chain's symbol is no array
        if xp.__name__ == "cupy":
            return importlib.import_module("cupyx.scipy.special").erf(x)
        return common.computed(erf_of, x)

    def backward(self, g: Value, y: Value, x: Value) -> Rules:
        def gx() -> Value:
            near = clip(x, -40, 40)  # beyond, where x² might overflow, e^(-x²) is 0 in any case
            return mul_grad(g, exp(-square(near)) * (2 / math.sqrt(math.pi)))

        return (gx,)

    def jvp(self, y: Value, x: Value) -> Tangents:
        def ty(t: Value) -> Value:
            return mul_tangent(t, exp(-square(clip(x, -40, 40))) * (2 / math.sqrt(math.pi)))  # far out x² might overflow

        return (ty,)


def erf_of(x: Array) -> Array:
    """The error function of an array of NumPy's."""
    x = np.minimum(np.maximum(x, -6.0), 6.0)  # from there on erf rounds to 1
    a, square = np.absolute(x), x * x
    if x.dtype == np.float32:
        seam, inner, outer = 0.75, x * horner(ERF_SHORT, square), 1 - np.exp(-square) / horner(ERFC_SHORT, a)
    else:
        seam, inner = 0.5, x * (horner(ERF_P, square) / horner(ERF_Q, square))
        outer = 1 - np.exp(-square) * (horner(ERFC_P, a) / horner(ERFC_Q, a))
    return np.where(a < seam, inner, np.where(x < 0, -outer, outer))


def horner(coefficients: tuple[float, ...], x: Array) -> Array:
    """The polynomial with these coefficients, the highest power's first."""
    first, second, *others = coefficients
    y = first * x + second
    for c in others:
        y *= x
        y += c
    return y


# In float32 erf x = x P(x²) for |x| < 0.75, within 2e-9, and erfc x = e^(-x²) / Q(x) above, within 7e-9 of erf
ERF_SHORT = (
    -6.749524920604909e-4, 5.1143473586569e-3, -2.6834625586604627e-2, 1.1283376599425644e-1, -3.761261875925419e-1,
    1.1283791654971644,
)  # fmt: skip
ERFC_SHORT = (
    -1.1933626065920204e-3, 1.4620889758946728e-2, -8.211211683523945e-2, 2.810516961794481e-1, 1.1260848402990362,
    1.000272020485321,
)  # fmt: skip
# In float64 erf x = x P(x²)/Q(x²) for |x| < 0.5, and erfc x = e^(-x²) P(x)/Q(x) above
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

expm1, log2, log10, logaddexp = Expm1(), Log2(), Log10(), LogAddExp()
sqrt, square, hypot, reciprocal = Sqrt(), Square(), Hypot(), Reciprocal()
erf = Erf()

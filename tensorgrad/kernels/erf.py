"""The error function in NumPy, and its coefficients; the method is described at ops.erf."""

from __future__ import annotations

import numpy as np

from tensorgrad.core.backend import Array

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


def erf(x: Array, out: Array | None = None) -> Array:
    """The error function of an array; out may be x."""
    x = np.minimum(np.maximum(x, -6.0), 6.0)  # beyond, erf rounds to 1
    a, square = np.absolute(x), x * x
    if x.dtype == np.float32:
        seam, inner, outer = 0.75, x * horner(ERF_SHORT, square), 1 - np.exp(-square) / horner(ERFC_SHORT, a)
    else:
        seam, inner = 0.5, x * (horner(ERF_P, square) / horner(ERF_Q, square))
        outer = 1 - np.exp(-square) * (horner(ERFC_P, a) / horner(ERFC_Q, a))
    y = np.where(a < seam, inner, np.where(x < 0, -outer, outer))
    if out is None:
        return y
    np.copyto(out, y)
    return out


def horner(coefficients: tuple[float, ...], x: Array) -> Array:
    """Horner's scheme, with the coefficient of the highest power first."""
    first, second, *others = coefficients
    y = first * x + second
    for c in others:
        y *= x
        y += c
    return y

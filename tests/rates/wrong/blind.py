"""Forward formulas that a complex step goes through blindly, with the gradient that it would find there; and others that no
higher precision or complex number can go through."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tests.rates.faults import away, elementwise, normal, ops, positive, rule, wrong

STEP = "what a complex step does not see"
# forward, right derivative, the derivative that the complex step finds
BLIND: dict[str, tuple[Any, Any, Any, Any]] = {
    "abs as a size": (
        lambda xp, x: xp.abs(x) * xp.sin(x),
        lambda y, x: ops.sign(x) * ops.sin(x) + ops.abs(x) * ops.cos(x),
        lambda y, x: ops.abs(x) * ops.cos(x),
        away,
    ),
    "abs squared": (lambda xp, x: xp.abs(x) ** 2 + x, lambda y, x: 2 * x + 1, lambda y, x: 1 + 0 * x, away),
    "the real part": (lambda xp, x: x.real * x, lambda y, x: 2 * x, lambda y, x: x + 0, away),
    "np.real": (lambda xp, x: np.real(x) ** 2 * x, lambda y, x: 3 * x * x, lambda y, x: x * x, away),
    "a conjugate": (lambda xp, x: x * xp.conj(x) + x, lambda y, x: 2 * x + 1, lambda y, x: 1 + 0 * x, away),
    "a conjugate alone": (lambda xp, x: xp.conj(x) + 2 * x, lambda y, x: 3 + 0 * x, lambda y, x: 1 + 0 * x, away),
    "a mask by size": (
        lambda xp, x: np.where(np.abs(x) > 0.6, xp.abs(x), x * 2),
        lambda y, x: ops.where(ops.abs(x) > 0.6, ops.sign(x), 2.0),
        lambda y, x: ops.where(ops.abs(x) > 0.6, 0.0, 2.0),
        away,
    ),
    "a scale from the sizes": (lambda xp, x: x / xp.abs(x).max(), None, lambda y, x: 1 / ops.max(ops.abs(x)) + 0 * x, away),
    "np.linalg.norm": (lambda xp, x: x / np.linalg.norm(x), lambda y, x: None, lambda y, x: 1 / ops.norm(x) + 0 * x, away),
    "np.vdot": (lambda xp, x: np.vdot(x, x) * x, None, lambda y, x: (x * x).sum() + 0 * x, away),
    "astype": (lambda xp, x: x * x.real.astype(np.float64), lambda y, x: 2 * x, lambda y, x: x + 0, away),
    "an imaginary part thrown away": (lambda xp, x: x * (x + 0j).real, lambda y, x: 2 * x, lambda y, x: x + 0, away),
    "another branch for complex numbers": (
        lambda xp, x: x * x if np.isrealobj(x) else 3 * x * x / 2,
        lambda y, x: 2 * x,
        lambda y, x: 3 * x,
        away,
    ),
    "hypot by sizes": (
        lambda xp, x: xp.sqrt(xp.abs(x) ** 2 + 1) + x,
        lambda y, x: x / ops.sqrt(x * x + 1) + 1,
        lambda y, x: 1 + 0 * x,
        away,
    ),
    "an angle": (lambda xp, x: x * (1 + xp.angle(x + 1j).real), lambda y, x: None, lambda y, x: y / x, away),
    "a sign": (lambda xp, x: x * xp.sign(x.real) * x, lambda y, x: 2 * ops.abs(x), lambda y, x: ops.abs(x) * 2.2, away),
    "round in between": (
        lambda xp, x: x + x.real.round() * 0.0 + x.real,
        lambda y, x: 2 + 0 * x,
        lambda y, x: 1 + 0 * x,
        lambda s, n: 0.3 * away(s, n),
    ),
    "sorted by size": (lambda xp, x: x * np.sort(np.abs(x))[-1], None, lambda y, x: ops.max(ops.abs(x)) + 0 * x, away),
}
SUMS = {  # right gradients that are not entry by entry
    "a scale from the sizes": lambda g, y, x: g / m(x) - at_largest(x) * (g * x).sum() / m(x) ** 2,
    "np.linalg.norm": lambda g, y, x: (g - y * (g * y).sum()) / ops.norm(x),
    "np.vdot": lambda g, y, x: g * (x * x).sum() + 2 * x * (g * x).sum(),
    "sorted by size": lambda g, y, x: g * m(x) + at_largest(x) * (g * x).sum(),
    "an angle": lambda g, y, x: g * (y / x - x / (1 + x * x)),
}


def m(x: Any) -> Any:
    return ops.max(ops.abs(x))


def at_largest(x: Any) -> Any:
    return (ops.abs(x) == m(x)) * ops.sign(x)


for name, (forward, d, found, draw) in BLIND.items():
    right = SUMS.get(name, lambda g, y, x, d=d: g * d(y, x))
    op = rule(forward, right, lambda g, y, x, found=found: g * found(y, x))
    wrong(
        name,
        STEP,
        op,
        lambda s, draw=draw: draw(s, 4),
        known="the gradient is that of the formula with the blind part constant",
    )
    if name in ("abs as a size", "the real part", "a conjugate", "np.vdot"):
        wrong(f"{name}, of two inputs", STEP, lambda a, b, op=op: op(a * b).sum(), lambda s: (away(s, 4), positive(s, 4)))

# Where nothing but float64 goes through

DOUBLE = "float64 only"


def each(f: Any) -> Any:
    """f of Python's math module, for each entry."""
    return lambda xp, x: np.array([f(float(v)) for v in x.ravel()]).reshape(x.shape)


for f in (1.1, 1 + 1e-5, 0.0):
    wrong(
        f"math.sin, times {f:g}",
        DOUBLE,
        elementwise(each(math.sin), lambda y, x: ops.cos(x), lambda y, x, f=f: ops.cos(x) * f),
        lambda s: normal(s, 4),
    )
wrong(
    "math.erf, the factor of a half",
    DOUBLE,
    elementwise(
        each(lambda v: math.erf(v / 2)),
        lambda y, x: ops.exp(-x * x / 4) / math.sqrt(math.pi),
        lambda y, x: 2 * ops.exp(-x * x / 4) / math.sqrt(math.pi),
    ),
    lambda s: normal(s, 4),
)
wrong("math.lgamma, a digamma that is off", DOUBLE, elementwise(
    each(math.lgamma), lambda y, x: digamma(x), lambda y, x: ops.log(x) - 0.5 / x
), lambda s: 1 + positive(s, 3))  # fmt: skip


def digamma(x: Any) -> Any:
    """By its recurrence up to 12 and more, and the asymptotic series there."""
    low = sum((1 / (x + k) for k in range(12)), 0 * x)
    z = x + 12
    w = 1 / (z * z)
    return ops.log(z) - 0.5 / z - w * (1 / 12 - w * (1 / 120 - w * (1 / 252 - w * (1 / 240 - w / 132)))) - low


wrong(
    "a table, interpolated, by the slope next door",
    DOUBLE,
    elementwise(
        lambda xp, x: np.interp(x, np.arange(-6.0, 7), np.arange(-6.0, 7) ** 2),
        lambda y, x: 2 * ops.floor(x) + 1,
        lambda y, x: 2 * ops.floor(x) + 3,
    ),
    lambda s: np.random.default_rng(s).integers(-4, 4, 4) + np.random.default_rng(s).uniform(0.2, 0.8, 4),
)
wrong(
    "a loop over rows in float64, a row missed",
    DOUBLE,
    rule(
        lambda xp, x: np.array([float(np.sum(np.asarray(row, np.float64) ** 2)) for row in x]),
        lambda g, y, x: 2 * x * g.reshape(-1, 1),
        lambda g, y, x: 2 * x * (g * np.array([1, 1, 0])).reshape(-1, 1),
    ),
    lambda s: normal(s, 3, 2),
)
wrong("an eigenvalue", DOUBLE, rule(
    lambda xp, a: np.asarray(np.linalg.eigvalsh((a + a.T) / 2)[-1]), lambda g, y, a: g * ops.outer(top(a), top(a)),
    lambda g, y, a: g * np.diag(top(a) ** 2), "(n,n)->()",
), lambda s: normal(s, 3, 3))  # fmt: skip


def top(a: Any) -> np.ndarray:
    """The eigenvector of the largest eigenvalue."""
    array = np.asarray(getattr(a, "data", a)) if not isinstance(a, np.ndarray) else a
    return np.linalg.eigh((array + array.T) / 2)[1][:, -1]

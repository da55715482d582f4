"""Derivatives in closed form, for right functions whose slopes differences cannot tell: saturated, or badly conditioned.

By name of the case: the arrays of the inputs to the Jacobian of the first of them. Formulas are in long doubles, and what has a
condition is differenced in fractions, which have no rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np

from tests.rates.oracle import exactly, solved

Array = np.ndarray
TINY = Fraction(1, 10**60)


def long(x: Any) -> Array:
    return np.asarray(x, np.longdouble)


def softmax(z: Array) -> Array:
    e = np.exp(long(z) - long(z).max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def sigmoid(z: Array) -> Array:
    return np.exp(-np.maximum(-long(z), 0)) / (1 + np.exp(-np.abs(long(z))))


def entrywise(d: Callable[[Array], Array]) -> Callable[..., Array]:
    return lambda x, *_: np.diag(d(long(x)).ravel())


def softmax_jacobian(z: Array) -> Array:
    n, k = z.shape
    found = np.zeros((n, k, n, k), np.longdouble)
    for i, y in enumerate(softmax(z)):
        found[i, :, i, :] = np.diag(y) - np.outer(y, y)
        np.fill_diagonal(
            found[i, :, i, :], [v * (y.sum() - v) if v < 0.5 else v * np.delete(y, j).sum() for j, v in enumerate(y)]
        )
    return found.reshape(n * k, n * k)


def logsumexp_jacobian(z: Array) -> Array:
    n, k = z.shape
    found = np.zeros((n, n, k), np.longdouble)
    found[np.arange(n), np.arange(n)] = softmax(z)
    return found.reshape(n, n * k)


def cross_entropy(z: Array) -> Array:
    labels = np.array([0, 2, 1])
    p = softmax(z)
    for row, label in zip(p, labels, strict=True):
        row[label] = -np.delete(row, label).sum()
    return p.reshape(1, -1) / 3


def binary(z: Array) -> Array:
    t = np.array([0.0, 1, 0.3])
    return ((sigmoid(z) * (1 - t) - sigmoid(-long(z)) * t) / 3).reshape(1, -1)


def by_fractions(f: Callable[[list[list[Fraction]], list[list[Fraction]]], list[Fraction]]) -> Callable[..., Array]:
    """Central differences of f(a, b) by the entries of a, with a step that no double could take."""

    def jacobian(a: Array, *b: Array) -> Array:
        given, other = exactly(a), exactly(b[0] if b else np.eye(len(a)))
        columns = []
        for i in range(len(a)):
            for j in range(len(a)):
                sides = []
                for sign in (1, -1):
                    moved = [row[:] for row in given]
                    moved[i][j] += sign * TINY
                    sides.append(f(moved, other))
                columns.append([float((up - down) / (2 * TINY)) for up, down in zip(*sides, strict=True)])
        return np.array(columns).T

    return jacobian


inverse = by_fractions(lambda a, b: [v for row in solved(a, b)[0] for v in row])
det = by_fractions(lambda a, b: [solved(a, b)[1]])


def logabsdet(a: Array) -> Array:
    eye = exactly(np.eye(len(a)))
    return np.array([[float(v) for row in zip(*solved(exactly(a), eye)[0], strict=True) for v in row]])


# and how exact the recorded one has to be; where a rule has 1 - y, it is so up to the rounding of a 1 only
CLOSED: dict[str, tuple[Callable[..., Array], float]] = {
    **{f"extreme logits: softmax at ±{c}": (softmax_jacobian, 1e-10) for c in (10, 100, 1000)},
    **{f"extreme logits: logsumexp at ±{c}": (logsumexp_jacobian, 1e-10) for c in (10, 100, 1000)},
    **{f"extreme logits: cross-entropy at ±{c}": (cross_entropy, 1e-10) for c in (10, 100, 1000)},
    **{f"extreme logits: binary cross-entropy at ±{c}": (binary, 1e-10) for c in (10, 100, 1000)},
    **{
        f"a shift that cancels, detached: {name} at ±100": (softmax_jacobian, 1e-10)
        for name in ("softmax", "softmax, the largest by NumPy")
    },
    "a shift that cancels, detached: log-sum-exp at ±100": (logsumexp_jacobian, 1e-10),
    "high frequencies and spikes: a saturated tanh": (entrywise(lambda x: 1 / np.cosh(x) ** 2), 1e-10),
    "high frequencies and spikes: a saturated sigmoid": (entrywise(lambda x: sigmoid(x) * sigmoid(-x)), 1e-10),
    "high frequencies and spikes: erf far out": (entrywise(lambda x: 2 / math.sqrt(math.pi) * np.exp(-x * x)), 1e-10),
    "near-equal values: 1 - cos x near 0": (entrywise(np.sin), 1e-12),
    "large offsets: an offset of 1e12": (entrywise(np.cos), 1e-12),
    "large offsets: an offset of 1e12, taken off again": (entrywise(sigmoid), 1e-12),
    "small beside large: 1 + 1e-10 sin": (entrywise(lambda x: 1e-10 * np.cos(x)), 1e-12),
    "badly conditioned: det of a singular matrix": (det, 1e-12),
    # the rounding of one multiplication is blown up by the condition, twice in an inverse
    **{f"badly conditioned: inv at 1e{d}": (inverse, 10.0 ** (d - 13)) for d in (3, 6, 9, 12)},
    **{f"badly conditioned: solve at 1e{d}": (inverse, 10.0 ** (d - 13)) for d in (3, 6, 9, 12)},
    **{f"badly conditioned: det at 1e{d}": (det, 10.0 ** (d - 13)) for d in (3, 6, 9, 12)},
    **{f"badly conditioned: logabsdet at 1e{d}": (logabsdet, 10.0 ** (d - 13)) for d in (3, 6, 9, 12)},
    "badly conditioned: inv of a symmetric matrix at 1e9": (inverse, 1e-4),
}  # fmt: skip

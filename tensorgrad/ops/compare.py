"""Comparisons and tests of each element: booleans, without a gradient."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tensorgrad.core.backend import Array, Xp
from tensorgrad.core.op import Sample
from tensorgrad.core.operand import Binary, Unary

__all__ = [
    "equal", "greater", "greater_equal", "isfinite", "isnan", "less", "less_equal", "logical_not", "not_equal",
]  # fmt: skip


class Comparison(Binary):
    """A comparison of two arguments, tried out on values of which many are equal."""

    signature = "(),()->()"

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        args, _ = super().sample(rng, sizes)
        return tuple(np.asarray(np.round(a)) for a in args), {}


class Predicate(Unary):
    """A test of one argument, tried out on zeros and on what is no finite number too."""

    signature = "()->()"

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        (x,), _ = super().sample(rng, sizes)
        return (rng.choice([0.0, -1.5, np.inf, -np.inf, np.nan], x.shape),), {}


class Greater(Comparison):
    """Whether a is larger than b; false where one of them is NaN. No gradient.

    forward    y  = [a > b]
    """

    name, symbol = "greater", ">"

    def forward(self, xp: Xp, a: Array, b: Array) -> Array:
        return xp.greater(a, b)


class GreaterEqual(Comparison):
    """Whether a is at least b; false where one of them is NaN. No gradient.

    forward    y  = [a >= b]
    """

    name, symbol = "greater_equal", "≥"

    def forward(self, xp: Xp, a: Array, b: Array) -> Array:
        return xp.greater_equal(a, b)


class Less(Comparison):
    """Whether a is smaller than b; false where one of them is NaN. No gradient.

    forward    y  = [a < b]
    """

    name, symbol = "less", "<"

    def forward(self, xp: Xp, a: Array, b: Array) -> Array:
        return xp.less(a, b)


class LessEqual(Comparison):
    """Whether a is at most b; false where one of them is NaN. No gradient.

    forward    y  = [a <= b]
    """

    name, symbol = "less_equal", "≤"

    def forward(self, xp: Xp, a: Array, b: Array) -> Array:
        return xp.less_equal(a, b)


class Equal(Comparison):
    """Whether a equals b; NaN does not, not even NaN. No gradient.

    forward    y  = [a = b]
    """

    name, symbol = "equal", "="

    def forward(self, xp: Xp, a: Array, b: Array) -> Array:
        return xp.equal(a, b)


class NotEqual(Comparison):
    """Whether a and b differ; NaN does, even from NaN. No gradient.

    forward    y  = [a ≠ b]
    """

    name, symbol = "not_equal", "≠"

    def forward(self, xp: Xp, a: Array, b: Array) -> Array:
        return xp.not_equal(a, b)


class LogicalNot(Predicate):
    """Whether x is 0, or false. No gradient.

    forward    y  = [x = 0]
    """

    name = "logical_not"

    def forward(self, xp: Xp, x: Array) -> Array:
        return xp.logical_not(x)


class IsNan(Predicate):
    """Whether x is NaN. No gradient.

    forward    y  = [x is NaN]
    """

    name = "isnan"

    def forward(self, xp: Xp, x: Array) -> Array:
        return xp.isnan(x)


class IsFinite(Predicate):
    """Whether x is neither NaN nor infinite. No gradient.

    forward    y  = [-inf < x < inf]
    """

    name = "isfinite"

    def forward(self, xp: Xp, x: Array) -> Array:
        return xp.isfinite(x)


greater, greater_equal, less, less_equal = Greater(), GreaterEqual(), Less(), LessEqual()
equal, not_equal, logical_not = Equal(), NotEqual(), LogicalNot()
isnan, isfinite = IsNan(), IsFinite()

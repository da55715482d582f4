"""Elementwise comparisons and tests: boolean results, without a gradient."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tensorgrad.core.backend import Array, Xp, is_floating
from tensorgrad.core.op import Sample
from tensorgrad.core.operand import Binary, Unary
from tensorgrad.errors import DTypeError

__all__ = [
    "bitwise_and", "bitwise_or", "bitwise_xor", "equal", "greater", "greater_equal", "isfinite", "isnan", "left_shift", "less",
    "less_equal", "logical_and", "logical_not", "logical_or", "logical_xor", "not_equal", "right_shift",
]  # fmt: skip


class Comparison(Binary):
    """A comparison; its test samples have many equal values."""

    signature = "(),()->()"

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        args, _ = super().sample(rng, sizes)
        return tuple(np.asarray(np.round(a)) for a in args), {}


class Predicate(Unary):
    """An elementwise test; its samples include zeros and non-finite numbers."""

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


class Logical(Binary):
    """A logical operation; numbers other than 0 are true."""

    signature = "(),()->()"

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        args, _ = super().sample(rng, sizes)
        return tuple(np.asarray(np.trunc(a)) for a in args), {}


class LogicalAnd(Logical):
    """Whether both a and b are not 0. No gradient.

    forward    y  = [a ≠ 0 and b ≠ 0]
    """

    name = "logical_and"

    def forward(self, xp: Xp, a: Array, b: Array) -> Array:
        return xp.logical_and(a, b)


class LogicalOr(Logical):
    """Whether a or b is not 0, or both. No gradient.

    forward    y  = [a ≠ 0 or b ≠ 0]
    """

    name = "logical_or"

    def forward(self, xp: Xp, a: Array, b: Array) -> Array:
        return xp.logical_or(a, b)


class LogicalXor(Logical):
    """Whether exactly one of a and b is not 0. No gradient.

    forward    y  = [a ≠ 0] ≠ [b ≠ 0]
    """

    name = "logical_xor"

    def forward(self, xp: Xp, a: Array, b: Array) -> Array:
        return xp.logical_xor(a, b)


class Bitwise(Binary):
    """A bitwise operation on integers or booleans. Raises DTypeError for floating numbers."""

    signature = "(),()->()"

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        args, _ = super().sample(rng, sizes)
        if rng.random() < 0.5:
            return tuple(np.asarray(a > 0) for a in args), {}
        return tuple(np.asarray(np.trunc(50 * a)).astype(np.int64) for a in args), {}

    def checked(self, *arrays: Array) -> None:
        for a in arrays:
            if is_floating(getattr(a, "dtype", None) or np.dtype(type(a))):
                raise DTypeError(f"{self.name}: expected booleans or integers, got {getattr(a, 'dtype', type(a).__name__)}")


class BitwiseAnd(Bitwise):
    """a & b: bitwise and of integers, logical and of booleans. No gradient.

    forward    y  = a & b
    """

    name, symbol = "bitwise_and", "&"

    def forward(self, xp: Xp, a: Array, b: Array) -> Array:
        self.checked(a, b)
        return xp.bitwise_and(a, b)


class BitwiseOr(Bitwise):
    """a | b: bitwise or of integers, logical or of booleans. No gradient.

    forward    y  = a | b
    """

    name, symbol = "bitwise_or", "|"

    def forward(self, xp: Xp, a: Array, b: Array) -> Array:
        self.checked(a, b)
        return xp.bitwise_or(a, b)


class BitwiseXor(Bitwise):
    """a ^ b: bitwise exclusive or of integers, logical exclusive or of booleans. No gradient.

    forward    y  = a ^ b
    """

    name, symbol = "bitwise_xor", "^"

    def forward(self, xp: Xp, a: Array, b: Array) -> Array:
        self.checked(a, b)
        return xp.bitwise_xor(a, b)


class Shift(Bitwise):
    """A shift of integers. Raises DTypeError for other numbers."""

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        (a, b), _ = Binary.sample(self, rng, sizes)
        return (np.asarray(np.trunc(50 * a)).astype(np.int64), np.asarray(np.abs(np.trunc(3 * b))).astype(np.int64)), {}

    def checked(self, *arrays: Array) -> None:
        super().checked(*arrays)
        for a in arrays:
            if np.dtype(getattr(a, "dtype", type(a))).kind == "b":
                raise DTypeError(f"{self.name}: expected integers, got bool")


class LeftShift(Shift):
    """a << b: the bits of an integer a shifted left by b places. No gradient.

    forward    y  = a 2^b without the bits that overflow
    """

    name, symbol = "left_shift", "<<"

    def forward(self, xp: Xp, a: Array, b: Array) -> Array:
        self.checked(a, b)
        return xp.left_shift(a, b)


class RightShift(Shift):
    """a >> b: the bits of an integer a shifted right by b places, keeping the sign. No gradient.

    forward    y  = floor(a / 2^b)
    """

    name, symbol = "right_shift", ">>"

    def forward(self, xp: Xp, a: Array, b: Array) -> Array:
        self.checked(a, b)
        return xp.right_shift(a, b)


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
logical_and, logical_or, logical_xor = LogicalAnd(), LogicalOr(), LogicalXor()
bitwise_and, bitwise_or, bitwise_xor = BitwiseAnd(), BitwiseOr(), BitwiseXor()
left_shift, right_shift = LeftShift(), RightShift()
isnan, isfinite = IsNan(), IsFinite()

"""Operations that work on each element alone, with NumPy's broadcasting."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tensorgrad.core import writes
from tensorgrad.core.backend import Array, Xp, namespace
from tensorgrad.core.location import user_location
from tensorgrad.core.node import Node
from tensorgrad.core.op import Op, Rules, Sample, Value
from tensorgrad.core.operand import Binary, Operand, T, Ternary, Unary
from tensorgrad.core.state import state
from tensorgrad.core.tensor import Tensor, wrap
from tensorgrad.errors import DTypeError

__all__ = [
    "abs", "add", "astype", "cast", "clip", "div", "exp", "log", "maximum", "minimum", "mul", "neg", "power", "sign", "sub",
    "where",
]  # fmt: skip


class Neg(Unary):
    """y = -x

    forward    y  = -x
    backward   gx = -g
    """

    name, signature, symbol = "neg", "()->()", "-"

    def forward(self, xp: Xp, x: Array) -> Array:
        return xp.negative(x)

    def backward(self, g: Value, y: Value, x: Value) -> Rules:
        return (lambda: -g,)


class Add(Binary):
    """y = a + b

    forward    y  = a + b
    backward   ga = g,   gb = g
    """

    name, signature, symbol = "add", "(),()->()", "+"

    def forward(self, xp: Xp, a: Array, b: Array) -> Array:
        return xp.add(a, b)

    def backward(self, g: Value, y: Value, a: Value, b: Value) -> Rules:
        return lambda: g, lambda: g


class Sub(Binary):
    """y = a - b

    forward    y  = a - b
    backward   ga = g,   gb = -g
    """

    name, signature, symbol = "sub", "(),()->()", "-"

    def forward(self, xp: Xp, a: Array, b: Array) -> Array:
        return xp.subtract(a, b)

    def backward(self, g: Value, y: Value, a: Value, b: Value) -> Rules:
        return lambda: g, lambda: -g


class Mul(Binary):
    """y = a b, element by element

    forward    y  = a b
    backward   ga = g b,   gb = g a
    """

    name, signature, symbol, reads = "mul", "(),()->()", "×", "a b"

    def forward(self, xp: Xp, a: Array, b: Array) -> Array:
        return xp.multiply(a, b)

    def backward(self, g: Value, y: Value, a: Value, b: Value) -> Rules:
        return lambda: g * b, lambda: g * a


class Div(Binary):
    """y = a / b

    forward    y  = a / b
    backward   ga = g / b,   gb = -g a / b²
    """

    name, signature, symbol, reads = "div", "(),()->()", "÷", "a b"
    domain = (0.4, 3.0)

    def forward(self, xp: Xp, a: Array, b: Array) -> Array:
        return xp.true_divide(a, b)

    def backward(self, g: Value, y: Value, a: Value, b: Value) -> Rules:
        # g / b first: the square of a large or small b would overflow or vanish before the quotient does
        return lambda: g / b, lambda: -(g / b) * (a / b)


class Power(Binary):
    """y = a ** b. A real power: where a is negative, b has to be whole, and then b has no gradient there (NaN).

    0 ** 0 is 1. At a = 0 the derivative with respect to b is 0 for b > 0, and taken as 0 for b = 0; that of a ** 0 with respect
    to a is 0 everywhere.

    forward    y  = a^b
    backward   ga = g b a^(b-1),   gb = g y log(a)          (0 for b = 0, and 0 for a = 0 <= b)
    """

    name, signature, reads = "power", "(),()->()", "y a b"
    domain = (0.4, 3.0)

    def forward(self, xp: Xp, a: Array, b: Array) -> Array:
        return xp.power(a, b)

    def backward(self, g: Value, y: Value, a: Value, b: Value) -> Rules:
        def ga() -> Value:
            if isinstance(b, (int, float)):
                return g * (b * a ** (b - 1 if b else 0))
            # 0 * 0^-1 would be NaN: where both are 0, a is taken as 1
            return g * b * where(a == 0, b == 0, a) ** (b - 1)

        def gb() -> Value:
            if isinstance(a, (int, float)) and a > 0:
                return g * y * math.log(a)
            # 0 * log 0 would be NaN: where a is 0 and b is not negative, a is taken as 1
            return g * y * log(where(a == 0, b >= 0, a))

        return ga, gb


class Abs(Unary):
    """y = |x|. At x = 0 the derivative is taken as 0.

    forward    y  = |x|
    backward   gx = g sign(x)
    """

    name, signature, reads = "abs", "()->()", "x"
    kinks = (0.0,)

    def forward(self, xp: Xp, x: Array) -> Array:
        return xp.absolute(x)

    def backward(self, g: Value, y: Value, x: Value) -> Rules:
        return (lambda: g * sign(x),)


class Sign(Unary):
    """-1, 0 or 1 as x is negative, 0 or positive. The derivative is 0, and taken as 0 at x = 0.

    forward    y  = sign x
    backward   gx = 0
    """

    name, signature = "sign", "()->()"
    kinks = (0.0,)

    def forward(self, xp: Xp, x: Array) -> Array:
        return xp.sign(x)

    def backward(self, g: Value, y: Value, x: Value) -> Rules:
        return (None,)


class Exp(Unary):
    """y = exp(x)

    forward    y  = e^x
    backward   gx = g y
    """

    name, signature, reads = "exp", "()->()", "y"

    def forward(self, xp: Xp, x: Array) -> Array:
        return xp.exp(x)

    def backward(self, g: Value, y: Value, x: Value) -> Rules:
        return (lambda: g * y,)


class Log(Op):
    """y = log(x), the natural logarithm. Of a recorded softmax it is evaluated from the logits.

    forward    y  = ln x
    backward   gx = g / x
    """

    name, signature, reads = "log", "()->()", "x"
    domain = (0.4, 3.0)

    def __call__(self, x: Operand[T]) -> T | Array:
        if isinstance(x, Tensor) and (node := x.node) is not None and node.op.log is not None and node.saved and state.fusing:
            return self.apply(x) if writes.is_lent(x._data) else self.of_result(x, node)  # lent, it may be another value by now
        return self.apply(x)

    def forward(self, xp: Xp, x: Array) -> Array:
        return xp.log(x)

    def of_result(self, p: Tensor, node: Node) -> Tensor:
        """log p, recorded as such, but with the value that the argument of `node`, which made p, gives by `node.op.log`.

        The new node keeps its output, so that fusion can make one node of the two.
        """
        assert node.op.log is not None
        (z,) = node.saved
        value = node.op.log.forward(namespace([z]), z, **node.attrs)
        return wrap(value, Node(self, (node,), {}, (p._data,), value, value.shape, value.dtype, made=user_location()))

    def backward(self, g: Value, y: Value, x: Value) -> Rules:
        return (lambda: g / x,)


class Where(Ternary):
    """a where cond holds (is not 0), b elsewhere. cond is data; what is not chosen has gradient 0, whatever g is.

    forward    y  = a if cond else b
    backward   ga = g if cond else 0,   gb = 0 if cond else g
    """

    name, signature, reads, data = "where", "(),(),()->()", "cond", "cond"

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        (cond, a, b), _ = super().sample(rng, sizes)
        return (np.asarray(cond > 0), a, b), {}

    def forward(self, xp: Xp, cond: Array, a: Array, b: Array) -> Array:
        return xp.where(cond if xp is np else xp.asarray(cond), a, b)  # CuPy's condition is an array

    def backward(self, g: Value, y: Value, cond: Value, a: Value, b: Value) -> Rules:
        return None, lambda: where(cond, g, 0), lambda: where(cond, 0, g)


class Maximum(Binary):
    """The larger of a and b. Where they are equal the whole gradient goes to a, the first argument.

    forward    y  = a if a >= b else b
    backward   ga = g * [a >= b],   gb = g * [a < b]
    """

    name, signature, symbol, reads = "maximum", "(),()->()", "max", "a b"

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        return sample_different(self, rng, sizes)

    def forward(self, xp: Xp, a: Array, b: Array) -> Array:
        return xp.maximum(a, b)

    def backward(self, g: Value, y: Value, a: Value, b: Value) -> Rules:
        return lambda: where(a >= b, g, 0), lambda: where(a >= b, 0, g)


class Minimum(Binary):
    """The smaller of a and b. Where they are equal the whole gradient goes to a, the first argument.

    forward    y  = a if a <= b else b
    backward   ga = g * [a <= b],   gb = g * [a > b]
    """

    name, signature, symbol, reads = "minimum", "(),()->()", "min", "a b"

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        return sample_different(self, rng, sizes)

    def forward(self, xp: Xp, a: Array, b: Array) -> Array:
        return xp.minimum(a, b)

    def backward(self, g: Value, y: Value, a: Value, b: Value) -> Rules:
        return lambda: where(a <= b, g, 0), lambda: where(a <= b, 0, g)


def sample_different(op: Op, rng: np.random.Generator, sizes: Sequence[int]) -> Sample:
    """Two arguments of which no two elements are closer than 0.05."""
    (a, b), _ = Op.sample(op, rng, sizes)
    return (np.asarray(np.round(a, 1)), np.asarray(np.round(b, 1) + 0.05)), {}


class Clip(Op):
    """x kept within low and high (None: no bound). The derivative is 1 inside and at the bounds, 0 outside.

    Bounds that are arrays or Tensors are compared element by element, as minimum(maximum(x, low), high).
    Raises ValueError if both are None, or low is above high.

    forward    y  = min(max(x, low), high)
    backward   gx = g * [x = y]
    """

    name, signature, reads = "clip", "()->()", "y x"
    kinks = (-1.0, 0.5)

    def __call__(self, x: Operand[T], low: Operand[T] | None = None, high: Operand[T] | None = None) -> T | Array:
        low, high = (bound.item() if isinstance(bound, np.generic) else bound for bound in (low, high))
        if low is None and high is None:
            raise ValueError("clip: low and high are both None, expected at least one bound")
        if (low is None or isinstance(low, (int, float))) and (high is None or isinstance(high, (int, float))):
            if low is not None and high is not None and low > high:
                raise ValueError(f"clip: low is {low} and high is {high}, expected low <= high")
            return self.apply(x, low=low, high=high)
        x = x if low is None else maximum(x, low)
        return x if high is None else minimum(x, high)

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        args, _ = super().sample(rng, sizes)
        low, high = ((-1.0, 0.5), (None, 0.5), (-1.0, None))[rng.integers(3)]
        return args, {"low": low, "high": high}

    def forward(self, xp: Xp, x: Array, *, low: float | None, high: float | None) -> Array:
        return xp.clip(x, low, high)

    def backward(self, g: Value, y: Value, x: Value, *, low: float | None, high: float | None) -> Rules:
        return (lambda: where(x == y, g, 0),)


class AsType(Op):
    """y = x in another dtype. Integers and booleans have no gradient: for such a dtype the op is `cast`.

    Raises DTypeError for a dtype that a Tensor cannot have.

    forward    y  = x
    backward   gx = g, in the dtype of x
    """

    name, signature = "astype", "()->()"

    def __call__(self, x: Operand[T], dtype: np.typing.DTypeLike) -> T | Array:
        try:
            dtype = np.dtype(dtype)
        except TypeError as error:
            raise DTypeError(f"astype: {error}; expected a floating, integer or boolean dtype") from error
        if dtype.kind == "f":
            return self.apply(x, dtype=dtype)
        if dtype.kind not in "biu":
            raise DTypeError(f"astype: expected a floating, integer or boolean dtype, got {dtype}")
        return cast(x, dtype=dtype)

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        args, _ = super().sample(rng, sizes)
        return args, {"dtype": np.float64}

    def forward(self, xp: Xp, x: Array, *, dtype: Any) -> Array:
        return xp.asarray(x).astype(dtype)

    def backward(self, g: Value, y: Value, x: Value, *, dtype: Any) -> Rules:
        return (lambda: astype(g, x.dtype),)


class Cast(Op):
    """What `astype` does for integers and booleans: x rounded towards 0, or whether x is not 0. No gradient.

    forward    y  = trunc(x), or [x is not 0]
    """

    name, signature = "cast", "()->()"

    def __call__(self, x: Operand[T], dtype: np.typing.DTypeLike) -> T | Array:
        return self.apply(x, dtype=np.dtype(dtype))

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        args, _ = super().sample(rng, sizes)
        return args, {"dtype": np.int64 if rng.random() < 0.5 else np.bool_}

    def forward(self, xp: Xp, x: Array, *, dtype: Any) -> Array:
        return xp.asarray(x).astype(dtype)


neg, add, sub, mul, div, power = Neg(), Add(), Sub(), Mul(), Div(), Power()
abs, sign = Abs(), Sign()
exp, log = Exp(), Log()
where, maximum, minimum, clip = Where(), Maximum(), Minimum(), Clip()
astype, cast = AsType(), Cast()

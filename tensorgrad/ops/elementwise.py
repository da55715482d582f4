"""Elementwise operations with NumPy's broadcasting."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tensorgrad.core.arguments import dtype_of
from tensorgrad.core.arithmetic import floating, narrowest
from tensorgrad.core.backend import Array, Xp, is_floating, is_half, on_gpu
from tensorgrad.core.op import Op, Rules, Sample, Tangents, Value
from tensorgrad.core.operand import Binary, Operand, T, Ternary, Unary
from tensorgrad.core.state import state
from tensorgrad.core.tensor import Tensor, raw
from tensorgrad.kernels import common, reference
from tensorgrad.ops.compare import equal, isfinite

__all__ = [
    "abs", "add", "astype", "cast", "div", "div_grad", "maximum", "minimum", "mul", "mul_grad", "neg", "sign", "sub",
    "where",
]  # fmt: skip


NUMBERS = "fiubV"  # kinds of dtypes; NumPy sees bfloat16 as kind V


class Neg(Unary):
    """y = -x

    forward    y  = -x
    backward   gx = -g
    """

    name, signature, symbol = "neg", "()->()", "-"
    linear = "x"
    keeps_origin = True

    def forward(self, xp: Xp, x: Array) -> Array:
        return xp.negative(x)

    def backward(self, g: Value, y: Value, x: Value) -> Rules:
        return (lambda: -g,)


class Add(Binary):
    """y = a + b

    forward    y  = a + b
    backward   ga = g,   gb = g
    tangent    ty = ta + tb
    """

    name, signature, symbol = "add", "(),()->()", "+"
    keeps_origin = True

    def forward(self, xp: Xp, a: Array, b: Array) -> Array:
        return xp.add(a, b)

    def backward(self, g: Value, y: Value, a: Value, b: Value) -> Rules:
        return lambda: g, lambda: g

    def jvp(self, y: Value, a: Value, b: Value) -> Tangents:
        return lambda t: t, lambda t: t


class Sub(Binary):
    """y = a - b

    forward    y  = a - b
    backward   ga = g,   gb = -g
    tangent    ty = ta - tb
    """

    name, signature, symbol = "sub", "(),()->()", "-"
    keeps_origin = True

    def forward(self, xp: Xp, a: Array, b: Array) -> Array:
        return xp.subtract(a, b)

    def backward(self, g: Value, y: Value, a: Value, b: Value) -> Rules:
        return lambda: g, lambda: -g

    def jvp(self, y: Value, a: Value, b: Value) -> Tangents:
        return lambda t: t, lambda t: -t


class Mul(Binary):
    """y = a b, element by element

    forward    y  = a b
    backward   ga = g b,   gb = g a
    tangent    ty = ta b + a tb
    """

    name, signature, symbol, reads = "mul", "(),()->()", "×", "a b"

    def forward(self, xp: Xp, a: Array, b: Array) -> Array:
        return xp.multiply(a, b)

    def backward(self, g: Value, y: Value, a: Value, b: Value) -> Rules:
        return lambda: mul_grad(g, b), lambda: mul_grad(g, a)

    def jvp(self, y: Value, a: Value, b: Value) -> Tangents:
        return lambda t: mul_tangent(t, b), lambda t: mul_tangent(t, a)


class MulGrad(Binary):
    """A gradient g times a derivative d: exactly 0 where g is 0, even where d is infinite or NaN.

    Elements of the result that `where`, an index, a mask or a bound has excluded have g = 0. They have no influence, so they
    contribute 0, also at a pole, where 0 times infinity would be NaN.

    forward    gx = g d,   0 where g = 0
    backward   gg = h d,   gd = h g,   0 where h = 0          (h: the gradient of gx)
    tangent    ty = tg d + td g,   each 0 where its factor t is
    """

    name, signature, symbol, reads = "mul_grad", "(),()->()", "×", "g d"

    def __call__(self, g: Operand[T], d: Operand[T], /) -> T | Array:
        # fast path for products in rules of an eager step
        if type(g) is type(d) is np.ndarray and g.dtype.kind in NUMBERS and d.dtype.kind in NUMBERS:
            return reference.mul_grad(g, d)
        return mul(g, d) if isinstance(d, (int, float)) and math.isfinite(d) else self.apply(g, d)

    def forward(self, xp: Xp, g: Array, d: Array) -> Array:
        return common.mul_grad(g, d) if xp is np else xp.where(g == 0, g, g * d)

    def backward(self, h: Value, y: Value, g: Value, d: Value) -> Rules:
        return lambda: mul_grad(h, d), lambda: mul_grad(h, g)

    def jvp(self, y: Value, g: Value, d: Value) -> Tangents:
        return lambda t: mul_tangent(t, d), lambda t: mul_tangent(t, g)


class Div(Binary):
    """y = a / b

    forward    y  = a / b
    backward   ga = g / b,   gb = -g a / b²
    tangent    ty = (ta - tb a / b) / b
    """

    name, signature, symbol, reads = "div", "(),()->()", "÷", "a b"
    domain = (0.4, 3.0)

    def forward(self, xp: Xp, a: Array, b: Array) -> Array:
        return xp.true_divide(a, b)

    def backward(self, g: Value, y: Value, a: Value, b: Value) -> Rules:
        # g / b first: the square of a large or small b would overflow or vanish before the quotient does
        return lambda: div_grad(g, b), lambda: -div_grad(mul_grad(g, a / b), b)

    def jvp(self, y: Value, a: Value, b: Value) -> Tangents:
        return lambda t: div_grad(t, b), lambda t: -div_grad(mul_tangent(t, a / b), b)


class DivGrad(Binary):
    """A gradient g divided by d: exactly 0 where g is 0, even where d is 0 or NaN; see MulGrad.

    forward    gx = g / d,   0 where g = 0
    backward   gg = h / d,   gd = -h gx / d,   0 where h = 0          (h: the gradient of gx)
    tangent    ty = (tg - td gx) / d,   each 0 where its factor t is
    """

    name, signature, symbol, reads = "div_grad", "(),()->()", "÷", "y d"
    domain = (0.4, 3.0)

    def __call__(self, g: Operand[T], d: Operand[T], /) -> T | Array:
        if type(g) is type(d) is np.ndarray and g.dtype.kind in NUMBERS and d.dtype.kind in NUMBERS:
            return reference.div_grad(g, d)
        return div(g, d) if isinstance(d, (int, float)) and d and not math.isnan(d) else self.apply(g, d)

    def forward(self, xp: Xp, g: Array, d: Array) -> Array:
        return common.div_grad(g, d) if xp is np else xp.where(g == 0, g, g / d)

    def backward(self, h: Value, y: Value, g: Value, d: Value) -> Rules:
        return lambda: div_grad(h, d), lambda: -mul_grad(div_grad(h, d), y)

    def jvp(self, y: Value, g: Value, d: Value) -> Tangents:
        return lambda t: div_grad(t, d), lambda t: -mul_tangent(div_grad(t, d), y)


def mul_tangent(t: Value, d: Value) -> Value:
    """A tangent t times a derivative d: exactly 0 where one of them is 0, even where the other is infinite or NaN.

    Excluded elements have no influence in either direction: the reverse walk reaches a pole with g = 0, forward mode starts at
    the pole and meets a derivative of 0.
    """
    recorded = isinstance(t, Tensor) or isinstance(d, Tensor)
    if not recorded and not on_gpu(t):
        return reference.mul_tangent(t, d)
    y = mul_grad(t, d)
    if recorded and not state.tracing and bool(np.isfinite(raw(t)).all()):
        return y
    return where(isfinite(t), y, where(equal(d, 0), 0.0, y))


class Abs(Unary):
    """y = |x|. At x = 0 the derivative is taken as 0.

    forward    y  = |x|
    backward   gx = g sign(x)
    tangent    ty = tx sign(x)
    """

    name, signature, reads = "abs", "()->()", "x"
    kinks = (0.0,)

    def forward(self, xp: Xp, x: Array) -> Array:
        return xp.absolute(x)

    def backward(self, g: Value, y: Value, x: Value) -> Rules:
        return (lambda: mul_grad(g, sign(x)),)

    def jvp(self, y: Value, x: Value) -> Tangents:
        return (lambda t: where(x > 0, t, where(x < 0, -t, 0)),)


class Sign(Unary):
    """-1, 0 or 1 as x is negative, 0 or positive. The derivative is 0, and taken as 0 at x = 0.

    forward    y  = sign x
    backward   gx = 0
    tangent    ty = 0
    """

    name, signature = "sign", "()->()"
    kinks = (0.0,)

    def forward(self, xp: Xp, x: Array) -> Array:
        return xp.sign(x)

    def backward(self, g: Value, y: Value, x: Value) -> Rules:
        return (None,)

    def jvp(self, y: Value, x: Value) -> Tangents:
        return (None,)


class Where(Ternary):
    """a where cond is true (not 0), b elsewhere. cond is data; elements that are not chosen have gradient 0, whatever g is.

    forward    y  = a if cond else b
    backward   ga = g if cond else 0,   gb = 0 if cond else g
    tangent    ty = ta if cond else tb
    """

    name, signature, reads, data = "where", "(),(),()->()", "cond", "cond"

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        (cond, a, b), _ = super().sample(rng, sizes)
        return (np.asarray(cond > 0), a, b), {}

    def forward(self, xp: Xp, cond: Array, a: Array, b: Array) -> Array:
        return xp.where(cond if xp is np else xp.asarray(cond), a, b)  # CuPy's condition is an array

    def backward(self, g: Value, y: Value, cond: Value, a: Value, b: Value) -> Rules:
        return None, lambda: where(cond, g, 0), lambda: where(cond, 0, g)

    def jvp(self, y: Value, cond: Value, a: Value, b: Value) -> Tangents:
        return None, lambda t: where(cond, t, 0), lambda t: where(cond, 0, t)


class Maximum(Binary):
    """The larger of a and b. Where they are equal the whole gradient goes to a, the first argument.

    forward    y  = a if a >= b else b
    backward   ga = g * [a >= b],   gb = g * [a < b]
    tangent    ty = ta if a >= b else tb
    """

    name, signature, symbol, reads = "maximum", "(),()->()", "max", "a b"

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        return sample_different(self, rng, sizes)

    def forward(self, xp: Xp, a: Array, b: Array) -> Array:
        return xp.maximum(a, b)

    def backward(self, g: Value, y: Value, a: Value, b: Value) -> Rules:
        return lambda: where(a >= b, g, 0), lambda: where(a >= b, 0, g)

    def jvp(self, y: Value, a: Value, b: Value) -> Tangents:
        return lambda t: where(a >= b, t, 0), lambda t: where(a >= b, 0, t)


class Minimum(Binary):
    """The smaller of a and b. Where they are equal the whole gradient goes to a, the first argument.

    forward    y  = a if a <= b else b
    backward   ga = g * [a <= b],   gb = g * [a > b]
    tangent    ty = ta if a <= b else tb
    """

    name, signature, symbol, reads = "minimum", "(),()->()", "min", "a b"

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        return sample_different(self, rng, sizes)

    def forward(self, xp: Xp, a: Array, b: Array) -> Array:
        return xp.minimum(a, b)

    def backward(self, g: Value, y: Value, a: Value, b: Value) -> Rules:
        return lambda: where(a <= b, g, 0), lambda: where(a <= b, 0, g)

    def jvp(self, y: Value, a: Value, b: Value) -> Tangents:
        return lambda t: where(a <= b, t, 0), lambda t: where(a <= b, 0, t)


def sample_different(op: Op, rng: np.random.Generator, sizes: Sequence[int]) -> Sample:
    """Two arguments whose elements differ by at least 0.05."""
    (a, b), _ = Op.sample(op, rng, sizes)
    return (np.asarray(np.round(a, 1)), np.asarray(np.round(b, 1) + 0.05)), {}


class AsType(Op):
    """y = x in another dtype. For integers and booleans, which have no gradient, the op is `cast`.

    Raises DTypeError for unsupported dtypes.

    forward    y  = x
    backward   gx = g, in the dtype of x          (done by the engine)
    tangent    ty = tx, in the dtype of y
    """

    name, signature = "astype", "()->()"
    exact = True

    def __call__(self, x: Operand[T], dtype: np.typing.DTypeLike) -> T | Array:
        dtype = dtype_of(self.name, dtype)
        return self.apply(x, dtype=dtype) if is_floating(dtype) else cast(x, dtype=dtype)

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        args, _ = super().sample(rng, sizes)
        return args, {"dtype": np.float64}

    def forward(self, xp: Xp, x: Array, *, dtype: Any) -> Array:
        return xp.asarray(x).astype(dtype)

    def backward(self, g: Value, y: Value, x: Value, *, dtype: Any) -> Rules:
        return (lambda: g,)

    def jvp(self, y: Value, x: Value, *, dtype: Any) -> Tangents:
        return (lambda t: t,)


class Cast(Op):
    """`astype` for integers and booleans: x rounded towards 0, or whether x is not 0. No gradient.

    forward    y  = trunc(x), or [x is not 0]
    """

    name, signature, public = "cast", "()->()", "astype"
    exact = True

    def __call__(self, x: Operand[T], dtype: np.typing.DTypeLike) -> T | Array:
        return self.apply(x, dtype=dtype_of(self.name, dtype))

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        args, _ = super().sample(rng, sizes)
        return args, {"dtype": np.int64 if rng.random() < 0.5 else np.bool_}

    def forward(self, xp: Xp, x: Array, *, dtype: Any) -> Array:
        return xp.asarray(x).astype(dtype)


def as_wide(x: Value) -> Value:
    """An operand in the dtype in which a function of several ops computes, as `core.arithmetic` does for one op."""
    dtype = x.dtype
    if dtype.char in "fd":
        return x
    target = np.dtype(np.float32) if is_half(dtype) else floating(dtype)
    return x if target == dtype else astype(x, target)


def as_narrow(y: Value, *operands: Value | None) -> Value:
    """The result of such a function, rounded to half precision if its operands have it."""
    target = narrowest([x.dtype for x in operands if x is not None])
    return y if target is None or y.dtype != np.float32 else astype(y, target)


neg, add, sub, mul, div = Neg(), Add(), Sub(), Mul(), Div()
mul_grad, div_grad = MulGrad(), DivGrad()
abs, sign = Abs(), Sign()
where, maximum, minimum = Where(), Maximum(), Minimum()
astype, cast = AsType(), Cast()

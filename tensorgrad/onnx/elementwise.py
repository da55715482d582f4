"""ONNX counterparts of elementwise ops."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tensorgrad.onnx.table import counterpart, unsupported
from tensorgrad.onnx.writer import Use, Value, Writer, wide

PLAIN = {
    "abs": "Abs", "add": "Add", "arccos": "Acos", "arcsin": "Asin", "arctan": "Atan", "ceil": "Ceil", "cos": "Cos",
    "div": "Div", "erf": "Erf", "exp": "Exp", "floor": "Floor", "log": "Log", "maximum": "Max", "minimum": "Min", "mul": "Mul",
    "neg": "Neg", "power": "Pow", "reciprocal": "Reciprocal", "sigmoid": "Sigmoid", "sign": "Sign", "sin": "Sin",
    "sqrt": "Sqrt", "sub": "Sub", "tanh": "Tanh",
}  # fmt: skip
BOOLEAN_OPERATORS = {"Add": "Or", "Max": "Or", "Mul": "And", "Min": "And"}
COMPARISONS = {
    "equal": "Equal", "greater": "Greater", "greater_equal": "GreaterOrEqual", "less": "Less", "less_equal": "LessOrEqual",
}  # fmt: skip
LOGICAL = {"logical_and": "And", "logical_or": "Or", "logical_xor": "Xor", "logical_not": "Not"}
BITS = {"bitwise_and": ("And", "BitwiseAnd"), "bitwise_or": ("Or", "BitwiseOr"), "bitwise_xor": ("Xor", "BitwiseXor")}


def plain(name: str, kind: str) -> None:
    @counterpart(name)
    def export_op(w: Writer, u: Use) -> Value:
        xs = u.operands()
        if u.dtype.kind in "biu" and kind in ("Ceil", "Floor"):
            return xs[0]
        if u.dtype == bool and kind in BOOLEAN_OPERATORS:
            return w(BOOLEAN_OPERATORS[kind], *xs)
        return xs[0] if u.dtype.kind in "bu" and kind == "Abs" else w(kind, *xs)


for _name, _kind in PLAIN.items():
    plain(_name, _kind)


def comparison(name: str, kind: str) -> None:
    @counterpart(name)
    def export_op(w: Writer, u: Use) -> Value:
        xs = u.promoted()
        if xs[0].dtype == bool and kind != "Equal":
            xs = [w.cast(x, np.int32) for x in xs]
        return w(kind, *xs, dtype=bool)


for _name, _kind in COMPARISONS.items():
    comparison(_name, _kind)


def logical(name: str, kind: str) -> None:
    @counterpart(name)
    def export_op(w: Writer, u: Use) -> Value:
        return w(kind, *[w.as_value(v, bool) for v in u.raw])


for _name, _kind in LOGICAL.items():
    logical(_name, _kind)


def bitwise(name: str, boolean_kind: str, integer_kind: str) -> None:
    @counterpart(name)
    def export_op(w: Writer, u: Use) -> Value:
        return w(boolean_kind if u.dtype == bool else integer_kind, *u.operands())


for _name, _kinds in BITS.items():
    bitwise(_name, *_kinds)


def number(w: Writer, like: Value, value: float) -> Value:
    """A constant with the dtype of an array."""
    return w.constant(np.asarray(value, like.dtype))


def select(w: Writer, condition: Value, a: Value, b: Value, shape: Any = None) -> Value:
    """a where the condition holds, else b; booleans without Where, which onnxruntime only has for numbers."""
    if a.dtype != bool:
        return w("Where", condition, a, b, dtype=a.dtype, shape=shape)
    return w("Or", w("And", condition, a), w("And", w("Not", condition), b), shape=shape)


@counterpart("relu")
def relu(w: Writer, u: Use) -> Value:
    return rectified(w, *u.operands())


def rectified(w: Writer, x: Value) -> Value:
    if x.dtype == bool:
        return x
    return w("Relu", x) if x.dtype.kind == "f" else w("Max", x, number(w, x, 0))


@counterpart("not_equal")
def not_equal(w: Writer, u: Use) -> Value:
    return w("Not", w("Equal", *u.promoted(), dtype=bool))


@counterpart("isnan")
def isnan(w: Writer, u: Use) -> Value:
    (x,) = u.promoted()
    if x.dtype.kind in "biu":
        return w("And", w.cast(x, bool), w.constant(np.False_))
    return w("IsNaN", x, dtype=bool)


@counterpart("isfinite")
def isfinite(w: Writer, u: Use) -> Value:
    (x,) = u.promoted()
    if x.dtype.kind in "biu":
        return w("Or", w.cast(x, bool), w.constant(np.True_))
    return w("Less", w("Abs", x), number(w, x, math.inf), dtype=bool)


@counterpart("left_shift", "right_shift")
def shift(w: Writer, u: Use) -> Value:
    """BitShift only supports unsigned integers: negative ones are inverted before a right shift."""
    x, n = u.operands()
    left = u.node.op.forward(np, np.int64(1), np.int64(1)) == 2
    if x.dtype == bool:
        x, n = w.cast(x, np.int64), w.cast(n, np.int64)
    count = w.cast(n, np.uint64)
    if left or x.dtype == np.uint64:
        shifted = w("BitShift", w.cast(x, np.uint64), count, direction="LEFT" if left else "RIGHT")
        return w.cast(shifted, x.dtype)

    def right(v: Value) -> Value:
        return w.cast(w("BitShift", w.cast(v, np.uint64), count, direction="RIGHT"), np.int64)

    is_negative = w("Less", x, number(w, x, 0), dtype=bool)
    return select(w, is_negative, w("BitwiseNot", right(w("BitwiseNot", x))), right(x))


@counterpart("astype", "cast")
def cast(w: Writer, u: Use) -> Value:
    return w.as_value(u.raw[0], u.dtype)


@counterpart("where")
def where(w: Writer, u: Use) -> Value:
    a, b = (w.as_value(v, wide(u.dtype)) for v in u.raw[1:])
    return select(w, w.as_value(u.raw[0], bool), a, b)


@counterpart("clip")
def clip(w: Writer, u: Use) -> Value:
    (x,) = u.operands()
    low, high = (None if n is None else number(w, x, n) for n in (u.attrs["low"], u.attrs["high"]))
    return w("Clip", x, low, high) if low is not None or high is not None else x


@counterpart("square")
def square(w: Writer, u: Use) -> Value:
    (x,) = u.operands()
    return w("Mul", x, x)


@counterpart("log2", "log10")
def log_of(w: Writer, u: Use) -> Value:
    (x,) = u.operands()
    return w("Mul", w("Log", x), number(w, x, float(u.node.op.forward(np, np.float64(math.e)))))


@counterpart("log1p")
def log1p(w: Writer, u: Use) -> Value:
    return log1p_of(w, *u.operands())


def log1p_of(w: Writer, x: Value) -> Value:
    """x log(1 + x) / ((1 + x) - 1) is accurate although 1 + x is rounded; x itself where 1 + x is 1."""
    one = number(w, x, 1)
    s = w("Add", x, one)
    is_one = w("Equal", s, one, dtype=bool)
    is_infinite = w("Equal", s, number(w, x, math.inf), dtype=bool)
    d = select(w, is_one, one, w("Sub", s, one))
    y = w("Mul", w("Log", s), w("Div", x, d))
    return select(w, is_infinite, s, select(w, is_one, x, y))


@counterpart("expm1")
def expm1(w: Writer, u: Use) -> Value:
    return expm1_of(w, *u.operands())


def expm1_of(w: Writer, x: Value) -> Value:
    """tanh(x / 2) (e^x + 1), which keeps its precision near 0."""
    return w("Mul", w("Tanh", w("Mul", x, number(w, x, 0.5))), w("Add", w("Exp", x), number(w, x, 1)))


@counterpart("hypot")
def hypot(w: Writer, u: Use) -> Value:
    """The larger operand times sqrt(1 + r²), so that no square overflows."""
    a, b = (w("Abs", x) for x in u.operands())
    top, bottom = w("Max", a, b), w("Min", a, b)
    is_special = w("Or", w("Equal", top, number(w, a, 0), dtype=bool), w("Equal", top, number(w, a, math.inf), dtype=bool))
    r = w("Div", bottom, select(w, is_special, number(w, a, 1), top))
    y = w("Mul", top, w("Sqrt", w("Add", w("Mul", r, r), number(w, a, 1))))
    return select(w, is_special, top, y)


@counterpart("logaddexp")
def logaddexp(w: Writer, u: Use) -> Value:
    a, b = u.operands()
    y = w("Add", w("Max", a, b), softplus(w, w("Neg", w("Abs", w("Sub", a, b)))))
    return select(w, w("Equal", a, b, dtype=bool), w("Add", a, number(w, a, math.log(2))), y)


@counterpart("arctan2")
def arctan2(w: Writer, u: Use) -> Value:
    """atan(a / b), plus or minus pi where b < 0."""
    a, b = u.operands()
    zero, half = number(w, a, 0), number(w, a, math.pi / 2)
    on_axis = w("Equal", b, zero, dtype=bool)
    angle = w("Atan", w("Div", a, select(w, on_axis, number(w, a, 1), b)))
    offset = select(w, w("Less", a, zero, dtype=bool), number(w, a, -math.pi), number(w, a, math.pi))
    shifted = select(w, w("Less", b, zero, dtype=bool), w("Add", angle, offset), angle)
    return select(w, on_axis, w("Mul", w("Sign", a), half), shifted)


@counterpart("mod")
def mod(w: Writer, u: Use) -> Value:
    """With the sign of b, as in Python; ONNX has that only for integers."""
    a, b = u.operands()
    return remainder(w, a, b)


def remainder(w: Writer, a: Value, b: Value) -> Value:
    if a.dtype.kind in "iu":
        return w("Mod", a, b)
    zero = number(w, a, 0)
    r = w("Mod", a, b, fmod=1)
    signs_differ = w("Less", w("Mul", w("Sign", r), w("Sign", b)), zero, dtype=bool)
    return select(w, signs_differ, w("Add", r, b), r)


@counterpart("floordiv")
def floordiv(w: Writer, u: Use) -> Value:
    a, b = u.operands()
    y = w("Div", w("Sub", a, remainder(w, a, b)), b)
    return y if a.dtype.kind in "iu" else w("Round", y)


@counterpart("round")
def rounded(w: Writer, u: Use) -> Value:
    (x,) = u.operands()
    n = int(u.attrs["decimals"])
    if x.dtype.kind in "biu" and n >= 0:
        return x
    x = w.cast(x, np.float64) if x.dtype.kind in "biu" else x
    scale = number(w, x, 10.0 ** abs(n))
    apply, undo = ("Mul", "Div") if n > 0 else ("Div", "Mul")
    return w("Round", x) if not n else w(undo, w("Round", w(apply, x, scale)), scale)


@counterpart("trunc")
def trunc(w: Writer, u: Use) -> Value:
    (x,) = u.operands()
    return x if x.dtype.kind in "biu" else w("Mul", w("Sign", x), w("Floor", w("Abs", x)))


# onnxruntime has the following only for float32; in float64 they are composed of operators that it has


def is_double(x: Value) -> bool:
    return bool(x.dtype == np.float64)


def positive_or(w: Writer, x: Value, otherwise: Value) -> Value:
    """x where it is positive, else `otherwise`."""
    return select(w, w("Greater", x, number(w, x, 0), dtype=bool), x, otherwise)


@counterpart("leaky_relu")
def leaky_relu(w: Writer, u: Use) -> Value:
    (x,) = u.operands()
    slope = float(u.attrs["negative_slope"])
    if not is_double(x):
        return w("LeakyRelu", x, alpha=slope)
    return positive_or(w, x, w("Mul", x, number(w, x, slope)))


@counterpart("elu")
def elu(w: Writer, u: Use) -> Value:
    (x,) = u.operands()
    alpha = float(u.attrs["alpha"])
    if not is_double(x):
        return w("Elu", x, alpha=alpha)
    return positive_or(w, x, w("Mul", expm1_of(w, w("Min", x, number(w, x, 0))), number(w, x, alpha)))


@counterpart("softplus")
def softplus_of(w: Writer, u: Use) -> Value:
    return softplus(w, *u.operands())


def softplus(w: Writer, x: Value) -> Value:
    if not is_double(x):
        return w("Softplus", x)
    return w("Add", w("Max", x, number(w, x, 0)), log1p_of(w, w("Exp", w("Neg", w("Abs", x)))))


@counterpart("sinh")
def sinh(w: Writer, u: Use) -> Value:
    (x,) = u.operands()
    if not is_double(x):
        return w("Sinh", x)
    return w("Mul", w("Sub", expm1_of(w, x), expm1_of(w, w("Neg", x))), number(w, x, 0.5))


@counterpart("cosh")
def cosh(w: Writer, u: Use) -> Value:
    (x,) = u.operands()
    return w("Mul", w("Add", w("Exp", x), w("Exp", w("Neg", x))), number(w, x, 0.5)) if is_double(x) else w("Cosh", x)


@counterpart("tan")
def tan(w: Writer, u: Use) -> Value:
    (x,) = u.operands()
    return w("Div", w("Sin", x), w("Cos", x)) if is_double(x) else w("Tan", x)


@counterpart("gelu")
def gelu(w: Writer, u: Use) -> Value:
    (x,) = u.operands()
    if not is_double(x) or u.attrs["approximate"] == "none":
        return w("Gelu", x, approximate=u.attrs["approximate"])
    cube = w("Mul", w("Mul", x, w("Mul", x, x)), number(w, x, 0.044715))
    inner = w("Mul", w("Add", x, cube), number(w, x, math.sqrt(2 / math.pi)))
    return w("Mul", w("Mul", x, number(w, x, 0.5)), w("Add", w("Tanh", inner), number(w, x, 1)))


@counterpart("silu")
def silu(w: Writer, u: Use) -> Value:
    (x,) = u.operands()
    return w("Mul", x, w("Sigmoid", x))


@counterpart("logsigmoid")
def logsigmoid(w: Writer, u: Use) -> Value:
    return w("Neg", softplus(w, w("Neg", *u.operands())))


@counterpart("log_complement_sigmoid")
def log_complement_sigmoid(w: Writer, u: Use) -> Value:
    return w("Neg", softplus(w, *u.operands()))


def as_numbers(w: Writer, u: Use) -> list[Value]:
    """The arguments in the dtype of the computation, booleans as 0 and 1; nonzero results become True."""
    return [w.cast(x, np.int32) if x.dtype == bool else x for x in u.operands()]


# Ops of derivatives, for models that return one


@counterpart("relu_grad")
def relu_grad(w: Writer, u: Use) -> Value:
    g, unit = as_numbers(w, u)
    return select(w, w("Greater", unit, number(w, unit, 0), dtype=bool), g, number(w, g, 0))


@counterpart("sigmoid_grad")
def sigmoid_grad(w: Writer, u: Use) -> Value:
    g, s = u.operands()
    return w("Mul", g, w("Mul", s, w("Sub", number(w, s, 1), s)))


@counterpart("tanh_grad")
def tanh_grad(w: Writer, u: Use) -> Value:
    g, t = u.operands()
    return w("Mul", g, w("Sub", number(w, t, 1), w("Mul", t, t)))


@counterpart("mul_grad", "div_grad")
def with_zeros(w: Writer, u: Use) -> Value:
    g, d = as_numbers(w, u)
    kind = "Mul" if u.node.op.forward(np, np.float64(1), np.float64(2)) == 2 else "Div"
    return select(w, w("Equal", g, number(w, g, 0), dtype=bool), g, w(kind, g, d))


@counterpart("keep_mask")
def keep_mask(w: Writer, u: Use) -> Value:
    """Random in the file as well: a new mask in each run."""
    x = w("RandomUniformLike", w.as_value(u.raw[0], np.float32), low=0.0, high=1.0)
    return w("GreaterOrEqual", x, number(w, x, u.attrs["p"]), dtype=bool)


@counterpart("uniform")
def uniform(w: Writer, u: Use) -> Value:
    """Random in the file as well: new numbers in each run."""
    return w("RandomUniformLike", *u.operands(), low=float(u.attrs["low"]), high=float(u.attrs["high"]))


@counterpart("to_device")
def to_device(w: Writer, u: Use) -> Value:
    return u.arguments()[0]


unsupported("it runs a function that is recorded separately; call the function itself", "checkpoint")

"""Formulas: expressions of names, numbers and ops, what a person leaves out of them, and how they are written."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Protocol, TypeAlias

import numpy as np

from tensorgrad import ops
from tensorgrad.core.graph import literal
from tensorgrad.core.op import Op
from tensorgrad.core.signature import Shape

SUM, PRODUCT, UNARY, MATMUL, POWER, ATOM = range(6)  # how tightly an expression holds together


class Term(Enum):
    """What a formula holds besides ops. These are told by what they are, never by a name: an op of the user's may have any."""

    NAME = auto()  # of a value; the argument is text
    NUMBER = auto()  # the argument
    FULL = auto()  # the argument, a number, everywhere
    TRANSPOSED = auto()  # the last two axes exchanged


Head: TypeAlias = Op | Term


@dataclass(frozen=True)
class Expr:
    """A formula: a name, a number, or an op applied to formulas."""

    head: Head
    args: tuple[Any, ...] = ()
    attrs: tuple[tuple[str, Any], ...] = ()
    shape: Shape = ()

    def __hash__(self) -> int:
        return id(self)


class Context(Protocol):
    """What simplifying asks of the derivation that a formula belongs to."""

    def count_of(self, scale: float) -> Expr | None:
        """m, for a factor 1/m where m is the number of rows of something."""

    def sums_to_one(self, name: str) -> bool:
        """Whether the rows of a given array are probabilities."""


def constant(array: Any) -> Expr | None:
    """A given array as a number, or as one number everywhere; None if it is neither."""
    array = np.asarray(array)
    if array.dtype.kind == "b":
        return None
    if array.ndim == 0:
        return number(float(array))
    if array.size and (array == array.flat[0]).all():
        return full(float(array.flat[0]), array.shape)
    return None


def names_in(e: Expr) -> list[str]:
    if e.head is Term.NAME:
        return [e.args[0]]
    return [name for a in e.args if isinstance(a, Expr) for name in names_in(a)]


def replaced(e: Expr, by: dict[str, Expr]) -> Expr:
    if e.head is Term.NAME:
        return by.get(e.args[0], e)
    return Expr(e.head, tuple(replaced(a, by) if isinstance(a, Expr) else a for a in e.args), e.attrs, e.shape)


# Simplification: what a person leaves out


def first(e: Expr) -> Expr:
    inner: Expr = e.args[0]
    return inner


def operands(e: Expr) -> tuple[Expr, Expr]:
    a, b = e.args
    return a, b


def is_number(e: Expr, value: float | None = None) -> bool:
    return e.head is Term.NUMBER and (value is None or e.args[0] == value)


def uniform(e: Expr) -> float | None:
    """The one value that all elements of an expression have, if it is written with it."""
    return float(e.args[0]) if e.head in (Term.NUMBER, Term.FULL) else None


def call(head: Head, *args: Expr, shape: Shape, **attrs: Any) -> Expr:
    return Expr(head, args, tuple(attrs.items()), shape)


def number(x: float) -> Expr:
    return Expr(Term.NUMBER, (float(x),))


def full(x: float, shape: Shape) -> Expr:
    return Expr(Term.FULL, (float(x),), shape=shape)


def named(title: str, shape: Shape = ()) -> Expr:
    return Expr(Term.NAME, (title,), shape=shape)


def simplified(e: Expr, writer: Context) -> Expr:
    """The same without factors of 1, double signs, and reshapes to the same shape; fused ops as their closed formulas."""
    if isinstance(e.head, Op) and e.head.expands:
        return expanded(e, writer)
    rule = SIMPLER.get(e.head)
    return rule(e, writer) if rule else e


def expanded(e: Expr, writer: Context) -> Expr:
    """A fused op as the ops that it stands for."""
    assert isinstance(e.head, Op)
    first, *others = e.head.expands
    found = simplified(Expr(first, e.args, e.attrs, e.shape), writer)
    for op in others:  # max(z, 0) is what people write for relu(z) there
        one = call(ops.maximum, found, number(0), shape=e.shape) if op is ops.relu else call(op, found, shape=e.shape)
        found = simplified(one, writer)
    return found


def simpler_mul(e: Expr, writer: Context) -> Expr:
    a, b = operands(e)
    ua, ub = uniform(a), uniform(b)
    if ua is not None and ub is not None:
        return number(ua * ub) if not e.shape else full(ua * ub, e.shape)
    for value, other in ((ua, b), (ub, a)):
        if value is None or other.shape != e.shape:
            continue
        if value == 1:
            return other
        if other.head is ops.mul and is_number(other.args[0]):
            return simpler_mul(call(ops.mul, number(value * other.args[0].args[0]), other.args[1], shape=e.shape), writer)
        if value == -1:
            return call(ops.neg, other, shape=e.shape)
        if (m := writer.count_of(value)) is not None:
            return call(ops.div, other, m, shape=e.shape)
        if value < 0 and (m := writer.count_of(-value)) is not None:
            return call(ops.neg, call(ops.div, other, m, shape=e.shape), shape=e.shape)
        return call(ops.mul, number(value), other, shape=e.shape)
    return e


def simpler_add(e: Expr, writer: Context) -> Expr:
    a, b = operands(e)
    if a.shape == b.shape == e.shape and text(a) == text(b):
        return simpler_mul(call(ops.mul, number(2), a, shape=e.shape), writer)
    return e


def simpler_power(e: Expr, writer: Context) -> Expr:
    return first(e) if is_number(e.args[1], 1) and e.args[0].shape == e.shape else e


def simpler_div(e: Expr, writer: Context) -> Expr:
    a, b = operands(e)
    ua, ub = uniform(a), uniform(b)
    if ub == 1 and a.shape == e.shape:
        return a
    if ua is not None and ub is not None:
        return number(ua / ub) if not e.shape else full(ua / ub, e.shape)
    return e


def simpler_neg(e: Expr, writer: Context) -> Expr:
    a = first(e)
    if a.head is ops.neg:
        return first(a)
    if a.head is Term.NUMBER:
        return number(-a.args[0])
    return full(-a.args[0], a.shape) if a.head is Term.FULL else e


def simpler_broadcast(e: Expr, writer: Context) -> Expr:
    a = first(e)
    value = uniform(a)
    if value is not None:
        return full(value, e.shape)
    return a if a.shape == e.shape else e


def same_shape(e: Expr, writer: Context) -> Expr:
    value = uniform(e.args[0])
    if value is not None:
        return full(value, e.shape) if e.shape else number(value)
    return first(e) if e.args[0].shape == e.shape else e


def simpler_transpose(e: Expr, writer: Context) -> Expr:
    axes = dict(e.attrs)["axes"]
    n = len(axes)
    if n >= 2 and tuple(a % n for a in axes) == (*range(n - 2), n - 1, n - 2):
        return call(Term.TRANSPOSED, e.args[0], shape=e.shape)
    return e


def masked(e: Expr, writer: Context) -> Expr:
    g, y = e.args
    return product(writer, e.shape, g, call(ops.greater, y, number(0), shape=y.shape))


def sigmoid_slope(e: Expr, writer: Context) -> Expr:
    g, s = e.args
    return product(writer, e.shape, g, s, call(ops.sub, number(1), s, shape=s.shape))


def tanh_slope(e: Expr, writer: Context) -> Expr:
    g, t = e.args
    return product(writer, e.shape, g, call(ops.sub, number(1), call(ops.power, t, number(2), shape=t.shape), shape=t.shape))


def product(writer: Context, shape: Shape, *factors: Expr) -> Expr:
    whole = factors[0]
    for factor in factors[1:]:
        whole = simpler_mul(call(ops.mul, whole, factor, shape=shape), writer)
    return whole


def targets(t: Expr, z: Expr) -> Expr:
    """Labels as rows of 0 and 1."""
    return t if t.shape == z.shape else call(ops.one_hot, t, shape=z.shape, classes=z.shape[-1])


def cross_entropy_gradient(e: Expr, writer: Context) -> Expr:
    g, logp, t = e.args
    p = exponential(call(ops.exp, logp, shape=e.shape), writer)
    y = targets(t, p)
    if t.shape == p.shape and not (t.head is Term.NAME and writer.sums_to_one(t.args[0])):
        p = call(ops.mul, p, call(ops.sum, t, shape=(*t.shape[:-1], 1), axis=-1, keepdims=True), shape=e.shape)
    difference = call(ops.sub, p, y, shape=e.shape)
    return product(writer, e.shape, product(writer, e.shape, number(dict(e.attrs)["scale"]), difference), g)


def cross_entropy(e: Expr, writer: Context) -> Expr:
    z, t = e.args[:2]
    scale = dict(e.attrs)["scale"]
    scale = 1 / max(math.prod(z.shape[:-1]), 1) if scale is None else scale
    logp = call(ops.log, call(ops.softmax, z, shape=z.shape), shape=z.shape)
    total = call(ops.sum, call(ops.mul, targets(t, z), logp, shape=z.shape), shape=())
    return product(writer, (), number(-scale), total)


def layer(e: Expr, writer: Context) -> Expr:
    x, w, b = e.args
    return call(ops.add, call(ops.matmul, x, w, shape=e.shape), b, shape=e.shape)


def plain_one_hot(e: Expr, writer: Context) -> Expr:
    return call(ops.one_hot, first(e), shape=e.shape, classes=e.shape[-1])


def plain_sum(e: Expr, writer: Context) -> Expr:
    return Expr(ops.sum, e.args, tuple((k, v) for k, v in e.attrs if v is not None and v is not False), e.shape)


def sum_to(e: Expr, writer: Context) -> Expr:
    a = first(e)
    if a.shape == e.shape:
        return a
    value = uniform(a)
    if not e.shape:
        return number(value * math.prod(a.shape)) if value is not None else call(ops.sum, a, shape=())
    lead = len(a.shape) - len(e.shape)
    if lead and a.shape[lead:] == e.shape:
        axis: Any = 0 if lead == 1 else tuple(range(lead))
        return call(ops.sum, a, shape=e.shape, axis=axis)
    return e


def exponential(e: Expr, writer: Context) -> Expr:
    """e^log p = p, where p is a softmax over the last axis."""
    a = first(e)
    if a.head is ops.log and a.args[0].head is ops.softmax:
        return first(a)
    last = a.head is ops.log_softmax and dict(a.attrs)["axis"] in (-1, len(e.shape) - 1)
    return call(ops.softmax, a.args[0], shape=e.shape) if last else e


SIMPLER: dict[Head, Callable[[Expr, Context], Expr]] = {
    ops.add: simpler_add,
    ops.mul: simpler_mul,
    ops.power: simpler_power,
    ops.div: simpler_div,
    ops.neg: simpler_neg,
    ops.broadcast_to: simpler_broadcast,
    ops.reshape: same_shape,
    ops.astype: same_shape,
    ops.transpose: simpler_transpose,
    ops.relu_grad: masked,
    ops.sigmoid_grad: sigmoid_slope,
    ops.tanh_grad: tanh_slope,
    ops.softmax_cross_entropy_grad: cross_entropy_gradient,
    ops.softmax_cross_entropy: cross_entropy,
    ops.linear: layer,
    ops.one_hot: plain_one_hot,
    ops.sum: plain_sum,
    ops.sum_to: sum_to,
    ops.exp: exponential,
}


# Writing

INFIX: dict[Head, tuple[str, int]] = {
    ops.add: (" + ", SUM),
    ops.sub: (" - ", SUM),
    ops.mul: (" * ", PRODUCT),
    ops.div: (" / ", PRODUCT),
}
RELATIONS: dict[Head, str] = {
    ops.greater: ">",
    ops.greater_equal: ">=",
    ops.less: "<",
    ops.less_equal: "<=",
    ops.equal: "==",
    ops.not_equal: "!=",
}
LEVELS: dict[Head, int] = {
    **{op: level for op, (_, level) in INFIX.items()},
    ops.neg: UNARY,
    ops.matmul: MATMUL,
    ops.power: POWER,
    Term.TRANSPOSED: POWER,
}
CALLED: dict[Head, str] = {ops.maximum: "max", ops.minimum: "min", ops.max: "amax", ops.min: "amin"}  # others by their names
LATEX: dict[Head, str] = {
    **{op: f"\\{op.name}" for op in (ops.exp, ops.log, ops.sin, ops.cos, ops.tan, ops.tanh, ops.max, ops.min)},
    ops.maximum: "\\max",
    ops.minimum: "\\min",
}


def level_of(e: Expr) -> int:
    if e.head is Term.NUMBER:
        return ATOM if e.args[0] >= 0 else UNARY
    return LEVELS.get(e.head, ATOM)


def text(e: Expr) -> str:
    """The formula in one line."""
    if e.head is Term.NAME:
        return str(e.args[0])
    if e.head is Term.NUMBER:
        return f"{e.args[0]:.12g}"
    if e.head in INFIX:
        sign, level = INFIX[e.head]
        left = held(e.args[0], level)
        return left + sign + held(e.args[1], level + 1)
    if e.head is ops.neg:
        return "-" + held(e.args[0], MATMUL)
    if e.head is ops.matmul:
        return f"{held(e.args[0], POWER)} {held(e.args[1], POWER)}"
    if e.head is Term.TRANSPOSED:
        return f"{held(e.args[0], ATOM)}^T"
    if e.head is ops.power:
        return f"{held(e.args[0], ATOM)}^{held(e.args[1], ATOM)}"
    if e.head in RELATIONS:
        return f"[{text(e.args[0])} {RELATIONS[e.head]} {text(e.args[1])}]"
    if e.head is Term.FULL:
        value = e.args[0]
        ones = f"ones{e.shape if len(e.shape) != 1 else f'({e.shape[0]})'}"
        return ones if value == 1 else f"({value:.12g} * {ones})"
    attrs = [f"{key}={literal(value)}" for key, value in e.attrs if not (e.head is ops.softmax and value == -1)]
    return f"{CALLED.get(e.head) or e.head.name}({', '.join([*map(text, e.args), *attrs])})"


def held(e: Expr, level: int) -> str:
    """In brackets where it would fall apart."""
    return text(e) if level_of(e) >= level else f"({text(e)})"


def latex(e: Expr) -> str:
    """The formula as LaTeX."""
    if e.head is Term.NAME:
        return latex_name(str(e.args[0]))
    if e.head is Term.NUMBER:
        return f"{e.args[0]:g}"
    if e.head is ops.div:
        return f"\\frac{{{latex(e.args[0])}}}{{{latex(e.args[1])}}}"
    if e.head in INFIX:
        sign, level = INFIX[e.head]
        if e.head is ops.mul:
            sign = " \\odot " if e.args[0].shape and e.args[1].shape else " \\, "
        return latex_held(e.args[0], level) + sign + latex_held(e.args[1], level + 1)
    if e.head is ops.neg:
        return "-" + latex_held(e.args[0], MATMUL)
    if e.head is ops.matmul:
        return f"{latex_held(e.args[0], POWER)} \\, {latex_held(e.args[1], POWER)}"
    if e.head is Term.TRANSPOSED:
        return f"{latex_held(e.args[0], ATOM)}^{{\\top}}"
    if e.head is ops.power:
        return f"{latex_held(e.args[0], ATOM)}^{{{latex(e.args[1])}}}"
    if e.head in RELATIONS:
        sign = {">=": "\\ge", "<=": "\\le", "==": "=", "!=": "\\ne"}.get(RELATIONS[e.head], RELATIONS[e.head])
        return f"\\left[{latex(e.args[0])} {sign} {latex(e.args[1])}\\right]"
    if e.head is Term.FULL:
        value = e.args[0]
        return "\\mathbf{1}" if value == 1 else f"{value:g} \\cdot \\mathbf{{1}}"
    if e.head is ops.sum:
        axis = dict(e.attrs).get("axis")
        return f"\\sum{'' if axis is None else f'_{{{axis}}}'} {latex_held(e.args[0], MATMUL)}"
    if e.head is ops.sqrt:
        return f"\\sqrt{{{latex(e.args[0])}}}"
    called = LATEX.get(e.head) or f"\\operatorname{{{e.head.name.replace('_', chr(92) + '_')}}}"
    return f"{called}\\left({', '.join(map(latex, e.args))}\\right)"


def latex_held(e: Expr, level: int) -> str:
    inner = latex(e)
    return inner if level_of(e) >= level or e.head is ops.div else f"\\left({inner}\\right)"


def latex_name(name: str) -> str:
    """W1 as W_{1}, fc1.weight upright, dL/dW1 as a fraction of partial derivatives."""
    if match := re.fullmatch(r"d(.+?)/d(.+)", name):
        return f"\\frac{{\\partial {latex_name(match[1])}}}{{\\partial {latex_name(match[2])}}}"
    if match := re.fullmatch(r"([A-Za-z])(\d*)('*)", name):
        return match[1] + (f"_{{{match[2]}}}" if match[2] else "") + match[3]
    escaped = re.sub(r"([#$%&_{}])", r"\\\1", name.replace("\\", ""))
    return f"\\mathrm{{{escaped}}}"

"""Formulas: expressions of names, numbers and ops, what a person leaves out of them, and how they are written."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from tensorgrad.core.graph import literal
from tensorgrad.core.signature import Shape

SUM, PRODUCT, UNARY, MATMUL, POWER, ATOM = range(6)  # how tightly an expression holds together


@dataclass(frozen=True)
class Expr:
    """A formula: a name, a number, or an op applied to formulas."""

    head: str  # "name", "number", or the name of an op
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
        return Expr("number", (float(array),))
    if array.size and (array == array.flat[0]).all():
        return Expr("full", (Expr("number", (float(array.flat[0]),)),), (("shape", array.shape),), array.shape)
    return None


def names_in(e: Expr) -> list[str]:
    if e.head == "name":
        return [e.args[0]]
    return [name for a in e.args if isinstance(a, Expr) for name in names_in(a)]


def replaced(e: Expr, by: dict[str, Expr]) -> Expr:
    if e.head == "name":
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
    return e.head == "number" and (value is None or e.args[0] == value)


def uniform(e: Expr) -> float | None:
    """The one value that all elements of an expression have, if it is written with it."""
    if e.head == "number":
        return float(e.args[0])
    return float(e.args[0].args[0]) if e.head == "full" else None


def call(head: str, *args: Expr, shape: Shape, **attrs: Any) -> Expr:
    return Expr(head, args, tuple(attrs.items()), shape)


def number(x: float) -> Expr:
    return Expr("number", (float(x),))


def simplified(e: Expr, writer: Context) -> Expr:
    """The same without factors of 1, double signs, and reshapes to the same shape; fused ops as their closed formulas."""
    rule = SIMPLER.get(e.head)
    return rule(e, writer) if rule else e


def simpler_mul(e: Expr, writer: Context) -> Expr:
    a, b = operands(e)
    ua, ub = uniform(a), uniform(b)
    if ua is not None and ub is not None:
        return number(ua * ub) if not e.shape else Expr("full", (number(ua * ub),), (("shape", e.shape),), e.shape)
    for value, other in ((ua, b), (ub, a)):
        if value is None or other.shape != e.shape:
            continue
        if value == 1:
            return other
        if other.head == "mul" and is_number(other.args[0]):
            return simpler_mul(call("mul", number(value * other.args[0].args[0]), other.args[1], shape=e.shape), writer)
        if value == -1:
            return call("neg", other, shape=e.shape)
        if (m := writer.count_of(value)) is not None:
            return call("div", other, m, shape=e.shape)
        if value < 0 and (m := writer.count_of(-value)) is not None:
            return call("neg", call("div", other, m, shape=e.shape), shape=e.shape)
        return call("mul", number(value), other, shape=e.shape)
    return e


def simpler_add(e: Expr, writer: Context) -> Expr:
    a, b = operands(e)
    if a.shape == b.shape == e.shape and text(a) == text(b):
        return simpler_mul(call("mul", number(2), a, shape=e.shape), writer)
    return e


def simpler_power(e: Expr, writer: Context) -> Expr:
    return first(e) if is_number(e.args[1], 1) and e.args[0].shape == e.shape else e


def simpler_div(e: Expr, writer: Context) -> Expr:
    a, b = operands(e)
    ua, ub = uniform(a), uniform(b)
    if ub == 1 and a.shape == e.shape:
        return a
    if ua is not None and ub is not None:
        return number(ua / ub) if not e.shape else Expr("full", (number(ua / ub),), (("shape", e.shape),), e.shape)
    return e


def simpler_neg(e: Expr, writer: Context) -> Expr:
    a = first(e)
    if a.head == "neg":
        return first(a)
    if a.head == "number":
        return number(-a.args[0])
    return Expr("full", (number(-a.args[0].args[0]),), a.attrs, a.shape) if a.head == "full" else e


def simpler_broadcast(e: Expr, writer: Context) -> Expr:
    a = first(e)
    value = uniform(a)
    if value is not None:
        return Expr("full", (number(value),), (("shape", e.shape),), e.shape)
    return a if a.shape == e.shape else e


def same_shape(e: Expr, writer: Context) -> Expr:
    value = uniform(e.args[0])
    if value is not None:
        return Expr("full", (number(value),), (("shape", e.shape),), e.shape) if e.shape else number(value)
    return first(e) if e.args[0].shape == e.shape else e


def simpler_transpose(e: Expr, writer: Context) -> Expr:
    axes = dict(e.attrs)["axes"]
    n = len(axes)
    if n >= 2 and tuple(a % n for a in axes) == (*range(n - 2), n - 1, n - 2):
        return call("T", e.args[0], shape=e.shape)
    return e


def masked(e: Expr, writer: Context) -> Expr:
    g, y = e.args
    return product(writer, e.shape, g, call("greater", y, number(0), shape=y.shape))


def sigmoid_slope(e: Expr, writer: Context) -> Expr:
    g, s = e.args
    return product(writer, e.shape, g, s, call("sub", number(1), s, shape=s.shape))


def tanh_slope(e: Expr, writer: Context) -> Expr:
    g, t = e.args
    return product(writer, e.shape, g, call("sub", number(1), call("power", t, number(2), shape=t.shape), shape=t.shape))


def product(writer: Context, shape: Shape, *factors: Expr) -> Expr:
    whole = factors[0]
    for factor in factors[1:]:
        whole = simpler_mul(call("mul", whole, factor, shape=shape), writer)
    return whole


def targets(t: Expr, z: Expr) -> Expr:
    """Labels as rows of 0 and 1."""
    return t if t.shape == z.shape else call("one_hot", t, shape=z.shape, classes=z.shape[-1])


def cross_entropy_gradient(e: Expr, writer: Context) -> Expr:
    g, logp, t = e.args
    p = exponential(call("exp", logp, shape=e.shape), writer)
    y = targets(t, p)
    if t.shape == p.shape and not (t.head == "name" and writer.sums_to_one(t.args[0])):
        p = call("mul", p, call("sum", t, shape=(*t.shape[:-1], 1), axis=-1, keepdims=True), shape=e.shape)
    difference = call("sub", p, y, shape=e.shape)
    return product(writer, e.shape, product(writer, e.shape, number(dict(e.attrs)["scale"]), difference), g)


def cross_entropy(e: Expr, writer: Context) -> Expr:
    z, t = e.args[:2]
    scale = dict(e.attrs)["scale"]
    scale = 1 / max(math.prod(z.shape[:-1]), 1) if scale is None else scale
    logp = call("log", call("softmax", z, shape=z.shape), shape=z.shape)
    total = call("sum", call("mul", targets(t, z), logp, shape=z.shape), shape=())
    return product(writer, (), number(-scale), total)


def layer(activation: str | None) -> Callable[[Expr, Context], Expr]:
    def rule(e: Expr, writer: Context) -> Expr:
        x, w, b = e.args
        z = call("add", call("matmul", x, w, shape=e.shape), b, shape=e.shape)
        if activation == "relu":
            return call("maximum", z, number(0), shape=e.shape)
        return z if activation is None else call(activation, z, shape=e.shape)

    return rule


def plain_one_hot(e: Expr, writer: Context) -> Expr:
    return call("one_hot", first(e), shape=e.shape, classes=e.shape[-1])


def plain_sum(e: Expr, writer: Context) -> Expr:
    return Expr("sum", e.args, tuple((k, v) for k, v in e.attrs if v is not None and v is not False), e.shape)


def sum_to(e: Expr, writer: Context) -> Expr:
    a = first(e)
    if a.shape == e.shape:
        return a
    value = uniform(a)
    if not e.shape:
        return number(value * math.prod(a.shape)) if value is not None else call("sum", a, shape=())
    lead = len(a.shape) - len(e.shape)
    if lead and a.shape[lead:] == e.shape:
        axis: Any = 0 if lead == 1 else tuple(range(lead))
        return call("sum", a, shape=e.shape, axis=axis)
    return e


def exponential(e: Expr, writer: Context) -> Expr:
    """e^log p = p, where p is a softmax over the last axis."""
    a = first(e)
    if a.head == "log" and a.args[0].head == "softmax":
        return first(a)
    last = a.head == "log_softmax" and dict(a.attrs)["axis"] in (-1, len(e.shape) - 1)
    return call("softmax", a.args[0], shape=e.shape) if last else e


SIMPLER: dict[str, Callable[[Expr, Context], Expr]] = {
    "add": simpler_add,
    "mul": simpler_mul,
    "power": simpler_power,
    "div": simpler_div,
    "neg": simpler_neg,
    "broadcast_to": simpler_broadcast,
    "reshape": same_shape,
    "astype": same_shape,
    "transpose": simpler_transpose,
    "relu_grad": masked,
    "sigmoid_grad": sigmoid_slope,
    "tanh_grad": tanh_slope,
    "softmax_cross_entropy_grad": cross_entropy_gradient,
    "softmax_cross_entropy": cross_entropy,
    "linear": layer(None),
    "linear_relu": layer("relu"),
    "linear_sigmoid": layer("sigmoid"),
    "linear_tanh": layer("tanh"),
    "one_hot": plain_one_hot,
    "sum": plain_sum,
    "sum_to": sum_to,
    "exp": exponential,
}


# Writing

INFIX = {"add": (" + ", SUM), "sub": (" - ", SUM), "mul": (" * ", PRODUCT), "div": (" / ", PRODUCT)}
RELATIONS = {"greater": ">", "greater_equal": ">=", "less": "<", "less_equal": "<=", "equal": "==", "not_equal": "!="}


def level_of(e: Expr) -> int:
    if e.head in INFIX:
        return INFIX[e.head][1]
    if e.head == "number":
        return ATOM if e.args[0] >= 0 else UNARY
    return {"neg": UNARY, "matmul": MATMUL, "power": POWER, "T": POWER}.get(e.head, ATOM)


def text(e: Expr) -> str:
    """The formula in one line."""
    if e.head == "name":
        return str(e.args[0])
    if e.head == "number":
        return f"{e.args[0]:.12g}"
    if e.head in INFIX:
        sign, level = INFIX[e.head]
        left = held(e.args[0], level)
        return left + sign + held(e.args[1], level + 1)
    if e.head == "neg":
        return "-" + held(e.args[0], MATMUL)
    if e.head == "matmul":
        return f"{held(e.args[0], POWER)} {held(e.args[1], POWER)}"
    if e.head == "T":
        return f"{held(e.args[0], ATOM)}^T"
    if e.head == "power":
        return f"{held(e.args[0], ATOM)}^{held(e.args[1], ATOM)}"
    if e.head in RELATIONS:
        return f"[{text(e.args[0])} {RELATIONS[e.head]} {text(e.args[1])}]"
    if e.head == "full":
        value, shape = e.args[0].args[0], dict(e.attrs)["shape"]
        ones = f"ones{shape if len(shape) != 1 else f'({shape[0]})'}"
        return ones if value == 1 else f"({value:.12g} * {ones})"
    name = {"maximum": "max", "minimum": "min"}.get(e.head, e.head)
    if e.head == "max":
        name = "amax"
    if e.head == "min":
        name = "amin"
    attrs = [f"{key}={literal(value)}" for key, value in e.attrs if not (e.head == "softmax" and value == -1)]
    return f"{name}({', '.join([*map(text, e.args), *attrs])})"


def held(e: Expr, level: int) -> str:
    """In brackets where it would fall apart."""
    return text(e) if level_of(e) >= level else f"({text(e)})"


def latex(e: Expr) -> str:
    """The formula as LaTeX."""
    if e.head == "name":
        return latex_name(str(e.args[0]))
    if e.head == "number":
        return f"{e.args[0]:g}"
    if e.head == "div":
        return f"\\frac{{{latex(e.args[0])}}}{{{latex(e.args[1])}}}"
    if e.head in INFIX:
        sign, level = {"add": " + ", "sub": " - ", "mul": " \\odot "}[e.head], INFIX[e.head][1]
        if e.head == "mul" and not (e.args[0].shape and e.args[1].shape):
            sign = " \\, "
        return latex_held(e.args[0], level) + sign + latex_held(e.args[1], level + 1)
    if e.head == "neg":
        return "-" + latex_held(e.args[0], MATMUL)
    if e.head == "matmul":
        return f"{latex_held(e.args[0], POWER)} \\, {latex_held(e.args[1], POWER)}"
    if e.head == "T":
        return f"{latex_held(e.args[0], ATOM)}^{{\\top}}"
    if e.head == "power":
        return f"{latex_held(e.args[0], ATOM)}^{{{latex(e.args[1])}}}"
    if e.head in RELATIONS:
        sign = {">=": "\\ge", "<=": "\\le", "==": "=", "!=": "\\ne"}.get(RELATIONS[e.head], RELATIONS[e.head])
        return f"\\left[{latex(e.args[0])} {sign} {latex(e.args[1])}\\right]"
    if e.head == "full":
        value = e.args[0].args[0]
        return "\\mathbf{1}" if value == 1 else f"{value:g} \\cdot \\mathbf{{1}}"
    if e.head == "sum":
        axis = dict(e.attrs).get("axis")
        return f"\\sum{'' if axis is None else f'_{{{axis}}}'} {latex_held(e.args[0], MATMUL)}"
    if e.head == "sqrt":
        return f"\\sqrt{{{latex(e.args[0])}}}"
    known = {"exp", "log", "sin", "cos", "tan", "tanh", "max", "min", "maximum", "minimum"}
    short = {"maximum": "max", "minimum": "min"}.get(e.head, e.head)
    name = f"\\{short}" if e.head in known else f"\\operatorname{{{e.head.replace('_', chr(92) + '_')}}}"
    return f"{name}\\left({', '.join(map(latex, e.args))}\\right)"


def latex_held(e: Expr, level: int) -> str:
    inner = latex(e)
    return inner if level_of(e) >= level or e.head == "div" else f"\\left({inner}\\right)"


def latex_name(name: str) -> str:
    """W1 as W_{1}, fc1.weight upright, dL/dW1 as a fraction of partial derivatives."""
    if match := re.fullmatch(r"d(.+?)/d(.+)", name):
        return f"\\frac{{\\partial {latex_name(match[1])}}}{{\\partial {latex_name(match[2])}}}"
    if match := re.fullmatch(r"([A-Za-z])(\d*)('*)", name):
        return match[1] + (f"_{{{match[2]}}}" if match[2] else "") + match[3]
    escaped = re.sub(r"([#$%&_{}])", r"\\\1", name.replace("\\", ""))
    return f"\\mathrm{{{escaped}}}"

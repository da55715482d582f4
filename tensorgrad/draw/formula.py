"""What a person leaves out of a formula, and the closed forms of fused ops."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

from tensorgrad import ops
from tensorgrad.core.op import Op
from tensorgrad.core.signature import Shape
from tensorgrad.draw.expression import Expr, Head, Term, call, first, full, is_number, number, operands, uniform
from tensorgrad.draw.notation import text
from tensorgrad.ops.activation import log_complement_sigmoid


class Context(Protocol):
    """What simplifying asks of the derivation that a formula belongs to."""

    def count_of(self, scale: float) -> Expr | None:
        """m, for a factor 1/m where m is the number of rows of something."""

    def sums_to_one(self, name: str) -> bool:
        """Whether the rows of a given array are probabilities."""

    def are_complements(self, a: str, b: str) -> bool:
        """Whether b is 1 - a, for two given arrays."""


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


def logistic_gradient(e: Expr, writer: Context) -> Expr:
    g, z, a, b = e.args
    p = call(ops.sigmoid, z, shape=e.shape)
    if not (a.head is b.head is Term.NAME and writer.are_complements(a.args[0], b.args[0])):
        p = call(ops.mul, call(ops.add, a, b, shape=e.shape), p, shape=e.shape)
    difference = call(ops.sub, p, a, shape=e.shape)
    return product(writer, e.shape, product(writer, e.shape, number(dict(e.attrs)["scale"]), difference), g)


def logistic_loss(e: Expr, writer: Context) -> Expr:
    z, a, b = e.args
    p = call(ops.sigmoid, z, shape=z.shape)
    positive = call(ops.mul, a, call(ops.log, p, shape=z.shape), shape=z.shape)
    negative = call(ops.mul, b, log_complement(call(log_complement_sigmoid, z, shape=z.shape), writer), shape=z.shape)
    total = call(ops.sum, call(ops.add, positive, negative, shape=z.shape), shape=())
    return product(writer, (), number(-dict(e.attrs)["scale"]), total)


def log_sigmoid(e: Expr, writer: Context) -> Expr:
    return call(ops.log, call(ops.sigmoid, first(e), shape=e.shape), shape=e.shape)


def log_complement(e: Expr, writer: Context) -> Expr:
    p = call(ops.sigmoid, first(e), shape=e.shape)
    return call(ops.log, call(ops.sub, number(1), p, shape=e.shape), shape=e.shape)


def plain_product(e: Expr, writer: Context) -> Expr:
    return simpler_mul(call(ops.mul, *e.args, shape=e.shape), writer)


def plain_quotient(e: Expr, writer: Context) -> Expr:
    return simpler_div(call(ops.div, *e.args, shape=e.shape), writer)


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
    ops.mul_grad: plain_product,
    ops.div_grad: plain_quotient,
    ops.logsigmoid: log_sigmoid,
    log_complement_sigmoid: log_complement,
    ops.sigmoid_cross_entropy_grad: logistic_gradient,
    ops.sigmoid_cross_entropy: logistic_loss,
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

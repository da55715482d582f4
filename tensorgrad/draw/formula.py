"""The formula of each op: its result as an expression of its arguments."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from tensorgrad import ops
from tensorgrad.core.node import Node
from tensorgrad.core.op import Op
from tensorgrad.core.signature import Axis, Shape
from tensorgrad.draw.algebra import (
    bracket,
    everywhere,
    factors,
    is_number,
    matmul,
    negated,
    number,
    powered,
    product,
    quotient,
    reduced,
    reshaped,
    scaled,
    total,
    transposed,
    uniform,
    value_of,
)
from tensorgrad.draw.expression import Expr, Head, Term, call, first, interned
from tensorgrad.ops import statistics
from tensorgrad.ops.activation import log_complement_sigmoid


class Context(Protocol):
    """Queries of a formula to its derivation."""

    def count(self, node: Node, axes: tuple[int, ...]) -> Expr:
        """The letter for the number of elements along `axes` of the input of `node`."""

    def averaged(self, node: Node, axes: tuple[int, ...]) -> None:
        """Note that the mean over `axes` is written as a mean."""

    def rows(self, node: Node) -> Expr | None:
        """The number of samples, if `node` divides a sum by it."""

    def labels(self, t: Expr, classes: Shape) -> Expr:
        """Y, one-hot rows for class indices t."""

    def scale(self, node: Node) -> Expr:
        """The weight of an element of a loss, such as 1/m."""

    def sums_to_one(self, t: Expr) -> bool:
        """Whether the rows of a given array sum to 1."""

    def complement(self, node: Node, a: Expr, b: Expr) -> Expr:
        """b, or 1 - a if they are equal."""

    def is_total(self, node: Node) -> bool:
        """Whether a mean over everything is the loss, or a term of it."""


@dataclass
class Use:
    """One call of an op, with formulas as inputs."""

    op: Op
    args: tuple[Expr, ...]
    attrs: dict[str, Any]
    shape: Shape
    node: Node
    context: Context


def formula(use: Use) -> Expr:
    """The result of one call of an op: by FORMS, or as a function of its arguments."""
    if use.op.expands:
        return expanded(use)
    if use.op in ELEMENTWISE and any(a.head is Term.EVERYWHERE and first(a).shape == () for a in use.args):
        # the result for constant arrays is constant
        args = tuple(first(a) if a.head is Term.EVERYWHERE and first(a).shape == () else a for a in use.args)
        shape = np.broadcast_shapes(*[a.shape for a in args])
        return everywhere(formula(replace(use, args=args, shape=shape)), use.shape)
    rule = FORMS.get(use.op)
    if rule is not None:
        return rule(use)
    return interned(use.op, use.args, use.attrs, use.shape)


# Elementwise ops
ELEMENTWISE = {
    ops.abs, ops.exp, ops.hypot, ops.log, ops.log1p, ops.maximum, ops.minimum, ops.power, ops.relu, ops.sigmoid, ops.sign,
    ops.sqrt, ops.tanh,
}  # fmt: skip


def expanded(use: Use) -> Expr:
    """Replace a fused op by the ops it expands to."""
    first, *others = use.op.expands
    result = formula(Use(first, use.args, use.attrs, use.shape, use.node, use.context))
    for op in others:
        result = formula(Use(op, (result,), {}, use.shape, use.node, use.context))
    return result


def axes_of(axis: Axis, shape: Shape) -> tuple[int, ...]:
    """`axis` as non-negative indices."""
    if not shape:
        return ()
    if axis is None:
        return tuple(range(len(shape)))
    return tuple(sorted(a % len(shape) for a in ((axis,) if isinstance(axis, int) else axis)))


def reduction(use: Use) -> Expr:
    (x,) = use.args
    axes = axes_of(use.attrs["axis"], x.shape)
    if use.op is ops.sum and x.head is Term.EVERYWHERE and (inner := first(x)).shape == () and axes:
        return product(use.shape, use.context.count(use.node, axes), inner)
    if use.op is ops.mean and len(axes) == len(x.shape) and use.shape == () and use.context.is_total(use.node):
        return quotient((), reduced(ops.sum, x, axes, False), use.context.count(use.node, axes))
    if use.op is ops.mean and axes:
        use.context.averaged(use.node, axes)
    return reduced(use.op, x, axes, use.attrs["keepdims"])


def sum_to(use: Use) -> Expr:
    (x,) = use.args
    return summed_to(x, use.shape, lambda axes: use.context.count(use.node, axes))


def summed_to(x: Expr, shape: Shape, count: Callable[[tuple[int, ...]], Expr]) -> Expr:
    """The inverse of broadcasting `shape` to that of x: sums over added or expanded axes."""
    if x.shape == shape:
        return x
    added = len(x.shape) - len(shape)
    widened = tuple(i for i, n in enumerate(shape, added) if n == 1 and x.shape[i] != 1)
    inner = first(x) if x.head is Term.EVERYWHERE else x
    offset = len(x.shape) - len(inner.shape)  # constant axes are multiplied by their length instead of summed
    constant = [i for i in (*range(added), *widened) if i < offset or (inner.shape[i - offset] == 1 and x.shape[i] != 1)]
    n = count(tuple(constant)) if math.prod(x.shape[i] for i in constant) != 1 else number(1)
    if len(constant) == added + len(widened):
        if inner.shape and len(inner.shape) > len(shape):
            inner = reshaped(inner, inner.shape[len(inner.shape) - len(shape) :])
        return product(shape, n, inner)
    if widened:
        x = reduced(ops.sum, x, widened, True)
    return reduced(ops.sum, x, range(added), False) if added else x


def softmax(use: Use) -> Expr:
    (z,) = use.args
    axis = use.attrs["axis"] % len(z.shape)
    attrs = {} if axis == len(z.shape) - 1 else {"axis": axis}
    return call(use.op, z, shape=use.shape, **attrs)


def log_softmax(use: Use) -> Expr:
    p = softmax(Use(ops.softmax, use.args, use.attrs, use.shape, use.node, use.context))
    return call(ops.log, p, shape=use.shape)


def exponential(use: Use) -> Expr:
    """e^log p = p, and e^(x - logsumexp x) is a softmax."""
    (a,) = use.args
    return exponential_of(a, use.shape)


def exponential_of(a: Expr, shape: Shape) -> Expr:
    if a.head is ops.log:
        return first(a)
    if a.head is Term.TOTAL and len(a.args) == 2:
        x, rest = a.args
        log_sum = scaled(rest, -1)
        if (
            log_sum.head is Term.REDUCED
            and log_sum["op"] is ops.logsumexp
            and first(log_sum) is x
            and len(log_sum["axes"]) == 1
        ):
            (axis,) = log_sum["axes"]
            return call(ops.softmax, x, shape=shape, **({} if axis == len(shape) - 1 else {"axis": axis}))
    return call(ops.exp, a, shape=shape)


def logarithm(use: Use) -> Expr:
    (a,) = use.args
    return first(a) if a.head is ops.exp else call(ops.log, a, shape=use.shape)


def log1p(use: Use) -> Expr:
    (a,) = use.args
    return call(ops.log, total(a.shape, number(1), a), shape=use.shape)


def root(use: Use) -> Expr:
    (a,) = use.args
    return call(ops.sqrt, a, shape=use.shape)


def hypot(use: Use) -> Expr:
    a, b = (squared(x) for x in use.args)
    return call(ops.sqrt, total(use.shape, a, b), shape=use.shape)


def squared(e: Expr) -> Expr:
    """e²; for a norm that is the root of a sum or mean of squares, that sum or mean."""
    num, den, pairs = factors(e)
    if len(pairs) == 1 and pairs[0][0].head is ops.sqrt:
        return product(e.shape, number(num, den), number(num, den), first(pairs[0][0]))
    return powered(e, 2)


def multiplied(use: Use) -> Expr:
    a, b = use.args
    root = root_mean_square(use)
    return root if root is not None else product(use.shape, a, b)


# Functions that compute the root of a mean of squares as a norm times 1/sqrt(n), to avoid overflow
BY_NORM = ("batch_norm", "group_norm", "layer_norm", "rms_norm", "std")


def function_of(node: Node) -> str:
    """The function of several ops in which a node was recorded; "" if there is none."""
    return "" if node.function is None else node.function.name


def root_mean_square(use: Use) -> Expr | None:
    """sqrt(mean(d²)), for the norm of d times 1/sqrt(n) in such a function."""
    if function_of(use.node) not in BY_NORM or use.op is not ops.mul:
        return None
    for norm, factor in (use.args, use.args[::-1]):
        if norm.head is Term.REDUCED and norm["op"] is ops.norm and is_number(factor):
            d, axes = first(norm), norm["axes"]
            n = math.prod(d.shape[i] for i in axes)
            if math.isclose(value_of(factor) ** 2 * n, 1):
                use.context.averaged(norm_of(use.node), axes)
                square = reduced(ops.mean, powered(d, 2), axes, norm["keep"])
                return call(ops.sqrt, square, shape=use.shape)
    return None


def norm_of(node: Node) -> Node:
    return next(s for s in node.inputs if isinstance(s, Node))


def divided(use: Use) -> Expr:
    a, b = use.args
    node = use.node
    if is_number(b) and node.op is ops.div and function_of(node) in COUNTED:
        b = use.context.rows(node) or b
    return quotient(use.shape, a, b)


# Functions that divide a sum by the number of samples
COUNTED = ("cross_entropy", "nll_loss", "kl_div")


def power(use: Use) -> Expr:
    a, b = use.args
    if is_number(b) and a.shape == use.shape:
        return powered(a, b["num"] / b["den"] if b["den"] != 1 else b["num"])
    return call(ops.power, a, b, shape=use.shape)


def where(use: Use) -> Expr:
    """a if a condition holds, else b; if one of them is 0, the condition becomes a factor."""
    condition, a, b = use.args
    if condition.head is Term.BRACKET and condition["sign"] == "==":
        # values that rules substitute where a formula is undefined
        if uniform(a) == math.inf and condition.args[0] is (first(b) if b.head is Term.EVERYWHERE else b):
            return everywhere(b, use.shape)
        if uniform(condition.args[1]) in (math.inf, -math.inf):
            return everywhere(b, use.shape)
    if uniform(b) == 0:
        return product(use.shape, a, condition)
    other = negated(condition)
    if other is not None and not {uniform(a), uniform(b)} & {math.inf, -math.inf}:
        return total(use.shape, product(use.shape, a, condition), product(use.shape, b, other))
    return call(ops.where, condition, a, b, shape=use.shape)


def relu_slope(use: Use) -> Expr:
    g, y = use.args
    return product(use.shape, g, bracket(">", y, number(0), y.shape))


def sigmoid_slope(use: Use) -> Expr:
    g, s = use.args
    return product(use.shape, g, s, total(s.shape, number(1), scaled(s, -1)))


def tanh_slope(use: Use) -> Expr:
    g, t = use.args
    return product(use.shape, g, total(t.shape, number(1), scaled(powered(t, 2), -1)))


def transpose(use: Use) -> Expr:
    (x,) = use.args
    axes = use.attrs["axes"]
    n = len(axes)
    axes = tuple(a % n for a in axes)
    if axes == tuple(range(n)):
        return x
    if n >= 2 and axes == (*range(n - 2), n - 1, n - 2):
        return transposed(x, use.shape)
    return call(use.op, x, shape=use.shape, axes=axes)


def layer(use: Use) -> Expr:
    x, w, b = use.args
    return total(use.shape, matmul(x, w, use.shape), b)


def einsum(use: Use) -> Expr:
    """einsum; the product of two matrices is written as a matrix product."""
    subscripts = use.attrs["subscripts"]
    left, _, right = subscripts.partition("->")
    terms = left.split(",")
    if len(terms) == 2 and len(right) == 2 and all(len(t) == 2 == len(set(t)) for t in (*terms, right)):
        shared = set(terms[0]) & set(terms[1])
        if len(shared) == 1 and not shared & set(right):
            (k,) = shared
            a, b = use.args
            rows, columns = terms[0].replace(k, ""), terms[1].replace(k, "")
            a = a if terms[0][1] == k else transposed(a, a.shape[::-1])
            b = b if terms[1][0] == k else transposed(b, b.shape[::-1])
            result = matmul(a, b, (a.shape[0], b.shape[1]))
            return result if right == rows + columns else transposed(result, use.shape)
    return call(use.op, *use.args, shape=use.shape, subscripts=subscripts)


def one_hot(use: Use) -> Expr:
    return call(ops.one_hot, first_arg(use), shape=use.shape, classes=use.shape[-1])


def first_arg(use: Use) -> Expr:
    return use.args[0]


def first_of(use: Use) -> Expr:
    (x,) = use.args
    which = {"argmax": "maximum", "argmin": "minimum"}[use.attrs["which"]]
    return call(Term.FIRST, x, shape=use.shape, which=which, axes=axes_of(use.attrs["axis"], x.shape))


def logistic(z: Expr) -> Expr:
    return call(ops.sigmoid, z, shape=z.shape)


def complement_of_logistic(use: Use) -> Expr:
    s = logistic(first_arg(use))
    return call(ops.log, total(s.shape, number(1), scaled(s, -1)), shape=use.shape)


def normal(which: str, x: Expr) -> Expr:
    return call(Term.NORMAL, x, shape=x.shape, which=which)


def silu(use: Use) -> Expr:
    (x,) = use.args
    return product(use.shape, x, logistic(x))


def gelu(use: Use) -> Expr:
    (x,) = use.args
    if use.attrs["approximate"] != "none":
        return interned(use.op, use.args, use.attrs, use.shape)
    return product(use.shape, x, normal("Phi", x))


def cross_entropy(use: Use) -> Expr:
    z, t = use.args[:2]
    logp = call(ops.log, call(ops.softmax, z, shape=z.shape), shape=z.shape)
    return weighted_sum(use, targets(use, t, z), logp)


def nll(use: Use) -> Expr:
    logp, t = use.args
    return weighted_sum(use, targets(use, t, logp), logp)


def targets(use: Use, t: Expr, z: Expr) -> Expr:
    """Labels as one-hot rows."""
    return t if t.shape == z.shape else use.context.labels(t, z.shape)


def weighted_sum(use: Use, a: Expr, b: Expr) -> Expr:
    inner = product(b.shape, a, b)
    return product((), number(-1), use.context.scale(use.node), reduced(ops.sum, inner, range(len(b.shape)), False))


def logistic_loss(use: Use) -> Expr:
    z, a, b = use.args
    s = logistic(z)
    b = use.context.complement(use.node, a, b)
    sides = (product(z.shape, a, call(ops.log, s, shape=z.shape)),
             product(z.shape, b, call(ops.log, total(z.shape, number(1), scaled(s, -1)), shape=z.shape)))  # fmt: skip
    inner = total(z.shape, *sides)
    return product((), number(-1), use.context.scale(use.node), reduced(ops.sum, inner, range(len(z.shape)), False))


def relation(sign: str) -> Callable[[Use], Expr]:
    return lambda use: bracket(sign, use.args[0], use.args[1], use.shape)


FORMS: dict[Head, Callable[[Use], Expr]] = {
    ops.add: lambda use: total(use.shape, *use.args),
    ops.sub: lambda use: total(use.shape, use.args[0], scaled(use.args[1], -1)),
    ops.neg: lambda use: scaled(use.args[0], -1),
    ops.mul: multiplied,
    ops.div: divided,
    ops.mul_grad: lambda use: product(use.shape, *use.args),
    ops.div_grad: lambda use: quotient(use.shape, *use.args),
    ops.reciprocal: lambda use: powered(use.args[0], -1),
    ops.square: lambda use: powered(use.args[0], 2),
    ops.power: power,
    ops.sqrt: root,
    ops.hypot: hypot,
    ops.exp: exponential,
    ops.log: logarithm,
    ops.log1p: log1p,
    ops.gelu: gelu,
    ops.silu: silu,
    ops.relu: lambda use: call(ops.maximum, use.args[0], number(0), shape=use.shape),
    ops.logsigmoid: lambda use: call(ops.log, logistic(use.args[0]), shape=use.shape),
    log_complement_sigmoid: complement_of_logistic,
    ops.sigmoid: lambda use: logistic(use.args[0]),
    ops.softmax: softmax,
    ops.log_softmax: log_softmax,
    ops.relu_grad: relu_slope,
    ops.sigmoid_grad: sigmoid_slope,
    ops.tanh_grad: tanh_slope,
    ops.where: where,
    ops.greater: relation(">"),
    ops.greater_equal: relation(">="),
    ops.less: relation("<"),
    ops.less_equal: relation("<="),
    ops.equal: relation("=="),
    ops.not_equal: relation("!="),
    statistics.first_of: first_of,
    ops.sum: reduction,
    ops.mean: reduction,
    ops.max: reduction,
    ops.min: reduction,
    ops.norm: reduction,
    ops.logsumexp: reduction,
    ops.sum_to: sum_to,
    ops.broadcast_to: lambda use: everywhere(use.args[0], use.shape),
    ops.reshape: lambda use: reshaped(use.args[0], use.shape),
    ops.astype: first_arg,
    ops.transpose: transpose,
    ops.matmul: lambda use: matmul(use.args[0], use.args[1], use.shape),
    ops.linear: layer,
    ops.einsum: einsum,
    ops.one_hot: one_hot,
    ops.softmax_cross_entropy: cross_entropy,
    ops.sigmoid_cross_entropy: logistic_loss,
    ops.nll_loss: nll,
}

"""Closed formulas of gradients: of losses, and of patterns of several ops."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from tensorgrad import ops
from tensorgrad.core.node import Node
from tensorgrad.draw.algebra import (
    everywhere,
    keepdims_shape,
    number,
    powered,
    product,
    quotient,
    reduced,
    reshaped,
    scaled,
    total,
)
from tensorgrad.draw.expression import Expr, Term, call
from tensorgrad.draw.formula import Use, axes_of, logistic, norm_of, normal, root_mean_square, targets


def mean(use: Use, g: Expr) -> list[Expr | None]:
    """gx = g / n repeated"""
    (x,) = use.args
    axes = axes_of(use.attrs["axis"], x.shape)
    if not axes:
        return [g]
    share = quotient(g.shape, g, use.context.count(use.node, axes))
    return [everywhere(reshaped(share, keepdims_shape(x.shape, axes)), x.shape)]


def cross_entropy(use: Use, g: Expr) -> list[Expr | None]:
    """gz = g (softmax(z) - Y) / m; with rows of Y that do not sum to 1, softmax(z) sum(Y) takes the place of softmax(z)"""
    z, t = use.args[:2]
    y = targets(use, t, z)
    p = call(ops.softmax, z, shape=z.shape)
    if t.shape == z.shape and not use.context.sums_to_one(t):
        p = product(z.shape, p, reduced(ops.sum, t, (len(z.shape) - 1,), True))
    return [product(z.shape, use.context.scale(use.node), total(z.shape, p, scaled(y, -1)), g), None]


def nll(use: Use, g: Expr) -> list[Expr | None]:
    """glogp = -g Y / m"""
    logp, t = use.args
    return [scaled(product(logp.shape, use.context.scale(use.node), targets(use, t, logp), g), -1), None]


def logistic_loss(use: Use, g: Expr) -> list[Expr | None]:
    """gz = g (sigmoid(z) - a) / m, for b = 1 - a"""
    z, a, b = use.args
    p = logistic(z)
    total_weight = total(z.shape, a, use.context.complement(use.node, a, b))
    p = product(z.shape, total_weight, p)
    return [product(z.shape, use.context.scale(use.node), total(z.shape, p, scaled(a, -1)), g), None, None]


def silu(use: Use, g: Expr) -> list[Expr | None]:
    """gx = g (s + x s (1 - s)), s = sigmoid(x)"""
    (x,) = use.args
    s = logistic(x)
    slope = total(x.shape, s, product(x.shape, x, s, total(x.shape, number(1), scaled(s, -1))))
    return [product(x.shape, g, slope)]


def gelu(use: Use, g: Expr) -> list[Expr | None] | None:
    """gx = g (Phi(x) + x phi(x)), for the exact one"""
    (x,) = use.args
    if use.attrs["approximate"] != "none":
        return None
    slope = total(x.shape, normal("Phi", x), product(x.shape, x, normal("phi", x)))
    return [product(x.shape, g, slope)]


def root_mean_square_gradient(use: Use, g: Expr) -> list[Expr | None] | None:
    """The gradient of the norm in s = norm(d) / sqrt(n), a form of sqrt(mean(d²)) that some functions use: gd = g d / (n s)"""
    s = root_mean_square(use)
    if s is None:
        return None
    norm = norm_of(use.node)
    n = use.context.count(norm, axes_of(norm.attrs["axis"], norm.inputs[0].shape))
    shared = product(use.shape, g, powered(n, -1), powered(s, -1))
    return [product(use.shape, shared, a) if a.head is Term.REDUCED else None for a in use.args]


CLOSED: dict[object, Callable[[Use, Expr], list[Expr | None] | None]] = {
    ops.mean: mean,
    ops.softmax_cross_entropy: cross_entropy,
    ops.nll_loss: nll,
    ops.sigmoid_cross_entropy: logistic_loss,
    ops.gelu: gelu,
    ops.silu: silu,
    ops.mul: root_mean_square_gradient,
}


class Standardised(NamedTuple):
    """(x - mean(x)) / sqrt(mean((x - mean(x))²) + eps), a part of layer norm, batch norm and others."""

    x: object  # a node or a leaf
    axes: tuple[int, ...]
    deviation: Node  # the root


def standardised(node: Node) -> Standardised | None:
    """The standardisation that ends in `node`, if there is one."""
    if node.op is not ops.div or not all(isinstance(s, Node) for s in node.inputs):
        return None
    d, s = node.inputs
    if d.op is not ops.sub or not isinstance(d.inputs[1], Node):
        return None
    x, m = d.inputs
    if m.op is not ops.mean or m.inputs[0] is not x or not m.attrs["keepdims"]:
        return None
    axes = axes_of(m.attrs["axis"], x.shape)
    square = variance_of(s)
    if square is None or (square.op is not ops.mean and square.op is not ops.norm):
        return None
    inner = square.inputs[0]
    if square.op is ops.mean:
        if not isinstance(inner, Node) or not is_square(inner):
            return None
        inner = inner.inputs[0]
    same_deviation = inner is d or is_deviation(inner, x, axes)
    same_axes = axes_of(square.attrs["axis"], x.shape) == axes and square.attrs["keepdims"]
    return Standardised(x, axes, s) if same_deviation and same_axes else None


def variance_of(s: Node) -> Node | None:
    """The mean of squares in sqrt(mean + eps), or the norm in hypot(norm / sqrt(n), sqrt(eps))."""
    if s.op is ops.hypot and isinstance(s.inputs[0], Node) and s.function is not None:
        inner = s.inputs[0]
        return next((n for n in inner.inputs if isinstance(n, Node)), None) if inner.op is ops.mul else None
    if s.op is ops.sqrt and isinstance(s.inputs[0], Node):
        inner = s.inputs[0]
        if inner.op is ops.add:
            numbers = [n for n in inner.inputs if not isinstance(n, Node)]
            inner = next((n for n in inner.inputs if isinstance(n, Node)), inner)
            if not all(isinstance(n, (int, float)) for n in numbers):
                return None
        while inner.op is ops.mul and 1.0 in inner.inputs:  # the correction factor of var, with ddof=0
            inner = next(n for n in inner.inputs if isinstance(n, Node))
        return inner
    return None


def is_square(node: Node) -> bool:
    if node.op is ops.power:
        return bool(node.inputs[1] == 2) if isinstance(node.inputs[1], (int, float)) else False
    return node.op is ops.square or (node.op is ops.mul and node.inputs[0] is node.inputs[1])


def is_deviation(d: object, x: object, axes: tuple[int, ...]) -> bool:
    """Whether d is x - mean(x), computed again."""
    if not isinstance(d, Node) or d.op is not ops.sub or d.inputs[0] is not x or not isinstance(d.inputs[1], Node):
        return False
    m = d.inputs[1]
    return m.op is ops.mean and m.inputs[0] is x and axes_of(m.attrs["axis"], m.inputs[0].shape) == axes


def standardised_gradient(g: Expr, xhat: Expr, deviation: Expr, axes: tuple[int, ...]) -> Expr:
    """gx = (g - mean(g) - xhat * mean(g * xhat)) / s: g without its mean and its component along xhat."""
    shape = xhat.shape

    def mean(e: Expr) -> Expr:
        return reduced(ops.mean, e, axes, True)

    along = product(shape, xhat, mean(product(shape, g, xhat)))
    g_everywhere = everywhere(g, shape)
    return product(shape, powered(deviation, -1), total(shape, g, scaled(mean(g_everywhere), -1), scaled(along, -1)))

"""Fusion: patterns of recorded nodes that one op with a closed formula stands for.

Before the reverse walk, `match` looks for the patterns that people fuse by hand when they derive gradients on paper::

    x @ W + b                                        linear
    relu(linear), sigmoid(linear), tanh(linear)      linear_relu, linear_sigmoid, linear_tanh
    log(softmax(z))                                  log_softmax
    nll_loss(log_softmax(z), labels)                 softmax_cross_entropy
    c * sum(Y * log_softmax(z)), however it is       softmax_cross_entropy
      spelled with sums, means, signs and factors

Only the backward pass changes. What was computed forward stays as it is, and a pattern is left alone where somebody could
see the difference: an intermediate that has another reader, or whose own gradient was asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

from tensorgrad.op import Node, Op
from tensorgrad.ops import (
    add,
    div,
    linear,
    linear_relu,
    linear_sigmoid,
    linear_tanh,
    log,
    log_softmax,
    matmul,
    mean,
    mul,
    neg,
    nll_loss,
    relu,
    sigmoid,
    softmax,
    softmax_cross_entropy,
    sum,
    tanh,
)
from tensorgrad.state import switched
from tensorgrad.tensor import Tensor


def off() -> AbstractContextManager[None]:
    """Inside `with tensorgrad.fusion.off():` every op is evaluated and differentiated on its own, in this thread."""
    return switched(fusing=False)


def on() -> AbstractContextManager[None]:
    """Undo `off()` inside a `with` block."""
    return switched(fusing=True)


def match(nodes: list[Node], asked: Container[Any] = ()) -> dict[Node, Node]:
    """The fused node for each node that ends a pattern. `nodes`: latest first; `asked`: whose gradients are asked for."""
    readers: dict[Any, int] = {}
    for node in nodes:
        for source in node.inputs:
            if isinstance(source, Node):
                readers[source] = readers.get(source, 0) + 1

    def hidden(node: Any) -> bool:
        """Whether only the pattern itself can see this intermediate."""
        return readers.get(node) == 1 and node not in asked and node.retain is None

    fused: dict[Node, Node] = {}
    gone: set[Node] = set()
    for node in nodes:
        pattern = None if node in gone else PATTERNS.get(node.op)
        found = pattern(node, hidden) if pattern else None
        if found is not None:
            fused[node] = found
            gone.update(found.members)
    return fused


# A pattern gets the node that may end it and returns the fused node, or None. `members` are the nodes it stands for.
Hidden: TypeAlias = Callable[[Any], bool]
Pattern: TypeAlias = Callable[[Node, Hidden], Node | None]


def replace(end: Node, op: Op, inputs: list[Any], saved: list[Any], members: list[Node], **attrs: Any) -> Node:
    """The node that computes the same as `end` by `op`."""
    return end.replaced(op=op, inputs=tuple(inputs), attrs=attrs, saved=tuple(saved), members=tuple(members))


def match_linear(end: Node, hidden: Hidden) -> Node | None:
    """x @ W + b, or the op `linear` itself (which then is its only member)."""
    if end.op is linear:
        return replace(end, linear, list(end.inputs), list(end.saved or ()), [end])
    for product, bias in (end.inputs, end.inputs[::-1]):
        if isinstance(product, Node) and product.op is matmul and hidden(product):
            x, w = product.inputs
            if len(w.shape) == 2 and getattr(bias, "shape", None) == w.shape[1:]:
                return replace(end, linear, [x, w, bias], [*(product.saved or ()), None], [end, product])
    return None


def match_activation(fused_op: Op) -> Pattern:
    """activation(x @ W + b)"""

    def pattern(end: Node, hidden: Hidden) -> Node | None:
        (z,) = end.inputs
        if not (isinstance(z, Node) and z.op in (linear, add) and hidden(z)):
            return None
        layer = match_linear(z, hidden)
        if layer is None:
            return None
        return replace(end, fused_op, list(layer.inputs), list(layer.saved or ()), [end, *layer.members])

    return pattern


def match_log_softmax(end: Node, hidden: Hidden) -> Node | None:
    """log(softmax(z)), or the op `log_softmax` itself."""
    if end.op is log_softmax:
        return replace(end, log_softmax, list(end.inputs), list(end.saved or ()), [end], **end.attrs)
    (p,) = end.inputs
    if end.out is not None and isinstance(p, Node) and p.op is softmax and hidden(p):
        return replace(end, log_softmax, list(p.inputs), [None], [end, p], **p.attrs)
    return None


def over_classes(source: Any, hidden: Hidden) -> Node | None:
    """The log_softmax over the last axis that `source` is, if only the pattern reads it."""
    if isinstance(source, Node) and source.op in (log_softmax, log) and hidden(source):
        logp = match_log_softmax(source, hidden)
        if logp is not None and logp.attrs["axis"] in (-1, source.ndim - 1):
            return logp
    return None


def cross_entropy(end: Node, logp: Node, target: Any, value: Any, scale: float, members: list[Node]) -> Node:
    # the log-probabilities are there already: the fused op takes them as its third input
    return replace(
        end,
        softmax_cross_entropy,
        [logp.inputs[0], target, logp.members[0]],
        [None, value, logp.out],
        [*members, *logp.members],
        scale=scale,
    )


def match_nll(end: Node, hidden: Hidden) -> Node | None:
    """nll_loss(log_softmax(z), labels)"""
    logp = over_classes(end.inputs[0], hidden)
    if logp is None:
        return None
    scale = 1 / max(math.prod(logp.shape[:-1]), 1)
    return cross_entropy(end, logp, end.inputs[1], (end.saved or ())[1], scale, [end])


def match_weighted_sum(end: Node, hidden: Hidden) -> Node | None:
    """c * sum(Y * log_softmax(z)): from a scalar down through signs, factors, sums and means to the product with Y."""
    if end.shape:
        return None
    scale = 1.0
    members: list[Node] = []
    node = end
    while True:
        members.append(node)
        if node.op is mul and (factor := _number(node)) is None:
            break
        source = node.inputs[0]
        if node.op is neg:
            scale = -scale
        elif node.op is mean:
            scale *= node.size / max(math.prod(source.shape), 1)
        elif node.op is mul and factor is not None:
            scale *= factor
            source = node.inputs[0] if isinstance(node.inputs[0], Node) else node.inputs[1]
        elif node.op is div and (divisor := _number(node)) is not None and isinstance(source, Node):
            scale /= divisor
        elif node.op is not sum:
            return None
        if not (isinstance(source, Node) and hidden(source)):
            return None
        node = source
    for i, target in enumerate(node.inputs[::-1]):
        logp = over_classes(node.inputs[i], hidden)
        constant = not isinstance(target, Node) and not (isinstance(target, Tensor) and target.requires_grad)
        if logp is not None and constant and getattr(target, "shape", None) == node.shape == logp.shape:
            return cross_entropy(end, logp, target, (node.saved or ())[1 - i], -scale, members)
    return None


def _number(node: Node) -> float | None:
    """The constant number that `node` multiplies or divides by, if it is one number."""
    if isinstance(node.inputs[0], Node) == isinstance(node.inputs[1], Node):
        return None
    constant = node.inputs[1] if isinstance(node.inputs[0], Node) else node.inputs[0]
    if isinstance(constant, Tensor):
        return None if constant.requires_grad or constant.ndim else float(constant.data)
    return float(constant)


PATTERNS: dict[Op, Pattern] = {
    add: match_linear,
    relu: match_activation(linear_relu),
    sigmoid: match_activation(linear_sigmoid),
    tanh: match_activation(linear_tanh),
    log: match_log_softmax,
    nll_loss: match_nll,
    neg: match_weighted_sum,
    mean: match_weighted_sum,
    sum: match_weighted_sum,
    mul: match_weighted_sum,
    div: match_weighted_sum,
}

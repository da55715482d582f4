"""Fusion: replaces patterns of recorded nodes by one op with a closed formula.

Before the reverse walk, `match` looks for the patterns that people fuse by hand when they derive gradients on paper::

    x @ W + b                                        linear
    activation(linear), where there is an op for it  linear_relu, linear_sigmoid, linear_tanh (by Op.expands)
    log(softmax(z))                                  log_softmax
    log(sigmoid(z))                                  logsigmoid
    log(1 - sigmoid(z)), log1p(-sigmoid(z))          log_complement_sigmoid
    nll_loss(log_softmax(z), labels)                 softmax_cross_entropy
    c * sum(Y * log_softmax(z)), however it is       softmax_cross_entropy
      spelled with sums, means, signs and factors
    c * sum(a * log(p) + b * log(1 - p)) likewise,   sigmoid_cross_entropy
      for p = sigmoid(z)

Only the backward pass changes. Forward values stay as computed, and a pattern is not fused where the difference could be seen:
if an intermediate has another reader, or if its own gradient is requested. Every pattern checks its operands: their shapes, and
which must be constants. Dtypes are left to the fused op, which accepts those of the ops that it replaces.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container
from typing import Any, NamedTuple, TypeAlias

from tensorgrad.core.graph import Graph
from tensorgrad.core.node import Node
from tensorgrad.core.op import REGISTRY, Op
from tensorgrad.core.state import state, switched
from tensorgrad.core.tensor import Tensor
from tensorgrad.ops import (
    add,
    div,
    linear,
    log,
    log1p,
    log_softmax,
    logsigmoid,
    matmul,
    mean,
    mul,
    mul_grad,
    neg,
    nll_loss,
    sigmoid_cross_entropy,
    softmax_cross_entropy,
    sub,
    sum,
)
from tensorgrad.ops.activation import log_complement_sigmoid
from tensorgrad.ops.exponential import closed_form


def off() -> switched:
    """Context manager `with tensorgrad.fusion.off():` evaluate and differentiate every op on its own, in this thread."""
    return switched(fusing=False)


def on() -> switched:
    """Context manager that undoes `off()`."""
    return switched(fusing=True)


def match(nodes: list[Node], requested: Container[Any] = ()) -> dict[Node, Node]:
    """The fused node for each node that ends a pattern. `nodes`: latest first; `requested`: those that need a gradient."""
    graph = GraphView(nodes, requested)
    fused: dict[Node, Node] = {}
    replaced: set[Node] = set()
    for node in nodes:
        if node in replaced:
            continue
        if graph.readers.get(node) == 0:  # its reader has been fused and no longer reads it
            graph.forget((node,))
            continue
        pattern = PATTERNS.get(node.op)
        replacement = pattern(node, graph) if pattern else None
        if replacement is not None:
            fused[node] = replacement
            replaced.update(replacement.members)
            graph.forget(replacement.members)
            graph.count(replacement)
    return fused


def fused(graph: Graph) -> Graph:
    """The same graph with every pattern replaced by its fused op."""
    replacements = match(list(reversed(graph.nodes)), set(graph.outputs[1:]))
    copies: dict[Any, Node] = {}
    hidden = {member for node in replacements.values() for member in node.members}
    for node in graph.nodes:
        replacement = replacements.get(node, node)
        if replacement is node and node in hidden:
            continue
        # an input computed inside the pattern is a value that backward had; the fused op recomputes it
        kept_inputs = [
            i for i, source in enumerate(replacement.inputs) if not (isinstance(source, Node) and source in replacement.members)
        ]
        saved = tuple(replacement.saved[i] for i in kept_inputs) if replacement.saved else replacement.saved
        copies[node] = replacement.replaced(
            inputs=tuple(copies.get(replacement.inputs[i], replacement.inputs[i]) for i in kept_inputs), saved=saved
        )
    return Graph([copies[node] for node in graph.outputs])


class GraphView:
    """Queries of patterns about the graph around them."""

    def __init__(self, nodes: list[Node], requested: Container[Any]) -> None:
        self.requested = requested
        self.failed_starts: set[Node] = set()  # visited by a search that failed, so searches from there would fail too
        self.readers: dict[Node, int] = {}  # number of readers
        readers = self.readers
        for node in nodes:  # count() inlined
            for source in node.inputs:
                if isinstance(source, Node):
                    readers[source] = readers.get(source, 0) + 1

    def count(self, node: Node) -> None:
        """Count `node` as a reader of its inputs."""
        for source in node.inputs:
            if isinstance(source, Node):
                self.readers[source] = self.readers.get(source, 0) + 1

    def forget(self, nodes: tuple[Node, ...]) -> None:
        """Remove `nodes` from the readers of their inputs."""
        for node in nodes:
            for source in node.inputs:
                if isinstance(source, Node):
                    self.readers[source] -= 1

    def is_internal(self, node: Node) -> bool:
        """Whether only the pattern itself uses this intermediate."""
        return self.readers.get(node) == 1 and not self.is_watched(node)

    def is_watched(self, node: Node) -> bool:
        """Whether the gradient of this intermediate is requested."""
        return node in self.requested or node.retain is not None or node.hooks is not None


# A pattern gets the node that may end it and returns the fused node or None. `members` are the nodes that it replaces.
Pattern: TypeAlias = Callable[[Node, GraphView], Node | None]


class Layer(NamedTuple):
    """x @ W + b as part of a larger pattern."""

    inputs: tuple[Any, ...]
    saved: tuple[Any, ...]
    members: tuple[Node, ...]


def replace(
    end: Node, op: Op, inputs: tuple[Any, ...], saved: tuple[Any, ...], members: tuple[Node, ...], **attrs: Any
) -> Node:
    """A node that computes the result of `end` with `op`."""
    return end.replaced(op, inputs, saved, members, attrs)


def as_layer(z: Node, graph: GraphView) -> Layer | None:
    """`z` as x @ W + b: the op `linear`, or a matmul and an add."""
    if z.op is linear:
        return Layer(z.inputs, z.saved or (), (z,))
    for product, bias in (z.inputs, z.inputs[::-1]):
        if isinstance(product, Node) and product.op is matmul and graph.is_internal(product):
            x, w = product.inputs
            if len(w.shape) == 2 and getattr(bias, "shape", None) == w.shape[1:]:
                return Layer((x, w, bias), (*(product.saved or (None, None)), None), (z, product))
    return None


def match_linear(end: Node, graph: GraphView) -> Node | None:
    """x @ W + b"""
    layer = as_layer(end, graph)
    return replace(end, linear, *layer) if layer else None


def match_add(end: Node, graph: GraphView) -> Node | None:
    """A layer, or a loss that ends in the sum of its two terms."""
    return match_linear(end, graph) or match_loss(end, graph)


def match_activation(fused_op: Op) -> Pattern:
    """activation(x @ W + b)"""

    def pattern(end: Node, graph: GraphView) -> Node | None:
        (z,) = end.inputs
        if not (isinstance(z, Node) and z.op in (linear, add) and graph.is_internal(z)):
            return None
        layer = as_layer(z, graph)
        return replace(end, fused_op, layer.inputs, layer.saved, (end, *layer.members)) if layer else None

    return pattern


class Logarithm(NamedTuple):
    """The logarithm of a softmax or sigmoid of logits, computed by `op`, as part of a larger pattern."""

    op: Op
    logits: Any
    value: Any  # the logits, if kept
    attrs: dict[str, Any]
    members: tuple[Node, ...]


def as_logarithm(end: Node, graph: GraphView) -> Logarithm | None:
    """`end` as an op of logits: that op itself, or a logarithm that was evaluated by it.

    Intermediates may have other readers (p and 1 - p do in a logistic loss); they are then kept for them.
    """
    if end.op in LOGARITHMS:
        return Logarithm(end.op, end.inputs[0], end.saved[0] if end.saved else None, end.attrs, (end,))
    inner = end.inputs[0]
    form = closed_form(end.op, inner) if end.op in (log, log1p) and end.out is not None and isinstance(inner, Node) else None
    if form is None:
        return None
    op, last, intermediates = form
    is_internal = True
    members = [end]
    for node in (*intermediates, last):
        if graph.is_watched(node):
            return None
        is_internal = is_internal and graph.is_internal(node)
        if is_internal:
            members.append(node)
    return Logarithm(op, last.inputs[0], last.saved[0] if last.saved else None, last.attrs, tuple(members))


def match_logarithm(end: Node, graph: GraphView) -> Node | None:
    """log(softmax(z)), log(sigmoid(z)), log(1 - sigmoid(z)) and log1p(-sigmoid(z))"""
    logarithm = as_logarithm(end, graph)
    if logarithm is None:
        return None
    saved = logarithm.value if logarithm.op.reads_some else None
    return replace(end, logarithm.op, (logarithm.logits,), (saved,), logarithm.members, **logarithm.attrs)


def as_log_softmax(source: Any, graph: GraphView) -> Logarithm | None:
    """`source` as a log_softmax over the last axis that only the pattern reads."""
    if isinstance(source, Node) and source.op in (log_softmax, log) and graph.is_internal(source):
        logp = as_logarithm(source, graph)
        if logp is not None and logp.op is log_softmax and logp.attrs["axis"] in (-1, source.ndim - 1):
            return logp
    return None


def cross_entropy(end: Node, logp: Logarithm, target: Any, value: Any, scale: float, members: list[Node]) -> Node:
    # the fused op takes the existing log-probabilities as its third input
    inputs = (logp.logits, target, logp.members[0])
    saved = (None, value, logp.members[0].out)
    return replace(end, softmax_cross_entropy, inputs, saved, (*members, *logp.members), scale=scale)


def match_nll(end: Node, graph: GraphView) -> Node | None:
    """nll_loss(log_softmax(z), labels)"""
    logp = as_log_softmax(end.inputs[0], graph)
    if logp is None:
        return None
    scale = 1 / max(math.prod(logp.logits.shape[:-1]), 1)
    labels = end.saved[1] if end.saved else None  # a graph for drawing may have freed them
    return cross_entropy(end, logp, end.inputs[1], labels, scale, [end])


def match_loss(end: Node, graph: GraphView) -> Node | None:
    """c * sum(Y * log_softmax(z)) and c * sum(a * log(p) + b * log(1 - p)) for p = sigmoid(z): searched from a scalar through
    signs, factors, sums and means to the products with the weights.
    """
    if end.shape or end in graph.failed_starts:
        return None
    scale = 1.0
    members: list[Node] = []
    node = end
    while True:
        graph.failed_starts.add(node)
        members.append(node)
        if node.op in (add, sub):
            return logistic(end, node, scale, members, graph)
        if node.op in PRODUCTS and (factor := _number(node)) is None:
            return weighted(end, node, scale, members, graph)
        source = node.inputs[0]
        if node.op is neg:
            scale = -scale
        elif node.op is mean:
            scale *= node.size / max(math.prod(source.shape), 1)
        elif node.op is mul:
            assert factor is not None
            scale *= factor
            source = node.inputs[0] if isinstance(node.inputs[0], Node) else node.inputs[1]
        elif node.op is div and (divisor := _number(node)) and isinstance(source, Node):
            scale /= divisor
        elif node.op is not sum:
            return None
        if not (isinstance(source, Node) and graph.is_internal(source)):
            return None
        node = source


def weighted(end: Node, node: Node, scale: float, members: list[Node], graph: GraphView) -> Node | None:
    """The cross-entropy whose product of constants and a log_softmax is `node`."""
    for target, saved, source in factors(node):
        logp = as_log_softmax(source, graph)
        if logp is not None and is_weight(target, node) and logp.logits.shape == node.shape:
            return cross_entropy(end, logp, target, saved, -scale, members)
    return None


def logistic(end: Node, node: Node, scale: float, members: list[Node], graph: GraphView) -> Node | None:
    """The logistic loss whose sum or difference of two products of constants with log(p) and log(1 - p) is `node`."""
    sides: dict[Op, tuple[Any, Any, Logarithm]] = {}
    signs = []
    for term, sign in zip(node.inputs, (1, -1 if node.op is sub else 1), strict=True):
        while isinstance(term, Node) and term.op is neg and graph.is_internal(term):
            members.append(term)
            term, sign = term.inputs[0], -sign
        if not (isinstance(term, Node) and term.op in PRODUCTS and graph.is_internal(term)):
            return None
        signs.append(sign)
        for count, saved, source in factors(term):
            logarithm = as_logarithm(source, graph) if isinstance(source, Node) and graph.is_internal(source) else None
            if (
                logarithm is not None
                and logarithm.op in SIDES
                and is_weight(count, node)
                and logarithm.logits.shape == node.shape
            ):
                sides[logarithm.op] = count, saved, logarithm
                members += [term, *logarithm.members]
                break
        else:
            return None
    if len(sides) < 2 or len(set(signs)) > 1:
        return None
    (a, saved_a, positive), (b, saved_b, negative) = (sides[op] for op in SIDES)
    if positive.logits is not negative.logits:
        return None
    inputs, saved = (positive.logits, a, b), (positive.value, saved_a, saved_b)
    return replace(end, sigmoid_cross_entropy, inputs, saved, tuple(members), scale=-scale * signs[0])


def factors(node: Node) -> list[tuple[Any, Any, Any]]:
    """The ways to read a product as a weight times a value: the weight, its kept array, and the value."""
    saved = node.saved or (None, None)
    first_as_weight = (node.inputs[0], saved[0], node.inputs[1])
    return [first_as_weight] if node.op is mul_grad else [(node.inputs[1], saved[1], node.inputs[0]), first_as_weight]


def is_weight(source: Any, node: Node) -> bool:
    """Whether `source` is a valid weight for the elements of `node`: a constant of its shape, of any dtype."""
    return isinstance(source, (Node, Tensor)) and not source.requires_grad and source.shape == node.shape


def _number(node: Node) -> float | None:
    """The constant that `node` multiplies or divides by, if it is a single number."""
    if isinstance(node.inputs[0], Node) == isinstance(node.inputs[1], Node):
        return None
    i = 1 if isinstance(node.inputs[0], Node) else 0
    constant = node.inputs[i]
    if isinstance(constant, Tensor):
        if state.tracing:  # replays read its current value
            return None
        if constant.requires_grad or constant.ndim:
            return None
        value = node.saved[i] if node.saved else constant._data  # a graph for drawing may have freed it
        return None if value is None else float(value)
    return float(constant)


PRODUCTS = (mul, mul_grad)  # in the second, a weight of 0 gives 0 for any value
SIDES = (logsigmoid, log_complement_sigmoid)  # the terms of a logistic loss
LOGARITHMS = (log_softmax, *SIDES)  # ops that evaluate logarithms of a softmax or a sigmoid
PATTERNS: dict[Op, Pattern] = {
    add: match_add,
    **{op.expands[1]: match_activation(op) for op in REGISTRY.values() if len(op.expands) == 2 and op.expands[0] is linear},
    log: match_logarithm,
    log1p: match_logarithm,
    nll_loss: match_nll,
    **dict.fromkeys((neg, mean, sum, mul, mul_grad, div, sub), match_loss),
}

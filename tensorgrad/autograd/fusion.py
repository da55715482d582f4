"""Fusion: patterns of recorded nodes that one op with a closed formula stands for.

Before the reverse walk, `match` looks for the patterns that people fuse by hand when they derive gradients on paper::

    x @ W + b                                        linear
    activation(linear), where there is an op for it  linear_relu, linear_sigmoid, linear_tanh (by Op.expands)
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
    log_softmax,
    matmul,
    mean,
    mul,
    neg,
    nll_loss,
    softmax_cross_entropy,
    sum,
)


def off() -> AbstractContextManager[None]:
    """Inside `with tensorgrad.fusion.off():` every op is evaluated and differentiated on its own, in this thread."""
    return switched(fusing=False)


def on() -> AbstractContextManager[None]:
    """Undo `off()` inside a `with` block."""
    return switched(fusing=True)


def match(nodes: list[Node], asked: Container[Any] = ()) -> dict[Node, Node]:
    """The fused node for each node that ends a pattern. `nodes`: latest first; `asked`: whose gradients are asked for."""
    graph = Reading(nodes, asked)
    fused: dict[Node, Node] = {}
    gone: set[Node] = set()
    for node in nodes:
        pattern = None if node in gone else PATTERNS.get(node.op)
        found = pattern(node, graph) if pattern else None
        if found is not None:
            fused[node] = found
            gone.update(found.members)
    return fused


def fused(graph: Graph) -> Graph:
    """The same program with every pattern that fusion knows replaced by its fused op."""
    found = match(list(reversed(graph.nodes)), set(graph.outputs[1:]))
    made: dict[Any, Node] = {}
    hidden = {member for node in found.values() for member in node.members}
    for node in graph.nodes:
        use = found.get(node, node)
        if use is node and node in hidden:
            continue
        # an input that the pattern itself computes is a value that backward had at hand: the fused op makes it anew
        keep = [i for i, source in enumerate(use.inputs) if not (isinstance(source, Node) and source in use.members)]
        saved = tuple(use.saved[i] for i in keep) if use.saved else use.saved
        made[node] = use.replaced(inputs=tuple(made.get(use.inputs[i], use.inputs[i]) for i in keep), saved=saved)
    return Graph([made[node] for node in graph.outputs])


class Reading:
    """What a pattern asks about the graph around it."""

    def __init__(self, nodes: list[Node], asked: Container[Any]) -> None:
        self.asked = asked
        self.tried: set[Node] = set()  # passed on the way down by a search that found nothing: no use to start there again
        self.readers: dict[Node, int] = {}
        for node in nodes:
            for source in node.inputs:
                if isinstance(source, Node):
                    self.readers[source] = self.readers.get(source, 0) + 1

    def hidden(self, node: Node) -> bool:
        """Whether only the pattern itself can see this intermediate."""
        return self.readers.get(node) == 1 and node not in self.asked and node.retain is None and node.hooks is None


# A pattern gets the node that may end it and returns the fused node, or None. `members` are the nodes it stands for.
Pattern: TypeAlias = Callable[[Node, Reading], Node | None]


class Layer(NamedTuple):
    """x @ W + b, as a part of a larger pattern."""

    inputs: tuple[Any, ...]
    saved: tuple[Any, ...]
    members: tuple[Node, ...]


def replace(
    end: Node, op: Op, inputs: tuple[Any, ...], saved: tuple[Any, ...], members: tuple[Node, ...], **attrs: Any
) -> Node:
    """The node that computes the same as `end` by `op`."""
    return end.replaced(op, inputs, saved, members, attrs)


def as_layer(z: Node, graph: Reading) -> Layer | None:
    """`z` as x @ W + b: the op `linear`, or the two ops that it stands for."""
    if z.op is linear:
        return Layer(z.inputs, z.saved or (), (z,))
    for product, bias in (z.inputs, z.inputs[::-1]):
        if isinstance(product, Node) and product.op is matmul and graph.hidden(product):
            x, w = product.inputs
            if len(w.shape) == 2 and getattr(bias, "shape", None) == w.shape[1:]:
                return Layer((x, w, bias), (*(product.saved or (None, None)), None), (z, product))
    return None


def match_linear(end: Node, graph: Reading) -> Node | None:
    """x @ W + b"""
    layer = as_layer(end, graph)
    return replace(end, linear, *layer) if layer else None


def match_activation(fused_op: Op) -> Pattern:
    """activation(x @ W + b)"""

    def pattern(end: Node, graph: Reading) -> Node | None:
        (z,) = end.inputs
        if not (isinstance(z, Node) and z.op in (linear, add) and graph.hidden(z)):
            return None
        layer = as_layer(z, graph)
        return replace(end, fused_op, layer.inputs, layer.saved, (end, *layer.members)) if layer else None

    return pattern


class LogProbabilities(NamedTuple):
    """log softmax(z), as a part of a larger pattern."""

    logits: Any
    axis: int
    value: Any
    members: tuple[Node, ...]


def as_log_softmax(end: Node, graph: Reading) -> LogProbabilities | None:
    """`end` as log softmax(z): the op, or a log whose value was computed from the logits of a softmax."""
    if end.op is log_softmax:
        return LogProbabilities(end.inputs[0], end.attrs["axis"], end.out, (end,))
    (p,) = end.inputs
    if end.out is not None and isinstance(p, Node) and p.op.log is log_softmax and graph.hidden(p):
        return LogProbabilities(p.inputs[0], p.attrs["axis"], end.out, (end, p))
    return None


def match_log_softmax(end: Node, graph: Reading) -> Node | None:
    """log(softmax(z))"""
    logp = as_log_softmax(end, graph)
    return replace(end, log_softmax, (logp.logits,), (None,), logp.members, axis=logp.axis) if logp else None


def over_classes(source: Any, graph: Reading) -> LogProbabilities | None:
    """The log_softmax over the last axis that `source` is, if only the pattern reads it."""
    if isinstance(source, Node) and source.op in (log_softmax, log) and graph.hidden(source):
        logp = as_log_softmax(source, graph)
        if logp is not None and logp.axis in (-1, source.ndim - 1):
            return logp
    return None


def cross_entropy(end: Node, logp: LogProbabilities, target: Any, value: Any, scale: float, members: list[Node]) -> Node:
    # the log-probabilities are there already: the fused op takes them as its third input
    inputs = (logp.logits, target, logp.members[0])
    return replace(end, softmax_cross_entropy, inputs, (None, value, logp.value), (*members, *logp.members), scale=scale)


def match_nll(end: Node, graph: Reading) -> Node | None:
    """nll_loss(log_softmax(z), labels)"""
    logp = over_classes(end.inputs[0], graph)
    if logp is None:
        return None
    scale = 1 / max(math.prod(logp.logits.shape[:-1]), 1)
    labels = end.saved[1] if end.saved else None  # a graph that is only drawn may have let go of them
    return cross_entropy(end, logp, end.inputs[1], labels, scale, [end])


def match_weighted_sum(end: Node, graph: Reading) -> Node | None:
    """c * sum(Y * log_softmax(z)): from a scalar down through signs, factors, sums and means to the product with Y."""
    if end.shape or end in graph.tried:
        return None
    scale = 1.0
    members: list[Node] = []
    node = end
    while True:
        members.append(node)
        graph.tried.add(node)
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
        if not (isinstance(source, Node) and graph.hidden(source)):
            return None
        node = source
    for i, target in enumerate(node.inputs[::-1]):
        logp = over_classes(node.inputs[i], graph)
        constant = not isinstance(target, Node) and not (isinstance(target, Tensor) and target.requires_grad)
        if logp is not None and constant and getattr(target, "shape", None) == node.shape == logp.logits.shape:
            return cross_entropy(end, logp, target, (node.saved or ())[1 - i], -scale, members)
    return None


def _number(node: Node) -> float | None:
    """The constant number that `node` multiplies or divides by, if it is one number."""
    if isinstance(node.inputs[0], Node) == isinstance(node.inputs[1], Node):
        return None
    i = 1 if isinstance(node.inputs[0], Node) else 0
    constant = node.inputs[i]
    if isinstance(constant, Tensor):
        if state.tracing:  # it is read anew in each replay
            return None
        if constant.requires_grad or constant.ndim:
            return None
        value = node.saved[i] if node.saved else constant._data  # a graph that is only drawn may have let go of it
        return None if value is None else float(value)
    return float(constant)


PATTERNS: dict[Op, Pattern] = {
    add: match_linear,
    **{op.expands[1]: match_activation(op) for op in REGISTRY.values() if len(op.expands) == 2 and op.expands[0] is linear},
    log: match_log_softmax,
    nll_loss: match_nll,
    neg: match_weighted_sum,
    mean: match_weighted_sum,
    sum: match_weighted_sum,
    mul: match_weighted_sum,
    div: match_weighted_sum,
}

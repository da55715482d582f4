"""The steps of draw.play: forward and backward, one operation at a time, with all numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tensorgrad.autograd.saved import as_float32, is_wide
from tensorgrad.core.arithmetic import evaluate
from tensorgrad.core.backend import Array, asarray, move, namespace
from tensorgrad.core.graph import Graph
from tensorgrad.core.node import Node
from tensorgrad.core.tensor import Tensor
from tensorgrad.errors import GraphError
from tensorgrad.ops import astype, sum_to


@dataclass
class Contribution:
    """The contribution of a rule to the gradient of an input: `added`, which gives `total`.

    at       the index of the input among the arguments
    summed   whether the input was broadcast, so that gradients of its copies are summed
    """

    at: int
    source: Node | Tensor
    added: Array
    total: Array
    summed: bool = False


@dataclass
class Step:
    """A computed operation, or its applied rule.

    node           the operation
    value          its result, in the forward pass
    gradient       the incoming gradient, in the backward pass; None if there is none
    contributions  the gradients that the rule adds to the inputs, in the backward pass
    """

    node: Node
    value: Array | None = None
    gradient: Array | None = None
    contributions: list[Contribution] = field(default_factory=list)

    @property
    def is_forward(self) -> bool:
        return self.value is not None


def steps_of(loss: Tensor) -> tuple[Graph, dict[Any, Array], list[Step]]:
    """The program, the values of its leaves and operations, and the steps: each operation, then each rule, starting at the
    loss.

    Values and gradients are computed by the ops' `forward` and `backward`, in the order of the unfused program. Raises
    GraphError if a random draw was not kept.
    """
    program = Graph.of(loss)
    values = values_of(program)
    steps = [Step(node, value=values[node]) for node in program.nodes]
    totals: dict[Any, Array] = {loss.node: np.ones(loss.shape, loss.dtype)}
    for node in reversed(program.nodes):
        if not node.requires_grad or node not in totals:
            continue
        step = Step(node, gradient=totals[node])
        for part in contributions(node, totals[node], values):
            if part.source in totals:
                part.total = totals[part.source] + part.added
            totals[part.source] = part.total
            step.contributions.append(part)
        steps.append(step)
    return program, values, steps


def values_of(program: Graph) -> dict[Any, Array]:
    """The values of all leaves and nodes, in main memory; random draws as they were."""
    values: dict[Any, Array] = {leaf: asarray(move(leaf._data, "cpu")) for leaf in program.leaves}
    drawn = saved_draws(program)
    for node in program.nodes:
        if node.op.draws:
            if node not in drawn:
                raise GraphError(
                    f"draw.play: the random numbers of {node.op.name} were not saved, so its step cannot be repeated"
                )
            values[node] = asarray(move(drawn[node], "cpu"))
            continue
        arrays = [values[s] if isinstance(s, (Node, Tensor)) else s for s in node.inputs]
        values[node] = asarray(evaluate(node.op, namespace(arrays), arrays, node.attrs))
    return values


def saved_draws(program: Graph) -> dict[Node, Array]:
    """Results of random ops, kept by them or their readers for their rules."""
    draws: dict[Node, Array] = {node: node.out for node in program.nodes if node.op.draws and node.out is not None}
    for node in program.nodes:
        for source, array in zip(node.inputs, node.saved or (), strict=False):
            if isinstance(source, Node) and source.op.draws and array is not None:
                draws.setdefault(source, array)
    return draws


def contributions(node: Node, g: Array, values: dict[Any, Array]) -> list[Contribution]:
    """The gradients that an op's rule gives each input that requires one."""
    assert node.op.backward is not None
    wide = is_wide(node)
    inputs: Sequence[Any] = [values[s] if isinstance(s, (Node, Tensor)) else s for s in node.inputs]
    y = values[node]
    if wide:
        g, y, inputs = as_float32(g), as_float32(y), [as_float32(a) for a in inputs]
    result = []
    for at, (source, rule) in enumerate(zip(node.inputs, node.op.backward(g, y, *inputs, **node.attrs), strict=True)):
        if isinstance(source, (Node, Tensor)) and source.requires_grad and rule is not None:
            gradient = asarray(rule())
            added = asarray(sum_to(gradient, source.shape)) if gradient.shape != source.shape else gradient
            added = added if added.dtype == source.dtype else asarray(astype(added, source.dtype))
            result.append(Contribution(at, source, added, added, summed=gradient.shape != source.shape))
    return result

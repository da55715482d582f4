"""Derivatives by the complex step, from a recorded graph.

f(x + i h) = f(x) + i h f'(x) + O(h²): with h = 1e-20 the imaginary part is the derivative to the last digit, nothing being
subtracted (Squire and Trapp, Using complex variables to estimate derivatives of real functions, SIAM Review 40, 1998). It holds
for ops whose `forward` carries complex numbers through as an analytic function; the caller has to see to that.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from tensorgrad.backend import Array
from tensorgrad.graph import Graph
from tensorgrad.op import Node
from tensorgrad.tensor import Tensor
from tensorgrad.testing.suspects import values_of

STEP = 1e-20


class Replay:
    """A recorded graph with the values of all its nodes, ready to be computed again from one leaf on."""

    def __init__(self, leaves: list[Tensor], graph: Graph, known: dict[Any, Array]) -> None:
        self.leaves, self.graph, self.known = leaves, graph, known

    @classmethod
    def of(cls, outputs: list[Tensor], leaves: list[Tensor], expected: Array) -> Replay | None:
        """None if the graph does not give the values that the function gave: part of it lies outside."""
        from tensorgrad.testing.gradcheck import graph_of, same

        graph = graph_of(outputs)
        if graph is None or any(t.node is None for t in outputs):
            return None
        known = values_of(graph)
        found = np.concatenate([np.ravel(known[node]) for node in graph.outputs])
        return cls(leaves, graph, known) if same(found, expected) else None

    def jacobian(self, i: int) -> Array | None:
        """d output / d entry of leaf i; None where an op cannot take complex numbers."""
        leaf = self.leaves[i]
        position: dict[Any, int] = {source: k for k, source in enumerate(self.known)}
        values: list[Any] = list(self.known.values())
        steps = []
        changed: set[Any] = {leaf}
        for node in self.graph.nodes:
            if any(isinstance(s, (Node, Tensor)) and s in changed for s in node.inputs):
                changed.add(node)
                sources = []
                for s in node.inputs:
                    if isinstance(s, (Node, Tensor)):
                        sources.append(position[s])
                    else:
                        sources.append(len(values))
                        values.append(s)
                steps.append((node.op.forward, sources, node.attrs, position[node]))
        ends = [position[node] for node in self.graph.outputs]
        x = np.array(leaf.data, np.complex128)
        flat = x.reshape(-1)
        found = np.zeros((sum(node.size for node in self.graph.outputs), x.size))
        if leaf not in position:
            return found
        values[position[leaf]] = x
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("error")  # numbers that are made real on the way
                for j in range(x.size):
                    real = flat[j]
                    flat[j] = complex(real.real, STEP)
                    for forward, sources, attrs, target in steps:
                        values[target] = forward(np, *[values[s] for s in sources], **attrs)
                    flat[j] = real
                    found[:, j] = values[ends[0]].imag.ravel() if len(ends) == 1 else joined([values[end].imag for end in ends])
        except Exception:  # whatever an op makes of complex numbers, differences do without them
            return None
        return found / STEP


def joined(arrays: list[Array]) -> Array:
    return np.concatenate([a.ravel() for a in arrays])

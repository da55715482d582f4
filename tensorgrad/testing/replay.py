"""A recorded graph computed again: with complex numbers, for derivatives; with disturbed ones, for their rounding error.

The complex step: f(x + i h) = f(x) + i h f'(x) + O(h²). With h = 1e-20 the imaginary part is the derivative to the last digit,
nothing being subtracted (Squire and Trapp, Using complex variables to estimate derivatives of real functions, SIAM Review 40,
1998). It holds for ops whose `forward` carries complex numbers through as an analytic function; the caller has to see to that.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from tensorgrad.core.backend import Array, is_floating
from tensorgrad.core.graph import Graph
from tensorgrad.core.node import Node
from tensorgrad.core.tensor import Tensor
from tensorgrad.testing.problem import graph_of, same

STEP = 1e-20


class Replay:
    """A recorded graph with the values of all its nodes, ready to be computed again from one leaf on."""

    def __init__(self, leaves: list[Tensor], graph: Graph, known: dict[Any, Array]) -> None:
        self.leaves, self.graph, self.known = leaves, graph, known

    @classmethod
    def of(cls, outputs: list[Tensor], leaves: list[Tensor], expected: Array) -> Replay | None:
        """None if the graph does not give the values that the function gave: part of it lies outside."""
        graph = graph_of(outputs)
        if graph is None or any(t.node is None for t in outputs):
            return None
        known = graph.values()
        found = np.concatenate([np.ravel(known[node]) for node in graph.outputs])
        return cls(leaves, graph, known) if same(found, expected) else None

    def program(self, changed: Iterable[Tensor]) -> tuple[list[Any], dict[Any, int], list[Any]]:
        """The values of all nodes in a list, the place of each, and the steps to take again when some leaves have changed."""
        position: dict[Any, int] = {source: k for k, source in enumerate(self.known)}
        values: list[Any] = list(self.known.values())
        steps = []
        dirty: set[Any] = set(changed)
        for node in self.graph.nodes:
            if any(isinstance(s, (Node, Tensor)) and s in dirty for s in node.inputs):
                dirty.add(node)
                sources = []
                for s in node.inputs:
                    if isinstance(s, (Node, Tensor)):
                        sources.append(position[s])
                    else:
                        sources.append(len(values))
                        values.append(s)
                steps.append((node.op.forward, sources, node.attrs, position[node]))
        return values, position, steps

    def disturbed(self, by: float) -> float:
        """The largest change of an output when the result of every op is changed by a relative error of up to `by`."""
        rng = np.random.default_rng(0)
        known = self.graph.values(change=lambda a: a * (1 + by * rng.uniform(-1, 1, a.shape)) if is_floating(a.dtype) else a)
        changes = [np.abs(known[node] - self.known[node]).max(initial=0.0) for node in self.graph.outputs]
        return float(max(changes))

    def along(self, moves: Sequence[tuple[int, Array]]) -> Array | None:
        """The derivatives of the outputs when each leaf i moves along its direction; None where an op cannot take complex."""
        values, position, steps = self.program(self.leaves[i] for i, _ in moves)
        for i, direction in moves:
            leaf = self.leaves[i]
            if leaf in position:
                values[position[leaf]] = leaf._data + 1j * STEP * direction
        try:
            with strictly_complex():
                for forward, sources, attrs, target in steps:
                    values[target] = forward(np, *[values[s] for s in sources], **attrs)
        except Exception:  # whatever an op makes of complex numbers, differences do without them
            return None
        return np.concatenate([np.imag(values[position[node]]).ravel() for node in self.graph.outputs]) / STEP

    def jacobian(self, i: int) -> Array | None:
        """d output / d entry of leaf i; None where an op cannot take complex numbers."""
        leaf = self.leaves[i]
        values, position, steps = self.program([leaf])
        ends = [position[node] for node in self.graph.outputs]
        x = np.array(leaf._data, np.complex128)
        flat = x.reshape(-1)
        found = np.zeros((sum(node.size for node in self.graph.outputs), x.size))
        if leaf not in position:
            return found
        values[position[leaf]] = x
        try:
            with strictly_complex():
                for j in range(x.size):
                    real = flat[j]
                    flat[j] = complex(real.real, STEP)
                    for forward, sources, attrs, target in steps:
                        values[target] = forward(np, *[values[s] for s in sources], **attrs)
                    flat[j] = real
                    if len(ends) == 1:
                        found[:, j] = values[ends[0]].imag.ravel()
                    else:
                        found[:, j] = np.concatenate([np.imag(values[end]).ravel() for end in ends])
        except Exception:  # as above
            return None
        return found / STEP


@contextmanager
def strictly_complex() -> Iterator[None]:
    """Numbers that are made real on the way are an error, infinities are not."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("error")
        yield

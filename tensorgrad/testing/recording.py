"""The recording of one call of a function under test: its program and the constants captured in it.

A constant is anything the program reads that is not a leaf of the check: the user's arrays, numbers, and values taken out of
the graph (`.detach()`, `.data`, NumPy arithmetic). Two recordings at different inputs tell which constants depend on the
inputs: those that differ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tensorgrad.autograd.walk import grad
from tensorgrad.core.backend import Array, asarray, digest, is_array, may_overlap
from tensorgrad.core.graph import Graph
from tensorgrad.core.lazy import cached_property
from tensorgrad.core.node import Node
from tensorgrad.core.tensor import Tensor, wrap
from tensorgrad.ops.exponential import Logarithm, closed_form
from tensorgrad.testing.problem import Problem, flat, gradients, graph_of, same
from tensorgrad.testing.rounding import Rounding

PERTURBED_RUNS = 2  # number of perturbed runs
LARGE = 1_000_000  # elements; larger constants are stored as digests


class Recording:
    """The recorded outputs of one call, and how they were computed.

    outputs, leaves  Tensors
    at               the values of all outputs, flattened
    nodes            the recorded nodes, in order
    uses             for each node its op, attributes and the sources of its inputs: ("node", k), ("leaf", i), ("constant", k)
    constants        the values of the constants, copied: arrays, numbers, or the digest of a large array
    """

    def __init__(self, problem: Problem) -> None:
        self.outputs, self.leaves = problem.evaluate()
        self.at = flat(self.outputs)
        self.arrays = problem.arrays
        graph = graph_of(self.outputs)
        self.graph: Graph | None = graph
        # nodes that are recorded only for completeness, without a gradient, are captured as values
        self.nodes = tuple(node for node in graph.nodes if node.requires_grad) if graph is not None else ()
        self.constants: list[Any] = []
        self.sources: list[Tensor | None] = []  # the Tensor of each constant, None for a number
        self._source_of: dict[Any, tuple[str, int]] = {leaf: ("leaf", i) for i, leaf in enumerate(self.leaves)}
        self.uses: list[tuple[Any, dict[str, Any], tuple[tuple[str, int], ...]]] = []
        for k, node in enumerate(self.nodes):
            self.uses.append((node.op, node.attrs, tuple(self.source_of(s) for s in node.inputs)))
            self._source_of[node] = "node", k
        self.ends = [self.source_of(t.node or t) for t in self.outputs]

    def source_of(self, source: Any) -> tuple[str, int]:
        """The source of a value; adds a constant if it is new."""
        if not isinstance(source, (Node, Tensor)):
            self.constants.append(source)
            self.sources.append(None)
            return "constant", len(self.constants) - 1
        if source not in self._source_of:
            tensor = source if isinstance(source, Tensor) else wrap(self.node_values[source], source)
            self._source_of[source] = "constant", len(self.constants)
            self.constants.append(self.snapshot(tensor._data))
            self.sources.append(tensor)
        return self._source_of[source]

    def snapshot(self, a: Array) -> Any:
        """A copy, because the memory may be an input that moves, or a reused buffer."""
        if a.size > LARGE and not any(may_overlap(a, b) for b in self.arrays):
            return digest(a)
        return np.array(a)

    def gradients(self, weights: Array, inputs: Sequence[int] | None = None) -> list[Array]:
        """The gradients of a weighted sum of the outputs, for some or all leaves; outputs of weight 0 are skipped."""
        leaves = self.leaves if inputs is None else [self.leaves[i] for i in inputs]
        chosen, parts, start = [], [], 0
        for t in self.outputs:
            part = weights[start : start + t.size]
            start += t.size
            if part.any():
                chosen.append(t)
                parts.append(part.reshape(t.shape).copy())  # a rule may modify it
        return gradients(chosen, leaves, parts)

    def perturbed(self, weights: Array, i: int) -> Array:
        """The change of the gradient of a weighted sum by a leaf when every number on the way is perturbed by rounding
        errors.
        """
        ends = np.cumsum([t.size for t in self.outputs])[:-1]
        parts = [w.reshape(t.shape) for t, w in zip(self.outputs, np.split(weights, ends), strict=True)]
        pairs = [(t, w) for t, w in zip(self.outputs, parts, strict=True) if t.requires_grad]
        gradients: tuple[Tensor | None, ...] = (None,)
        if pairs:
            ts, ws = zip(*pairs, strict=True)
            gradients = grad(ts, [self.leaves[i]], ws, create_graph=True, allow_unused=True)
        if gradients[0] is None or gradients[0].node is None:
            return np.zeros(self.leaves[i].shape)
        rounding = Rounding(gradients)  # type: ignore[arg-type]
        rounding.run_until(PERTURBED_RUNS)
        return rounding.spread[0] if rounding.is_complete else np.zeros(gradients[0].shape)

    @cached_property
    def node_values(self) -> dict[Any, Array]:
        """The values of all leaves and nodes, recomputed."""
        return {} if self.graph is None else replay(self.graph)

    @cached_property
    def is_complete(self) -> bool:
        """Whether the recording reproduces the values of the function: nothing was overwritten on the way."""
        try:
            values = self.node_values
        except Exception:  # an op that cannot be recomputed alone, such as the result of a compiled step
            return False
        outputs = [np.ravel(values[t.node]) if t.node is not None else t._data.ravel() for t in self.outputs]
        return same(np.concatenate(outputs) if outputs else np.zeros(0), self.at)

    def changed(self, other: Recording, atol: float = 0.0) -> list[int] | None:
        """The constants that differ in another recording, by more than `atol`; None if the programs differ."""
        if len(self.uses) != len(other.uses) or self.ends != other.ends or len(self.constants) != len(other.constants):
            return None
        for (op, attrs, inputs), (op2, attrs2, inputs2) in zip(self.uses, other.uses, strict=True):
            if op is not op2 or inputs != inputs2 or not (attrs is attrs2 or equal_values(attrs, attrs2)):
                return None
        pairs = enumerate(zip(self.constants, other.constants, strict=True))
        return [k for k, (a, b) in pairs if not equal_values(a, b) and not (atol and near(a, b, atol))]


def replay(graph: Graph, change: Callable[[Array], Array] = lambda a: a) -> dict[Any, Array]:
    """The values of all leaves and nodes, recomputed with `change` applied to each; random draws stay the same."""
    values: dict[Any, Array] = {leaf: leaf._data for leaf in graph.leaves}
    drawn = {node: node.out for node in graph.nodes if node.op.draws}
    with np.errstate(all="ignore"):
        for node in graph.nodes:
            argument = node.inputs[0] if isinstance(node.op, Logarithm) and node.out is not None else None
            closed = closed_form(node.op, argument) if isinstance(argument, Node) else None
            if drawn.get(node) is not None:
                values[node] = drawn[node]
            elif closed is not None:  # the logarithm of a softmax, evaluated from the logits
                op, inner, _ = closed
                values[node] = change(asarray(op(values[inner.inputs[0]], **inner.attrs)))
            else:
                arrays = [values[s] if isinstance(s, (Node, Tensor)) else s for s in node.inputs]
                values[node] = change(asarray(node.op(*arrays, **node.attrs)))
    return values


def equal_values(a: Any, b: Any, depth: int = 4) -> bool:
    """Whether two values are equal for a program: arrays by elements, functions by code and captured values."""
    if a is b:
        return True
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        a, b = getattr(a, "_data", a), getattr(b, "_data", b)
    if is_array(a) or is_array(b):
        a, b = asarray(a, where="check"), asarray(b, where="check")
        return a.shape == b.shape and a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind in "fc")
    if isinstance(a, float) and isinstance(b, float):
        return a == b or (a != a and b != b)
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(equal_values(a[key], b[key], depth) for key in a)
    if isinstance(a, (tuple, list)) and isinstance(b, (tuple, list)):
        return len(a) == len(b) and all(equal_values(x, y, depth) for x, y in zip(a, b, strict=True))
    if isinstance(a, slice) and isinstance(b, slice):
        return equal_values((a.start, a.stop, a.step), (b.start, b.stop, b.step))
    if callable(a) and callable(b) and depth:
        return equal_values(captured(a), captured(b), depth - 1)
    return type(a) is type(b) and bool(a == b)


def near(a: Any, b: Any, atol: float) -> bool:
    """Whether two floating constants differ by at most the user's tolerance."""
    floating = isinstance(a, (float, np.ndarray)) and isinstance(b, (float, np.ndarray)) and np.shape(a) == np.shape(b)
    return floating and np.result_type(a).kind == "f" and bool(np.allclose(a, b, rtol=0.0, atol=atol, equal_nan=True))


def captured(fn: Callable[..., Any]) -> tuple[Any, ...]:
    """What distinguishes two functions created by the same lines."""
    fn = getattr(fn, "fn", fn)  # of a checkpoint
    code = getattr(fn, "__code__", None)
    if code is None:
        return (id(fn),)
    cells = [cell.cell_contents for cell in fn.__closure__ or ()]
    names = [fn.__globals__[name] for name in code.co_names if name in fn.__globals__]
    globals_used = [value for value in names if isinstance(value, (int, float, Tensor)) or is_array(value)]
    bound = [getattr(fn, "__self__", None)]
    return (id(code), *cells, *globals_used, *bound, *(fn.__defaults__ or ()), *(fn.__kwdefaults__ or {}).values())

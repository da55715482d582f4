"""Graph: a recorded program of nodes, to list, check, fuse, run and draw."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any

import numpy as np

from tensorgrad.core.backend import Array, asarray
from tensorgrad.core.node import Node
from tensorgrad.core.op import REGISTRY
from tensorgrad.core.table import columns, visible
from tensorgrad.core.tensor import Tensor
from tensorgrad.errors import GraphError


class Graph:
    """The nodes that computed some results, in the order of execution.

    outputs  the nodes of the results
    nodes    every node that they depend on, including themselves
    leaves   the given Tensors, in the order of their first use
    fused    a method: the same program after fusion (attached by methods.py)
    """

    fused: Callable[[], Graph]

    def __init__(self, outputs: list[Node], *, check: bool = True) -> None:
        seen: set[Any] = set(outputs)
        stack = list(outputs)
        while stack:
            for source in stack.pop().inputs:
                if isinstance(source, (Node, Tensor)) and source not in seen:
                    seen.add(source)
                    if isinstance(source, Node):
                        stack.append(source)
        self.outputs = tuple(outputs)
        self.nodes = tuple(sorted((n for n in seen if isinstance(n, Node)), key=attrgetter("index")))
        used = (source for node in self.nodes for source in node.inputs)
        self.leaves = tuple(dict.fromkeys(s for s in used if isinstance(s, Tensor)))
        if check:
            self.check()

    @classmethod
    def of(cls, *outputs: Tensor) -> Graph:
        """The graph of one or more computed Tensors. Raises GraphError for a leaf."""
        for i, t in enumerate(outputs):
            if t.node is None:
                raise GraphError(f"Graph: output {i} (shape {t.shape}) is a leaf, it has no recorded graph")
        return cls([t.node for t in outputs if t.node is not None])

    def check(self) -> None:
        """Raise GraphError if a node is invalid: an unregistered op, wrong order, shapes that contradict the signature."""
        position = {node: i for i, node in enumerate(self.nodes)}
        for i, node in enumerate(self.nodes):
            if REGISTRY.get(node.op.name) is not node.op:
                raise GraphError(f"Graph: node {i} uses an op {node.op.name!r} that is not registered")
            for source in node.inputs:
                if isinstance(source, Node) and position[source] >= i:
                    raise GraphError(f"Graph: node {i} ({node.op.name}) reads node {position[source]}, which comes later")
            if problem := node.op.parsed.mismatch([getattr(s, "shape", ()) for s in node.inputs]):
                raise GraphError(f"Graph: node {i} ({node.op.name}): {problem}; expected {node.op.signature}")

    def values(
        self, given: Mapping[Tensor, Array] | None = None, change: Callable[[Array], Array] = lambda a: a
    ) -> dict[Any, Array]:
        """The arrays of all leaves and nodes, recomputed with `forward`.

        given   arrays that replace those of some leaves
        change  applied to each result
        """
        arrays_by_source: dict[Any, Array] = {leaf: leaf._data for leaf in self.leaves} | dict(given or {})
        for node in self.nodes:
            arrays = [arrays_by_source[s] if isinstance(s, (Node, Tensor)) else s for s in node.inputs]
            arrays_by_source[node] = change(asarray(node.op(*arrays, **node.attrs)))
        return arrays_by_source

    def run(self, values: Mapping[Tensor, Array] | None = None) -> list[Array]:
        """The outputs' arrays, recomputed, with `values` replacing those of some leaves."""
        arrays = self.values(values)
        return [arrays[node] for node in self.outputs]

    def leaf_names(self) -> dict[Tensor, str]:
        """A name for every leaf: its own, for a parameter with the path of the module that reads it, or "input0", ..."""
        names: dict[Tensor, str] = {}
        for node in self.nodes:
            for leaf in node.inputs:
                if isinstance(leaf, Tensor) and leaf not in names:
                    name = visible(leaf.name) if leaf.name else f"input{sum(n.startswith('input') for n in names.values())}"
                    # a Parameter is named by its module, other Tensors by the user
                    owned = type(leaf) is not Tensor and leaf.name and node.scope
                    names[leaf] = f"{visible(node.scope)}.{name}" if owned else name
        return names

    def hash(self) -> str:
        """A hash of the program: ops, attributes, shapes, dtypes and names, without values and lines of code."""
        return hashlib.sha256("\n".join(map(visible, self.words())).encode()).hexdigest()[:16]

    def words(self) -> list[str]:
        """A line for every leaf and node with everything that `hash` depends on."""
        names = self.leaf_names()
        labels: dict[Any, str] = {leaf: f"leaf{i}" for i, leaf in enumerate(names)}
        lines = [f"{labels[t]} {name} {t.shape} {t.dtype} {t.requires_grad}" for t, name in names.items()]
        for i, node in enumerate(self.nodes):
            labels[node] = f"%{i}"
            lines.append(f"%{i} {node.scope} {call(node, labels)} {node.shape} {node.dtype}")
        return [*lines, "return " + ", ".join(labels[node] for node in self.outputs)]

    def merged(self, after: Graph) -> tuple[Graph, dict[int, str]]:
        """A graph with the nodes of this one and of `after`, equal ones once; and by index which of them were "added",
        "removed" or "changed" between this one and `after`.
        """
        before_nodes, after_nodes = list(self.nodes), list(after.nodes)
        matcher = difflib.SequenceMatcher(
            None, [kind_of(n) for n in before_nodes], [kind_of(n) for n in after_nodes], autojunk=False
        )
        marks: dict[int, str] = {}
        counterpart: dict[Any, Any] = dict(zip(self.leaves, self.leaves, strict=True))
        counterpart |= {a: b for a, b in zip(self.leaves, after.leaves, strict=False) if a.shape == b.shape}
        named = {leaf.name: leaf for leaf in after.leaves if leaf.name}
        counterpart |= {leaf: named[leaf.name] for leaf in self.leaves if leaf.name in named}
        removed: list[Node] = []
        for tag, i, k, j, m in matcher.get_opcodes():
            old, new = before_nodes[i:k], after_nodes[j:m]
            if tag == "equal":
                counterpart.update(zip(old, new, strict=True))
                continue
            for a, b in zip(old, new, strict=False):
                if a.op is b.op:
                    marks[b.index] = "changed"
                    counterpart[a] = b
            removed += [a for a in old if a not in counterpart]
            marks |= {b.index: "added" for b in new if b.index not in marks}
        added = {b for b in after_nodes if marks.get(b.index) == "added"}
        for a, b in counterpart.items():  # the same op with other operands, or with the same in another order
            if isinstance(a, Node) and b.index not in marks:
                operands = [(s, t) for s, t in zip(a.inputs, b.inputs, strict=True) if isinstance(s, (Node, Tensor))]
                if any(counterpart.get(s, t) is not t for s, t in operands if t not in added):
                    marks[b.index] = "changed"
        copies: list[Node] = []
        for node in removed:
            inputs = tuple(counterpart.get(s, s) if isinstance(s, (Node, Tensor)) else s for s in node.inputs)
            copy = node.replaced(inputs=inputs)
            counterpart[node] = copy
            marks[copy.index] = "removed"
            copies.append(copy)
        return Graph([*after.outputs, *copies], check=False), marks

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        names: dict[Any, str] = dict(self.leaf_names())
        rows = [(name, "leaf", f"{leaf.shape}", f"{leaf.dtype}", "") for leaf, name in names.items()]
        for i, node in enumerate(self.nodes):
            names[node] = f"%{i}"
            formula = re.split(" {3,}|\n", node.op.formula("forward"))[0]  # without remarks about shapes
            rows.append((f"%{i}", call(node, names), f"{node.shape}", f"{node.dtype}", formula))
        return "\n".join([*columns(rows, "<<<<<"), "return " + ", ".join(names[node] for node in self.outputs)])

    def __len__(self) -> int:
        return len(self.nodes)


def kind_of(node: Node) -> str:
    """A key that is equal for nodes that do the same: op, attributes, numeric arguments, module, shape, dtype."""
    numbers = ["·" if isinstance(s, (Node, Tensor)) else s for s in node.inputs]
    return f"{node.op.name} {numbers} {node.attrs} {node.scope} {node.shape} {node.dtype}"


def call(node: Node, names: Mapping[Any, str]) -> str:
    """`node` as a call: its op, the names of its inputs, its attributes."""
    inputs = [names[s] if isinstance(s, (Node, Tensor)) else f"{s:g}" for s in node.inputs]
    attrs = [f"{key}={literal(value)}" for key, value in node.attrs.items()]
    return f"{node.op.name}({', '.join(inputs + attrs)})"


def literal(value: Any) -> str:
    """An argument or attribute as Python text."""
    if isinstance(value, Tensor):
        value = value._data
    if isinstance(value, np.ndarray):
        dtype = "" if value.dtype in (np.float64, np.bool_, np.int64) and value.size else f", {literal(value.dtype.type)}"
        text = repr(value.tolist()).replace("nan", "np.nan").replace("inf", "np.inf")
        return f"np.array({text}{dtype})" if value.size else f"np.zeros({value.shape}{dtype})"
    if isinstance(value, np.dtype):
        value = value.type
    if isinstance(value, type) and issubclass(value, np.generic):
        return f"np.{value.__name__}" + ("_" if value is np.bool_ and not value.__name__.endswith("_") else "")
    if isinstance(value, np.generic):
        return repr(value.item())
    if isinstance(value, (tuple, list)):
        items = ", ".join(map(literal, value))
        return f"({items}{',' * (len(value) == 1)})" if isinstance(value, tuple) else f"[{items}]"
    return getattr(value, "__name__", None) or repr(value)

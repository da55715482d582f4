"""Graph: a captured program of nodes, to list, check, fuse, run and draw."""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter
from typing import Any

from tensorgrad import fusion
from tensorgrad.backend import Array
from tensorgrad.errors import GraphError
from tensorgrad.op import REGISTRY, Node
from tensorgrad.tensor import Tensor


class Graph:
    """The nodes that some results were computed by, in the order of execution.

    outputs  the nodes of the results
    nodes    every node that they were computed from, themselves included
    leaves   the Tensors that were given, in the order of their first use
    """

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
        """The graph of one or more computed Tensors. Raises GraphError for one that was given, not computed."""
        for i, t in enumerate(outputs):
            if t.node is None:
                raise GraphError(f"Graph: output {i} (shape {t.shape}) is a leaf, nothing was recorded for it")
        return cls([t.node for t in outputs if t.node is not None])

    def check(self) -> None:
        """Raise GraphError if a node is not legal: an unregistered op, wrong order, shapes against the signature."""
        at = {node: i for i, node in enumerate(self.nodes)}
        for i, node in enumerate(self.nodes):
            if REGISTRY.get(node.op.name) is not node.op:
                raise GraphError(f"Graph: node {i} uses an op {node.op.name!r} that is not registered")
            for source in node.inputs:
                if isinstance(source, Node) and at[source] >= i:
                    raise GraphError(f"Graph: node {i} ({node.op.name}) reads node {at[source]}, which comes later")
            if problem := node.op.parsed.mismatch([getattr(s, "shape", ()) for s in node.inputs]):
                raise GraphError(f"Graph: node {i} ({node.op.name}): {problem}; expected {node.op.signature}")

    def fused(self) -> Graph:
        """The same program with every pattern that fusion knows replaced by its fused op."""
        found = fusion.match(list(reversed(self.nodes)), set(self.outputs[1:]))
        made: dict[Any, Node] = {}
        hidden = {member for node in found.values() for member in node.members}
        for node in self.nodes:
            use = found.get(node, node)
            if use is node and node in hidden:
                continue
            # an input that the pattern itself computes is a value that backward had at hand: the fused op makes it anew
            keep = [i for i, source in enumerate(use.inputs) if not (isinstance(source, Node) and source in use.members)]
            saved = tuple(use.saved[i] for i in keep) if use.saved else use.saved
            made[node] = use.replaced(inputs=tuple(made.get(use.inputs[i], use.inputs[i]) for i in keep), saved=saved)
        return Graph([made[node] for node in self.outputs])

    def run(self, values: Mapping[Tensor, Array] | None = None) -> list[Array]:
        """The outputs' arrays, computed again by `forward` alone, with `values` in place of some of the leaves."""
        known: dict[Any, Array] = {leaf: leaf.data for leaf in self.leaves} | dict(values or {})
        for node in self.nodes:
            arrays = [known[s] if isinstance(s, (Node, Tensor)) else s for s in node.inputs]
            known[node] = node.op(*arrays, **node.attrs)
        return [known[node] for node in self.outputs]

    def leaf_names(self) -> dict[Tensor, str]:
        """A name for every leaf: its own, a parameter's with the path of the module that reads it, or "input0", ..."""
        names: dict[Tensor, str] = {}
        for node in self.nodes:
            for leaf in node.inputs:
                if isinstance(leaf, Tensor) and leaf not in names:
                    own = leaf.name or f"input{sum(n.startswith('input') for n in names.values())}"
                    names[leaf] = f"{node.scope}.{own}" if leaf.requires_grad and leaf.name and node.scope else own
        return names

    def __str__(self) -> str:
        names: dict[Any, str] = dict(self.leaf_names())
        rows = [(name, "leaf", f"{leaf.shape}", f"{leaf.dtype}") for leaf, name in names.items()]
        for i, node in enumerate(self.nodes):
            names[node] = f"%{i}"
            rows.append((f"%{i}", call(node, names), f"{node.shape}", f"{node.dtype}"))
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, [*widths, 0], strict=True)).rstrip() for row in rows]
        return "\n".join([*lines, "return " + ", ".join(names[node] for node in self.outputs)])

    def __len__(self) -> int:
        return len(self.nodes)


def call(node: Node, names: Mapping[Any, str]) -> str:
    """`node` as it would be written: its op, the names of its inputs, its attributes."""
    inputs = [names[s] if isinstance(s, (Node, Tensor)) else f"{s:g}" for s in node.inputs]
    attrs = [f"{key}={value}" for key, value in node.attrs.items()]
    return f"{node.op.name}({', '.join(inputs + attrs)})"

"""Identifies equal axes of a program, so that a letter for a length has one meaning; never inferred from equal lengths."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

from tensorgrad import ops
from tensorgrad.core.graph import Graph
from tensorgrad.core.node import Node
from tensorgrad.core.tensor import Tensor

Axis: TypeAlias = tuple[int, int]  # the key of a value, and the index of the axis from the left

ALIGNED = (ops.clip, ops.leaky_relu, ops.elu, ops.gelu, ops.astype, ops.broadcast_to, ops.sum_to, ops.cumsum)


class Axes:
    """The axes of all values of a program; those that an op connects are merged."""

    def __init__(self, graph: Graph) -> None:
        self.parents: dict[Axis, Axis] = {}
        for node in graph.nodes:
            self.tie(node)

    def key(self, source: Any, axes: Iterable[int]) -> tuple[Axis, ...]:
        """A key for `axes` of a value: equal for equal axes, in any order."""
        return tuple(sorted(self.root((key_of(source), a)) for a in axes if source.shape[a] != 1))

    def root(self, axis: Axis) -> Axis:
        while axis in self.parents:
            axis = self.parents[axis]
        return axis

    def join(self, a: Axis, b: Axis) -> None:
        a, b = self.root(a), self.root(b)
        if a != b:
            self.parents[a] = b

    def tie(self, node: Node) -> None:
        """Merge axes of the inputs of `node` with those of its result, as its op says."""
        sources = [s for s in node.inputs if isinstance(s, (Node, Tensor))]
        result = node.index
        if "axis" in node.attrs and "keepdims" in node.attrs:
            self.tie_reduced(node, sources[0])
        elif node.op is ops.transpose:
            for place, axis in enumerate(node.attrs["axes"]):
                self.join((result, place), (key_of(sources[0]), axis % len(node.shape)))
        elif any(node.op.parsed.inputs):
            self.tie_named(node)
        elif node.op.signature.replace(" ", "").replace("(),", "") == "()->()" and (not node.attrs or node.op in ALIGNED):
            for source in sources:
                self.align(source, source.shape, node, node.shape)

    def align(self, source: Any, shape: Sequence[int], node: Node, result: Sequence[int]) -> None:
        """Merge axes that broadcasting aligns, counted from the right; both arguments are leading parts of shapes."""
        for i in range(1, min(len(shape), len(result)) + 1):
            if shape[-i] == result[-i] != 1:
                self.join((key_of(source), len(shape) - i), (node.index, len(result) - i))

    def tie_reduced(self, node: Node, source: Any) -> None:
        axis, n = node.attrs["axis"], len(source.shape)
        reduced = (
            set(range(n)) if axis is None else {a % n for a in ((axis,) if isinstance(axis, int) else axis)} if n else set()
        )
        remaining = [a for a in range(n) if a not in reduced]
        for place, a in enumerate(remaining):
            self.join((node.index, a if node.attrs["keepdims"] else place), (key_of(source), a))

    def tie_named(self, node: Node) -> None:
        """Merge by the names of axes in the signature; leading axes broadcast."""
        result = [
            n.strip() for n in node.op.signature.partition("->")[2].strip(" ()").split(",") if n.strip() not in ("", "...")
        ]
        named: dict[str, Axis] = {}
        if "*" in result or any("*" in names for names in node.op.parsed.inputs):
            return
        lead = node.shape[: len(node.shape) - len(result)]
        for i, name in enumerate(result):
            named[name] = (node.index, len(lead) + i)
        for source, names in zip(node.inputs, node.op.parsed.inputs, strict=False):
            if not isinstance(source, (Node, Tensor)):
                continue
            names = tuple(n.rstrip("?") for n in names)
            start = len(source.shape) - len(names)
            if start < 0 or any(n.endswith("?") for n in node.op.parsed.inputs[-1]):
                continue
            for i, name in enumerate(names, start):
                axis = (key_of(source), i)
                self.join(named.setdefault(name, axis), axis)
            self.align(source, source.shape[:start], node, lead)


def key_of(source: Any) -> int:
    """A key for a node or a leaf (whose == compares elements)."""
    return source.index if isinstance(source, Node) else -id(source)

"""Which axes of a program are the same, so that a letter for their length means one thing: never told by the length itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

from tensorgrad import ops
from tensorgrad.core.graph import Graph
from tensorgrad.core.node import Node
from tensorgrad.core.tensor import Tensor

Axis: TypeAlias = tuple[int, int]  # of which value, by its key; and the place of the axis from the left

ALIGNED = (ops.clip, ops.leaky_relu, ops.elu, ops.gelu, ops.astype, ops.broadcast_to, ops.sum_to, ops.cumsum)


class Axes:
    """The axes of all values of a program, those that an op ties to each other being one."""

    def __init__(self, graph: Graph) -> None:
        self.above: dict[Axis, Axis] = {}
        for node in graph.nodes:
            self.tie(node)

    def key(self, source: Any, axes: Iterable[int]) -> tuple[Axis, ...]:
        """What `axes` of a value are, for comparing: the same for axes that are the same, in any order."""
        return tuple(sorted(self.root((key_of(source), a)) for a in axes if source.shape[a] != 1))

    def root(self, axis: Axis) -> Axis:
        while axis in self.above:
            axis = self.above[axis]
        return axis

    def join(self, a: Axis, b: Axis) -> None:
        a, b = self.root(a), self.root(b)
        if a != b:
            self.above[a] = b

    def tie(self, node: Node) -> None:
        """Join the axes of the inputs of `node` with those of its result, as its op says."""
        sources = [s for s in node.inputs if isinstance(s, (Node, Tensor))]
        own = node.index
        if "axis" in node.attrs and "keepdims" in node.attrs:
            self.tie_reduced(node, sources[0])
        elif node.op is ops.transpose:
            for place, axis in enumerate(node.attrs["axes"]):
                self.join((own, place), (key_of(sources[0]), axis % len(node.shape)))
        elif any(node.op.parsed.inputs):
            self.tie_named(node)
        elif node.op.signature.replace(" ", "").replace("(),", "") == "()->()" and (not node.attrs or node.op in ALIGNED):
            for source in sources:
                self.align(source, source.shape, node, node.shape)

    def align(self, source: Any, shape: Sequence[int], node: Node, result: Sequence[int]) -> None:
        """Join axes that broadcasting lays on each other, counted from the right; both are what leads in a shape."""
        for i in range(1, min(len(shape), len(result)) + 1):
            if shape[-i] == result[-i] != 1:
                self.join((key_of(source), len(shape) - i), (node.index, len(result) - i))

    def tie_reduced(self, node: Node, source: Any) -> None:
        axis, n = node.attrs["axis"], len(source.shape)
        gone = set(range(n)) if axis is None else {a % n for a in ((axis,) if isinstance(axis, int) else axis)} if n else set()
        left = [a for a in range(n) if a not in gone]
        for place, a in enumerate(left):
            self.join((node.index, a if node.attrs["keepdims"] else place), (key_of(source), a))

    def tie_named(self, node: Node) -> None:
        """By the names of axes in the signature; what leads broadcasts."""
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
    """A number for a node or a leaf (whose == compares elements)."""
    return source.index if isinstance(source, Node) else -id(source)

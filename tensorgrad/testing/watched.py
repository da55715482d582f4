"""Detects rules that modify their arguments."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from tensorgrad.core.backend import as_bytes
from tensorgrad.core.node import Node
from tensorgrad.core.op import Op, Rules
from tensorgrad.core.tensor import Tensor, wrap
from tensorgrad.testing.problem import graph_of


class Watch:
    """Graphs with watched rules.

    changes  (op, name, shape) for each array that a rule has modified
    """

    def __init__(self) -> None:
        self.changes: list[tuple[str, str, tuple[int, ...]]] = []

    def over(self, outputs: list[Tensor]) -> list[Tensor]:
        """The outputs of an equal graph whose rules are watched."""
        graph = graph_of(outputs)
        replaced: dict[Any, Node] = {}
        for node in graph.nodes if graph else ():
            inputs = tuple(replaced.get(s, s) if isinstance(s, Node) else s for s in node.inputs)
            replaced[node] = node.replaced(op=Watched(node.op, self), inputs=inputs)  # type: ignore[arg-type]  # see there
            replaced[node].hooks = node.hooks
        return [t if t.node is None else wrap(t._data, replaced[t.node]) for t in outputs]


class Watched:
    """Wraps an op: after each rule its arguments are compared with their state before."""

    def __init__(self, op: Op, watch: Watch) -> None:
        self.op, self.watch = op, watch

    def __getattr__(self, name: str) -> Any:
        return getattr(self.op, name)

    def backward(self, g: Any, y: Any, *values: Any, **attrs: Any) -> Rules:
        arguments = [
            ("the incoming gradient", g),
            ("its result", y),
            *((f"argument {i}", v) for i, v in enumerate(values)),
        ]
        arrays = [(name, a) for name, a in arguments if isinstance(a, np.ndarray)]
        before = [zlib.crc32(as_bytes(a)) for _, a in arrays]

        def watched(rule: Callable[[], Any]) -> Callable[[], Any]:
            def run() -> Any:
                gx = rule()
                for k, (name, a) in enumerate(arrays):
                    if (checksum := zlib.crc32(as_bytes(a))) != before[k]:
                        self.watch.changes.append((self.op.name, name, a.shape))
                        before[k] = checksum
                return gx

            return run

        assert self.op.backward is not None
        return tuple(None if rule is None else watched(rule) for rule in self.op.backward(g, y, *values, **attrs))

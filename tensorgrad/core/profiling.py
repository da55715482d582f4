"""profile: measures time by operation and by module."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from tensorgrad.core.node import Node
from tensorgrad.core.op import Op
from tensorgrad.core.state import Profiler, state
from tensorgrad.core.table import columns


@dataclass(frozen=True)
class Cost:
    """The cost of one or more computations: bytes of the results, floating-point operations, seconds, calls."""

    bytes: int = 0
    flops: int = 0
    seconds: float = 0.0
    calls: int = 0

    def __add__(self, other: Cost) -> Cost:
        sums = self.bytes + other.bytes, self.flops + other.flops, self.seconds + other.seconds
        return Cost(*sums, self.calls + other.calls)

    def __str__(self) -> str:
        return f"{scaled(self.bytes)}B, {scaled(self.flops)}FLOP, {scaled(self.seconds * 1e6, 'µ')}s"

    def facts(self) -> dict[str, str]:
        return {
            "bytes": f"{self.bytes:,}",
            "FLOPs": f"{self.flops:,}",
            "time": f"{scaled(self.seconds * 1e6, 'µ')}s",
        }


def scaled(number: float, unit: str = "") -> str:
    """ "1.3 k" for 1,300; with `unit` µ the steps above are m and none: "1.3 m" for 1,300 µ."""
    steps = ["µ", "m", ""] if unit else ["", "k", "M", "G", "T"]
    step = 0
    while number >= 1000 and step < len(steps) - 1:
        number /= 1000
        step += 1
    digits = f"{number:.0f}" if number >= 99.5 or number == int(number) else f"{number:.2g}"
    return f"{digits} {steps[step]}"


class Profile:
    """The measurements of a `with tensorgrad.profile() as p:` block in this thread. It prints as two tables: by operation, by
    module.

    by_op       name to Cost: "linear", "gradient of linear", and the kernels of compiled steps
    by_module   path to Cost; "" is everything outside of modules
    seconds     for the whole block
    nodes       for recorded operations, node to Cost: `tensorgrad.draw.graph(loss, cost=p)` draws it
    """

    def __init__(self) -> None:
        self.by_op: dict[str, Cost] = {}
        self.by_module: dict[str, Cost] = {}
        self.nodes: dict[Node, Cost] = {}
        self.seconds = 0.0

    def ran(self, op: Op, args: Any, attrs: dict[str, Any], out: Any, seconds: float, node: Node | None) -> None:
        """Called after an op was computed."""
        flops = op.flops([np.shape(a) for a in args], np.shape(out), attrs)
        cost = Cost(out.nbytes, flops, seconds, 1)
        self.note(op.name, state.scope, cost)
        if node is not None:
            self.nodes[node] = cost

    def differentiated(self, node: Node, rules: str, seconds: float, nbytes: int) -> None:
        """Called after a rule was computed; it counts as many operations as the op itself, for each input."""
        flops = node.op.flops([getattr(s, "shape", ()) for s in node.inputs], node.shape, node.attrs)
        self.note(f"gradient of {rules}", node.scope, Cost(nbytes, flops, seconds, 1))

    def note(self, name: str, module: str, cost: Cost) -> None:
        """Add a named cost of a module."""
        self.by_op[name] = self.by_op[name] + cost if name in self.by_op else cost
        self.by_module[module] = self.by_module[module] + cost if module in self.by_module else cost

    def __str__(self) -> str:
        total = sum(s.seconds for s in self.by_op.values())
        remainder = f"{(self.seconds - total) * 1e3:,.2f} ms of {self.seconds * 1e3:,.2f} ms between the operations"
        return (
            f"{table('operation', self.by_op, self.seconds)}\n\n{table('module', self.by_module, self.seconds)}\n\n{remainder}"
        )

    __repr__ = __str__


def table(head: str, rows: dict[str, Cost], total_seconds: float) -> str:
    """A line for each row, most expensive first."""
    cells = [[head, "calls", "ms", "%", "MB", "MFLOP", "GFLOP/s"]]
    for name, s in sorted(rows.items(), key=lambda row: -row[1].seconds):
        rate = s.flops / s.seconds / 1e9 if s.seconds else math.nan
        share = 100 * s.seconds / total_seconds if total_seconds else math.nan
        numbers = [f"{s.seconds * 1e3:,.3f}", f"{share:.1f}", f"{s.bytes / 1e6:,.2f}", f"{s.flops / 1e6:,.2f}", f"{rate:,.1f}"]
        cells.append([name or "(no module)", f"{s.calls:,}", *numbers])
    return "\n".join(columns(cells, "<>>>>>>"))


@contextmanager
def profile() -> Iterator[Profile]:
    """Measure every operation, gradient and kernel of compiled steps inside `with tensorgrad.profile() as p:`.

    Each measurement takes about a microsecond.
    """
    result, outer = Profile(), state.profile
    profiler: Profiler[Node, Op] = result
    state.profile = profiler
    start = time.perf_counter()
    try:
        yield result
    finally:
        result.seconds = time.perf_counter() - start
        state.profile = outer

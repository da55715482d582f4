"""profile: where the time of a piece of code goes, by operation and by module."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorgrad.state import state

if TYPE_CHECKING:
    from tensorgrad.compiler.plan import Plan
    from tensorgrad.op import Node, Op


@dataclass
class Spent:
    """calls, seconds, bytes of the results, floating-point operations."""

    calls: int = 0
    seconds: float = 0.0
    bytes: int = 0
    flops: int = 0

    def add(self, seconds: float, nbytes: int, flops: int) -> None:
        self.calls += 1
        self.seconds += seconds
        self.bytes += nbytes
        self.flops += flops


class Profile:
    """What a `with tensorgrad.profile() as p:` block spent, in this thread. Printed, it is two tables: by operation, by module.

    by_op       name to Spent: "linear", "gradient of linear", and the kernels of compiled steps
    by_module   path to Spent; "" is what no module did
    seconds     of the whole block
    nodes       of what is recorded, node to Spent: `tensorgrad.draw.graph(loss, cost=p)` draws it
    """

    def __init__(self) -> None:
        self.by_op: dict[str, Spent] = {}
        self.by_module: dict[str, Spent] = {}
        self.nodes: dict[Node, Spent] = {}
        self.seconds = 0.0

    def ran(self, op: Op, args: Any, attrs: dict[str, Any], out: Any, seconds: float, node: Node | None) -> None:
        """An op has been computed."""
        flops = op.flops([np.shape(a) for a in args], np.shape(out), attrs)
        self.note(op.name, state.scope, seconds, out.nbytes, flops)
        if node is not None:
            self.nodes.setdefault(node, Spent()).add(seconds, out.nbytes, flops)

    def differentiated(self, node: Node, rules: str, seconds: float, nbytes: int) -> None:
        """A rule has given a gradient. It is as many operations as the op itself, for each of its inputs."""
        flops = node.op.flops([getattr(s, "shape", ()) for s in node.inputs], node.shape, node.attrs)
        self.note(f"gradient of {rules}", node.scope, seconds, nbytes, flops)

    def replayed(self, plan: Plan, seconds: dict[Any, float]) -> None:
        """A plan has been run."""
        from tensorgrad.compiler.plan import bytes_of, flat, module_of

        for call in flat(plan.calls):
            self.note(call.name, module_of(call), seconds.get(call, 0.0), bytes_of(call), call.flops)

    def note(self, name: str, module: str, seconds: float, nbytes: int, flops: int) -> None:
        self.by_op.setdefault(name, Spent()).add(seconds, nbytes, flops)
        self.by_module.setdefault(module, Spent()).add(seconds, nbytes, flops)

    def costs(self) -> dict[Node, Any]:
        """The cost of each recorded node, as drawings show it."""
        from tensorgrad.draw.measure import Cost

        return {node: Cost(s.bytes, s.flops, s.seconds) for node, s in self.nodes.items()}

    def __str__(self) -> str:
        known = sum(s.seconds for s in self.by_op.values())
        rest = f"{(self.seconds - known) * 1e3:,.2f} ms of {self.seconds * 1e3:,.2f} ms between the operations"
        return f"{table('operation', self.by_op, self.seconds)}\n\n{table('module', self.by_module, self.seconds)}\n\n{rest}"

    __repr__ = __str__


def table(head: str, rows: dict[str, Spent], whole: float) -> str:
    """A line for each row, the most expensive first."""
    cells = [[head, "calls", "ms", "%", "MB", "MFLOP", "GFLOP/s"]]
    for name, s in sorted(rows.items(), key=lambda row: -row[1].seconds):
        rate = s.flops / s.seconds / 1e9 if s.seconds else math.nan
        share = 100 * s.seconds / whole if whole else math.nan
        numbers = [f"{s.seconds * 1e3:,.3f}", f"{share:.1f}", f"{s.bytes / 1e6:,.2f}", f"{s.flops / 1e6:,.2f}", f"{rate:,.1f}"]
        cells.append([name or "(no module)", f"{s.calls:,}", *numbers])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [[c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(r, widths, strict=True))] for r in cells]
    return "\n".join("  ".join(line).rstrip() for line in lines)


@contextmanager
def profile() -> Iterator[Profile]:
    """Measure, inside `with tensorgrad.profile() as p:`, every operation, every gradient and every kernel of a compiled step.

    Measuring itself takes about a microsecond for each of them.
    """
    found, outer = Profile(), state.profile
    state.profile = found
    start = time.perf_counter()
    try:
        yield found
    finally:
        found.seconds = time.perf_counter() - start
        state.profile = outer

"""An operation as it is: its own `forward`."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from tensorgrad.compiler.calls.call import Call, Launch, Launcher, Rows, Writer
from tensorgrad.compiler.values import Value
from tensorgrad.core.backend import Array
from tensorgrad.core.node import Node
from tensorgrad.core.op import Op
from tensorgrad.ops import random


class Apply(Call):
    """y = op.forward(...), an array that the operation makes itself; it may share memory with the operands."""

    def __init__(
        self, op: Op, attrs: Mapping[str, Any], inputs: list[Any], outputs: list[Value], nodes: list[Node], flops: int
    ) -> None:
        super().__init__(op.name, inputs, outputs, nodes, flops)
        self.op, self.attrs = op, dict(attrs)

    @property
    def draws(self) -> bool:  # type: ignore[override]
        return self.op is random.keep_mask

    def compute(self, *inputs: Any) -> list[Array]:
        return [np.array(self.op.forward(np, *inputs, **self.attrs))]

    def sums(self, split: Rows) -> list[Value] | None:
        whole = not self.reads or len(self.reads) != len(self.inputs) or not all(split.rows(v) for v in self.reads)
        if not self.op.rowwise or whole or self.attrs.get("axis") in (0, -len(self.reads[0].shape)):
            return None
        return []

    def emit(self, writer: Writer) -> None:
        (out,) = self.outputs
        forward = writer.bind("forward", functools.partial(self.op.forward, np, **self.attrs))
        made = f"{forward}({', '.join(writer.name(v) for v in self.inputs)})"
        if writer.holds(out):
            writer.lines.append(f"copyto({writer.name(out)}, {made})")
        else:
            tidy = "ascontiguousarray" if out.shape else "asarray"
            writer.lines.append(f"{writer.define(out)} = {tidy}({made})")

    def launch(self, launcher: Launcher) -> Launch:
        """Its result is copied to where it belongs."""
        inputs, out = [launcher.array(v) for v in self.inputs], launcher.array(self.outputs[0])
        op, attrs, xp = self.op, self.attrs, launcher.xp
        if self.draws:
            return random.bound(out, **attrs)

        def launch() -> None:
            out[...] = op.forward(xp, *inputs, **attrs)

        return launch

"""Copies within the plan's memory and to outside memory."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from tensorgrad.compiler.calls.apply import Apply
from tensorgrad.compiler.calls.call import Call, Launch, Launcher, Rows, Writer
from tensorgrad.compiler.values import Value
from tensorgrad.core.arithmetic import evaluate
from tensorgrad.core.backend import Array
from tensorgrad.core.op import Op
from tensorgrad.ops.assign import write
from tensorgrad.ops.index import put_in

__all__ = ["Accumulate", "Assign", "Copy", "Pad", "Put"]


class Copy(Call):
    """A copy of a value, to make it C-contiguous or to protect it from being overwritten."""

    def compute(self, *inputs: Any) -> list[Array]:
        return [np.array(inputs[0])]

    def sums(self, split: Rows) -> list[Value] | None:
        return [] if all(split.rows(v) for v in self.reads) else None

    def emit(self, writer: Writer) -> None:
        writer.write("copyto", [writer.name(self.outputs[0]), writer.name(self.inputs[0])])

    def launch(self, launcher: Launcher) -> Launch:
        x, out = launcher.array(self.inputs[0]), launcher.array(self.outputs[0])

        def launch() -> None:
            out[...] = x

        return launch


class Assign(Copy):
    """An assignment to outside memory."""

    assigns = True

    def sums(self, split: Rows) -> list[Value] | None:
        return None


class Put(Call):
    """A value with new elements at an index; in place if the old value is no longer needed."""

    def __init__(self, op: Op, attrs: Mapping[str, Any], *rest: Any) -> None:
        super().__init__(op.name, *rest)
        self.op, self.attrs = op, attrs

    def compute(self, *inputs: Any) -> list[Array]:
        return [np.array(evaluate(self.op, np, inputs, self.attrs))]

    def overlays(self, k: int) -> list[int]:
        return [0]

    def emit(self, writer: Writer) -> None:
        x, v, *indices = (writer.name(a) for a in self.inputs)
        out = writer.name(self.outputs[0])
        if writer.shared(self) != {0: 0}:
            writer.lines.append(f"copyto({out}, {x})")
        put_name = writer.bind("put", functools.partial(put_at, self.attrs["index"]))
        writer.lines.append(f"{put_name}({', '.join([out, v, *indices])})")

    def launch(self, launcher: Launcher) -> Launch:
        inputs, out = [launcher.array(v) for v in self.inputs], launcher.array(self.outputs[0])
        op, attrs, xp = self.op, self.attrs, launcher.xp

        def launch() -> None:
            out[...] = evaluate(op, xp, inputs, attrs)

        return launch


def put_at(index: Any, y: Array, v: Any, *indices: Array) -> None:
    """y[index] = v, with the arrays of the index as arguments."""
    write(np, y, put_in(index, indices), v)


class Pad(Apply):
    """Zeros with a value in a part of them, which is a view: the transpose of slicing."""

    def emit(self, writer: Writer) -> None:
        (x,), (out,) = self.inputs, self.outputs
        array = writer.array(out)
        if array is None:
            super().emit(writer)
            return
        part = array[self.attrs["index"]]
        writer.write("clear", [writer.name(out)])
        writer.write("copyto", [writer.bind("b", part), writer.name(x)])


class Accumulate(Call):
    """Adds the sum of one part to those of the previous parts: out = total + part, in the memory of the total."""

    def compute(self, *inputs: Any) -> list[Array]:
        return [np.add(*inputs)]

    def overlays(self, k: int) -> list[int]:
        return [0]

    def emit(self, writer: Writer) -> None:
        total, part = (writer.name(v) for v in self.inputs)
        writer.lines.append(f"add({total}, {part}, {writer.name(self.outputs[0])})")

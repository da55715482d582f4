"""Copies: into memory of the plan, and into memory outside of it."""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorgrad.compiler.calls.call import Call, Launch, Launcher, Rows, Writer
from tensorgrad.compiler.values import Value
from tensorgrad.core.backend import Array

__all__ = ["Accumulate", "Assign", "Copy"]


class Copy(Call):
    """A value in other memory: where it lies row after row, or is not written over."""

    def compute(self, *inputs: Any) -> list[Array]:
        return [np.array(inputs[0])]

    def sums(self, split: Rows) -> list[Value] | None:
        return [] if all(split.rows(v) for v in self.reads) else None

    def emit(self, writer: Writer) -> None:
        writer.lines.append(f"copyto({writer.name(self.outputs[0])}, {writer.name(self.inputs[0])})")

    def launch(self, launcher: Launcher) -> Launch:
        x, out = launcher.array(self.inputs[0]), launcher.array(self.outputs[0])

        def launch() -> None:
            out[...] = x

        return launch


class Assign(Copy):
    """What the program gives to memory outside of it."""

    assigns = True

    def sums(self, split: Rows) -> list[Value] | None:
        return None


class Accumulate(Call):
    """What one part has summed up, added to what those before it have: out = total + part, in the memory of the total."""

    def compute(self, *inputs: Any) -> list[Array]:
        return [np.add(*inputs)]

    def overlays(self, k: int) -> list[int]:
        return [0]

    def emit(self, writer: Writer) -> None:
        total, part = (writer.name(v) for v in self.inputs)
        writer.lines.append(f"add({total}, {part}, {writer.name(self.outputs[0])})")

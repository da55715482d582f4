"""Reductions over some or all axes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tensorgrad.compiler.calls.call import Call, Launch, Launcher, Rows, Writer
from tensorgrad.compiler.values import Value
from tensorgrad.core.backend import Array
from tensorgrad.core.node import Node
from tensorgrad.core.signature import Shape
from tensorgrad.kernels import build, thresholds

__all__ = ["Reduction"]


class Reduction(Call):
    """y = x reduced over axes by a ufunc: "add", "maximum" or "minimum"."""

    def __init__(
        self,
        function: str,
        axes: tuple[int, ...],
        name: str,
        inputs: list[Any],
        outputs: list[Value],
        nodes: list[Node],
        flops: int,
    ) -> None:
        super().__init__(name, inputs, outputs, nodes, flops)
        self.function, self.axes = function, axes

    @property
    def is_column_sum(self) -> bool:
        """Whether it is the sum over all axes except the last of a C-contiguous array."""
        (x,) = self.inputs
        return self.function == "add" and self.axes == tuple(range(len(x.shape) - 1)) and bool(x.contiguous)

    @property
    def is_middle_sum(self) -> bool:
        """Whether NumPy would take many short steps: a sum over the middle one of three axes, as for biases in an ensemble."""
        (x,) = self.inputs
        is_plain = self.function == "add" and x.dtype.char in "fd" and bool(x.contiguous)
        return is_plain and len(x.shape) == 3 and self.axes == (1,) and x.shape[0] > 1 and 1 < x.shape[2] <= thresholds.MIDDLE

    @property
    def is_row_sum(self) -> bool:
        """Whether it is the sum over a last axis so short that NumPy's cost per row dominates."""
        (x,) = self.inputs
        is_plain = self.function == "add" and x.dtype.char in "fd" and bool(x.contiguous) and 0 not in x.shape
        return is_plain and self.axes == (len(x.shape) - 1,) and x.shape[-1] <= thresholds.ROW_SUM

    def compute(self, *inputs: Any) -> list[Array]:
        return [np.asarray(getattr(np, self.function).reduce(inputs[0], self.axes))]

    def sums(self, split: Rows) -> list[Value] | None:
        (x,) = self.inputs
        if not split.rows(x):
            return None
        if 0 not in self.axes:
            return []
        return list(self.outputs) if self.function == "add" else None

    def emit(self, writer: Writer) -> None:
        x, out = writer.name(self.inputs[0]), writer.name(self.outputs[0])
        dtype, shape = self.inputs[0].dtype, self.inputs[0].shape
        middle_kernel = build.middle_sum_kernel(dtype) if self.is_middle_sum else None
        row_kernel = build.row_sum_kernel(dtype) if self.is_row_sum else None
        if middle_kernel is not None:
            writer.write(writer.bind("middle_sum", middle_kernel), [x, out])
        elif row_kernel is not None:
            rows = (math.prod(shape[:-1]), shape[-1])
            arguments = [writer.shaped(self.inputs[0], rows), writer.shaped(self.outputs[0], rows[:1])]
            writer.write(writer.bind("row_sum", row_kernel), arguments)
        elif self.inputs[0].contiguous:
            writer.lines.append(f"{self.function}.reduce({x}, {self.axes}, None, {out})")
        else:  # NumPy 2.1 gives different results with `out` for arrays with negative strides
            writer.lines.append(f"copyto({out}, {self.function}.reduce({x}, {self.axes}))")

    def launch(self, launcher: Launcher) -> Launch:
        x, out = launcher.array(self.inputs[0]), launcher.array(self.outputs[0])
        function = {"add": launcher.xp.sum, "maximum": launcher.xp.max, "minimum": launcher.xp.min}[self.function]
        axes = self.axes

        def launch() -> None:
            out[...] = function(x, axis=axes)

        # CuPy 14's min mistakes `out` for a dtype when it uses CUB
        return launch if self.function == "minimum" else lambda: function(x, axis=axes, out=out)


def narrow_shape(shape: Shape, axes: tuple[int, ...]) -> Shape:
    """A shape without the reduced axes."""
    return tuple(n for i, n in enumerate(shape) if i not in axes)

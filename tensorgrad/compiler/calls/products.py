"""Matrix products and dot products."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tensorgrad.compiler.calls.call import Call, Launch, Launcher, Rows, Writer
from tensorgrad.compiler.values import Value
from tensorgrad.core.backend import Array
from tensorgrad.kernels import cublas, products, thresholds

__all__ = ["Dot", "Matmul"]


class Matmul(Call):
    """y = a @ b, by BLAS."""

    def compute(self, *inputs: Any) -> list[Array]:
        return [np.matmul(*inputs)]

    def sums(self, split: Rows) -> list[Value] | None:
        a, b = self.inputs
        if len(a.shape) < 2 or len(b.shape) > 2:  # with several axes the first is not summed over; with one it is
            return None
        if split.columns(a) and split.rows(b):
            return list(self.outputs)
        is_unsplit = not split.rows(b) and not split.columns(b)
        return [] if split.rows(a) and is_unsplit and len(b.shape) == 2 else None

    def emit(self, writer: Writer) -> None:
        a, b = self.inputs
        # a single sample, for which BLAS takes several times as long
        function = "multiply" if len(a.shape) == len(b.shape) == 2 and a.shape[1] == 1 else "matmul"
        if self.flops >= (thresholds.SHARED_PRODUCT if writer.threads > 1 else thresholds.PRODUCT):
            function = writer.bind("product", products.matmul)
        arguments = [writer.name(v) for v in (a, b, self.outputs[0])]
        if len(a.shape) > len(b.shape) == 2 and a.contiguous:  # all rows at once; NumPy would call BLAS for each matrix
            arguments[::2] = [writer.shaped(v, (math.prod(v.shape[:-1]), v.shape[-1])) for v in (a, self.outputs[0])]
        writer.write(function, arguments)

    def launch(self, launcher: Launcher) -> Launch:
        a, b = (launcher.array(v) for v in self.inputs)
        out, xp = launcher.array(self.outputs[0]), launcher.xp
        if cublas.is_supported(a, b, out):
            return cublas.bound(a, b, out)

        def launch() -> None:
            out[...] = xp.matmul(a, b)

        return launch


class Dot(Call):
    """y = sum of a b, over all elements of two arrays of the same shape."""

    def compute(self, *inputs: Any) -> list[Array]:
        a, b = inputs
        return [np.asarray(np.sum(a * b))]

    def sums(self, split: Rows) -> list[Value] | None:
        return list(self.outputs) if all(split.rows(v) for v in self.inputs) else None

    def emit(self, writer: Writer) -> None:
        a, b = (writer.shaped(v, (math.prod(v.shape),)) for v in self.inputs)
        writer.write("dot", [a, b, writer.name(self.outputs[0])])

    def launch(self, launcher: Launcher) -> Launch:
        a, b = (launcher.array(v) for v in self.inputs)
        out = launcher.array(self.outputs[0])

        def launch() -> None:
            out[...] = (a * b).sum()  # cuBLAS's dot cannot be captured

        return launch

"""Rows of tables: gathered and added by index."""

from __future__ import annotations

import math

from tensorgrad.compiler.calls.apply import Apply
from tensorgrad.compiler.calls.call import Rows, Writer
from tensorgrad.compiler.values import Value
from tensorgrad.kernels import build

__all__ = ["AddRows", "TakeRows"]


class TakeRows(Apply):
    """y = w[t], rows of a table w (rows, ...); t (...), y (..., ...)."""

    def sums(self, split: Rows) -> list[Value] | None:
        w, t = self.inputs
        return [] if split.rows(t) and not split.rows(w) and not split.columns(w) else None

    def emit(self, writer: Writer) -> None:
        (w, t), (y,) = self.inputs, self.outputs
        kernel, n, k = build.take_rows_kernel(w.dtype, t.dtype), math.prod(t.shape), math.prod(w.shape[1:])
        if kernel is None or not writer.has_memory(y):
            super().emit(writer)
            return
        arguments = [writer.shaped(w, (w.shape[0], k)), writer.shaped(t, (n,)), writer.shaped(y, (n, k))]
        writer.write(writer.bind("take_rows", kernel), arguments)


class AddRows(Apply):
    """y (rows, ...) = zeros, and y[t[i]] += x[i] for each i; t (n), x (n, ...)."""

    def sums(self, split: Rows) -> list[Value] | None:
        return list(self.outputs) if all(split.rows(v) for v in self.inputs) else None

    def emit(self, writer: Writer) -> None:
        (x, t), (y,) = self.inputs, self.outputs
        kernel, n, k = build.sum_rows_kernel(x.dtype, t.dtype), math.prod(t.shape), math.prod(y.shape[1:])
        if kernel is None or not writer.has_memory(y):
            super().emit(writer)
            return
        arguments = [writer.shaped(x, (n, k)), writer.shaped(t, (n,)), writer.shaped(y, (y.shape[0], k))]
        writer.write(writer.bind("sum_rows", kernel), arguments)

"""Softmax and cross-entropy, forward and backward in one kernel."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from tensorgrad.compiler.calls.call import Call, Launch, Launcher, Rows, Writer
from tensorgrad.compiler.values import Value
from tensorgrad.core.backend import Array, checks
from tensorgrad.core.node import Node
from tensorgrad.kernels import build, reference
from tensorgrad.kernels.cuda.launch import check_labels, softmax_cross_entropy

__all__ = ["CrossEntropy"]


class CrossEntropy(Call):
    """The mean cross-entropy of softmax(z) and labels and, as an optional second result, its gradient.

    Reads z (..., k), t (...), and for the second result the gradient g () of the loss; samples: the number of samples.
    """

    def __init__(self, samples: int, inputs: list[Any], outputs: list[Value], nodes: list[Node], flops: int) -> None:
        super().__init__("softmax_cross_entropy", inputs, outputs, nodes, flops)
        self.samples = samples

    def compute(self, *inputs: Any) -> list[Array]:
        z, t = inputs[:2]
        g = inputs[2] if len(inputs) > 2 else np.ones((), z.dtype)
        loss, dz = np.empty((), z.dtype), np.empty(z.shape, z.dtype)
        rows = z.reshape(-1, z.shape[-1])
        reference.softmax_cross_entropy(rows, t.reshape(-1), g, self.samples, loss, dz.reshape(-1))
        return [loss, dz][: len(self.outputs)]

    def sums(self, split: Rows) -> list[Value] | None:
        return self.outputs[:1] if all(split.rows(v) for v in self.reads[:2]) else None

    def emit(self, writer: Writer) -> None:
        z, t = self.inputs[:2]
        seed = writer.name(self.inputs[2]) if len(self.inputs) > 2 else writer.bind("a", np.ones((), z.dtype))
        rows = (math.prod(z.shape[:-1]), z.shape[-1])
        loss = writer.name(self.outputs[0])
        flat = (math.prod(rows),)
        dz = writer.shaped(self.outputs[1], flat) if len(self.outputs) > 1 else writer.scratch(0, str(z.dtype), flat)
        kernel = writer.bind("softmax_cross_entropy", build.cross_entropy_kernel(z.dtype, t.dtype, z.shape[-1]))
        writer.write(kernel, [writer.shaped(z, rows), writer.shaped(t, rows[:1]), seed, str(self.samples), loss, dz])

    def launch(self, launcher: Launcher) -> Launch:
        z, t = (launcher.array(v) for v in self.inputs[:2])
        seed = launcher.array(self.inputs[2]) if len(self.inputs) > 2 else launcher.xp.ones((), z.dtype)
        rows = (math.prod(z.shape[:-1]), z.shape[-1])
        loss = launcher.array(self.outputs[0])
        dz = launcher.array(self.outputs[1]) if len(self.outputs) > 1 else launcher.xp.empty(rows, z.dtype)
        checks[z.device.id] = functools.partial(check_labels, z.device.id)
        return softmax_cross_entropy.bind(z.reshape(rows), t.reshape(rows[:1]), seed, self.samples, loss, dz.reshape(rows))

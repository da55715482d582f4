"""A multilayer perceptron with its loss and its gradients."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from tensorgrad.compiler.calls.call import Call, Launch, Launcher, Writer
from tensorgrad.compiler.values import Value
from tensorgrad.core.backend import Array, checks
from tensorgrad.core.node import Node
from tensorgrad.kernels import reference
from tensorgrad.kernels.cuda import network
from tensorgrad.kernels.cuda.launch import check_labels

__all__ = ["Network"]


class Network(Call):
    """The mean cross-entropy of a perceptron with a ReLU after each layer but the last; then, if there are more results, the
    gradients of the weights and biases of each layer.

    Reads x (m, n), t (m), the gradient () of the loss, and for each layer weights (n, k) and biases (k), all but t float32.
    """

    def __init__(self, inputs: list[Any], outputs: list[Value], nodes: list[Node], flops: int) -> None:
        super().__init__("network", inputs, outputs, nodes, flops)

    def compute(self, *inputs: Any) -> list[Array]:
        x, t, g, *parameters = inputs
        weights, biases = parameters[::2], parameters[1::2]
        activations = [x]
        for w, b in zip(weights, biases, strict=True):
            activations.append((np.maximum(activations[-1], 0) if activations[1:] else x) @ w + b)
        loss, d = np.empty((), x.dtype), np.empty(activations[-1].shape, x.dtype)
        reference.softmax_cross_entropy(activations[-1], t, g, len(x), loss, d.reshape(-1))
        results = [loss]
        for i in reversed(range(len(weights))):
            a = np.maximum(activations[i], 0) if i else x
            results[1:1] = [a.T @ d, reference.column_sum(d)]
            d = np.where(a > 0, d @ weights[i].T, x.dtype.type(0))
        return results[: len(self.outputs)]

    def emit(self, writer: Writer) -> None:
        def run(*arrays: Array) -> None:
            count = len(self.inputs)
            for out, result in zip(arrays[count:], self.compute(*arrays[:count]), strict=True):
                out[...] = result

        writer.write(writer.bind("network", run), [writer.name(v) for v in (*self.inputs, *self.outputs)])

    def launch(self, launcher: Launcher) -> Launch:
        x, t, g, *parameters = [launcher.array(v) for v in self.inputs]
        layers = list(zip(parameters[::2], parameters[1::2], strict=True))
        checks[x.device.id] = functools.partial(check_labels, x.device.id)
        return network.bound(x, t, g, layers, [launcher.array(v) for v in self.outputs])

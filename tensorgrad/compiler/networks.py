"""Networks: a multilayer perceptron with its loss and gradients on a GPU becomes one call.

Values between the layers are then never written to memory, so neither the user nor another call may read them.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any, NamedTuple

import numpy as np

from tensorgrad.compiler.calls import Assign, Call, CrossEntropy, Elementwise, Matmul, Network, Reduction
from tensorgrad.compiler.values import Value, lineage
from tensorgrad.kernels import cublas, thresholds
from tensorgrad.kernels.cuda import generate, network


class Layer(NamedTuple):
    """x @ w + b"""

    x: Value
    w: Value
    b: Value


def with_networks(calls: list[Call], keep: Container[Value]) -> list[Call]:
    """The calls, with networks in place of those that they replace. keep: values that are read after the last call.

    Networks compute in float32; products that may be less exact are left to cuBLAS, because its tensor cores are faster.
    """
    if thresholds.NETWORK is None or cublas.get_matmul_precision() != "float32":
        return calls
    search = Search(calls, keep)
    replaced: dict[Call, list[Call]] = {}
    for call in calls:
        if isinstance(call, CrossEntropy) and len(call.outputs) == 2 and len(call.outputs[1].shape) == 2:
            replaced |= search.network(call)
    return [replacement for call in calls for replacement in replaced.get(call, [call])]


class Search:
    """The writers and readers of the values of some calls."""

    def __init__(self, calls: list[Call], keep: Container[Value]) -> None:
        self.calls, self.keep = calls, keep
        self.producers = {v: call for call in calls for v in call.outputs}
        self.readers: dict[Value, list[Call]] = {}
        for call in calls:
            for base in {base for v in call.reads for base in lineage(v)}:
                self.readers.setdefault(base, []).append(call)

    def producer(self, v: Value, name: str) -> Call | None:
        """The call of this name that writes a value, unless it ignores floating-point errors."""
        call = self.producers.get(v)
        return call if call is not None and call.name == name and not getattr(call, "quiet", ()) else None

    def reader(self, v: Value, name: str, *inputs: Value | None) -> Call | None:
        """The only call of this name that reads a value, with these inputs; None stands for the transposed value."""
        calls = [call for call in self.readers.get(v, []) if call.name == name and reads(call, inputs, v)]
        return calls[0] if len(calls) == 1 and not getattr(calls[0], "quiet", ()) else None

    def network(self, loss: CrossEntropy) -> dict[Call, list[Call]]:
        """Replaced calls to their replacements: the network for the loss, nothing for others; {} if there is no network."""
        z, t, g = loss.inputs
        forward = self.forward(z)
        if forward is None or len(forward[0]) < 2 or z.dtype != np.float32 or z.shape[0] < (thresholds.NETWORK or 0):
            return {}
        layers, replaced = forward
        gradients = self.backward(layers, loss.outputs[1])
        widths = (layers[0].x.shape[-1], *(layer.b.shape[-1] for layer in layers))
        parameters = [layers[0].x, *(v for _, w, b in layers for v in (w, b))]
        if gradients is None or not all(is_supported(v) for v in (*parameters, g)) or network.tile_of(widths) is None:
            return {}
        results, gradient_calls = gradients
        replaced = [*replaced, loss, *gradient_calls]
        outputs = [loss.outputs[0], *results]
        hidden = [v for call in replaced for v in call.outputs if v not in outputs]
        if str(t.dtype) not in generate.TYPES or not all(v.contiguous for v in outputs):
            return {}
        if any(v in self.keep or v.base is not None or set(self.readers.get(v, [])) - set(replaced) for v in hidden):
            return {}
        places = [self.calls.index(call) for call in replaced]
        if any(isinstance(call, Assign) for call in self.calls[min(places) : max(places)]):
            return {}
        nodes = list(dict.fromkeys(node for call in replaced for node in call.nodes))
        fused = Network([parameters[0], t, g, *parameters[1:]], outputs, nodes, sum(call.flops for call in replaced))
        return {**{call: [] for call in replaced}, loss: [fused]}

    def forward(self, z: Value) -> tuple[list[Layer], list[Call]] | None:
        """The layers that compute the scores, and their calls."""
        layers: list[Layer] = []
        calls: list[Call] = []
        while True:
            add = self.producer(z, "add")
            product = add and self.producer(add.inputs[0], "matmul")
            if add is None or product is None or not isinstance(add, Elementwise) or not isinstance(product, Matmul):
                return None
            x, w = product.inputs
            b = add.inputs[1]
            if not isinstance(b, Value) or len(x.shape) != 2 or w.shape != (x.shape[1], *b.shape):
                return None
            layers.insert(0, Layer(x, w, b))
            calls += [add, product]
            unit = self.producer(x, "maximum")
            if unit is None or type(unit.inputs[1]) is not int or unit.inputs[1] or not isinstance(unit.inputs[0], Value):
                return layers, calls
            calls.append(unit)
            z = unit.inputs[0]

    def backward(self, layers: list[Layer], d: Value) -> tuple[list[Value], list[Call]] | None:
        """The gradients of weights and biases, first layer first, and the calls that compute them from d, the gradient of the
        scores."""
        results: list[Value] = []
        calls: list[Call] = []
        for i in reversed(range(len(layers))):
            x, w, _ = layers[i]
            of_weights = self.reader(x, "matmul", None, d)
            sums = [call for call in self.readers.get(d, []) if isinstance(call, Reduction) and call.is_column_sum]
            of_biases = next((call for call in sums if call.inputs[0] is d), None)
            if of_weights is None or of_biases is None:
                return None
            results[:0] = [*of_weights.outputs, *of_biases.outputs]
            calls += [of_weights, of_biases]
            if i:
                product = self.reader(w, "matmul", d, None)
                masked = product and self.reader(x, "relu_grad", product.outputs[0], x)
                if product is None or masked is None:
                    return None
                calls += [product, masked]
                d = masked.outputs[0]
        return results, calls


def reads(call: Call, inputs: tuple[Value | None, ...], matrix: Value) -> bool:
    """Whether a call has these inputs; None stands for the transposed `matrix`."""
    if len(call.inputs) != len(inputs):
        return False
    return all(
        actual is expected
        if expected is not None
        else isinstance(actual, Value) and actual.view_kind == "transpose" and actual.base is matrix
        for actual, expected in zip(call.inputs, inputs, strict=True)
    )


def is_supported(v: Any) -> bool:
    """Whether a value has the layout and the dtype that the kernel reads."""
    return isinstance(v, Value) and v.contiguous and v.dtype == np.float32

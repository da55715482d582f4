"""Functions of several ops that are a single ONNX operator: convolutions, pools and norms."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tensorgrad import ops
from tensorgrad.core.backend import is_half
from tensorgrad.core.node import Node
from tensorgrad.core.scope import ArgumentInfo, Called
from tensorgrad.core.tensor import Tensor
from tensorgrad.nn import functional as F
from tensorgrad.onnx.recording import Program, Size
from tensorgrad.onnx.writer import Value, Writer
from tensorgrad.ops.conv import padding_of
from tensorgrad.ops.pool import extra
from tensorgrad.ops.windows import several

FUNCTIONS: dict[Callable[..., Any], Callable[[Writer, Call], Value]] = {}
CONDITIONS: dict[Callable[..., Any], Callable[[Call], bool]] = {}


class Call:
    """A call of such a function; only one of its nodes is used elsewhere.

    node    the result;  called  the call;  args  its arguments by name, with nodes and leaves instead of arrays
    leaves  the leaves it read that were not passed to it as Tensors, in order
    """

    def __init__(self, node: Node, nodes: list[Node], called: Called, program: Program) -> None:
        self.node, self.called, self.program = node, called, program
        self.shape = program.shapes[node]
        self.args: dict[str, Any] = {}
        self.is_known = True
        inside = {id(n) for n in nodes}
        for name, value, _ in called.arguments():
            if isinstance(value, ArgumentInfo) and value.source is not None:
                array = value.source()
                source = None if array is None else program.trace.source(array)
                self.is_known = self.is_known and (source in program.shapes) and id(source) not in inside
                value = source
            self.args[name] = value
        read = [s for n in nodes for s in program.sources[n] if isinstance(s, Tensor)]
        passed = {id(v) for v in self.args.values()}
        self.leaves = [s for s in dict.fromkeys(read) if id(s) not in passed]
        self.is_known = self.is_known and all(
            id(s) in inside or id(s) in passed or isinstance(s, Tensor) for n in nodes for s in program.sources[n]
            if isinstance(s, (Node, Tensor))
        )  # fmt: skip

    def sizes(self, name: str = "x") -> tuple[Any, ...]:
        return tuple(self.program.shapes[self.args[name]])

    def numbers(self, name: str, axes: int, default: Any) -> tuple[int, ...]:
        value = self.args.get(name)
        return several(self.called.name, name, default if value is None else value, axes, 0)

    def array(self, w: Writer, name: str) -> Value | None:
        """An argument in float32, the dtype of the computation, or None."""
        source = self.args.get(name)
        return None if source is None else w.as_value(w.value(source), np.float32)


def nodes_and_calls(program: Program) -> Iterator[Node | Call]:
    """The nodes; those of a call with an operator are replaced by the call, at the position of its result."""
    groups: dict[int, list[Node]] = {}
    for node in program.nodes:
        if node.function is not None and node.function.fn in FUNCTIONS:
            groups.setdefault(id(node.function), []).append(node)
    read_by: dict[Node, list[Node]] = {}
    for node in program.nodes:
        for source in program.sources[node]:
            if isinstance(source, Node):
                read_by.setdefault(source, []).append(node)
    results = {id(r) for r in program.results}
    calls: dict[Node, Call] = {}
    skipped: set[Node] = set()
    for nodes in groups.values():
        inside = set(nodes)
        outer = [n for n in nodes if id(n) in results or any(r not in inside for r in read_by.get(n, []))]
        called = nodes[0].function
        if called is None or outer != nodes[-1:] or not is_narrow(nodes[-1].dtype):
            continue
        call = Call(nodes[-1], nodes, called, program)
        if call.is_known and (called.fn not in CONDITIONS or CONDITIONS[called.fn](call)):
            calls[nodes[-1]] = call
            skipped |= inside
    for node in program.nodes:
        if node in calls:
            yield calls[node]
        elif node not in skipped:
            yield node


def is_narrow(dtype: Any) -> bool:
    """Whether it is float32 or half precision: onnxruntime lacks these operators for float64."""
    return np.dtype(dtype) == np.float32 or is_half(dtype)


def operator(*functions: Any, condition: Callable[[Call], bool] | None = None) -> Callable[[Any], Any]:
    """Register the operator for calls of these functions that satisfy `condition`."""

    def register(fn: Any) -> Any:
        for function in functions:
            FUNCTIONS[function.__wrapped__] = fn
            if condition is not None:
                CONDITIONS[function.__wrapped__] = condition
        return fn

    return register


def is_fixed(call: Call) -> bool:
    """Whether only the number of samples is variable."""
    return not any(isinstance(n, Size) for n in call.sizes()[1:])


@operator(ops.conv1d, ops.conv2d, ops.conv3d, condition=is_fixed)
def conv(w: Writer, call: Call) -> Value:
    kernel = call.sizes("weight")[2:]
    axes = len(kernel)
    stride, dilation = call.numbers("stride", axes, 1), call.numbers("dilation", axes, 1)
    padding = call.args.get("padding", 0)
    if isinstance(padding, str):
        total_padding = padding_of(call.called.name, padding, kernel, stride, dilation)
        pads = [*[n // 2 for n in total_padding], *[n - n // 2 for n in total_padding]]
    else:
        pads = [*call.numbers("padding", axes, 0)] * 2
    xs = [call.array(w, name) for name in ("x", "weight", "bias")]
    groups = call.args.get("groups", 1)
    return w(
        "Conv", *(xs if xs[2] is not None else xs[:2]), kernel_shape=kernel, strides=stride, pads=pads, dilations=dilation,
        group=groups, shape=call.shape,
    )  # fmt: skip


@operator(ops.conv_transpose1d, ops.conv_transpose2d, ops.conv_transpose3d, condition=is_fixed)
def conv_transpose(w: Writer, call: Call) -> Value:
    kernel = call.sizes("weight")[2:]
    axes = len(kernel)
    xs = [call.array(w, name) for name in ("x", "weight", "bias")]
    return w(
        "ConvTranspose", *(xs if xs[2] is not None else xs[:2]), kernel_shape=kernel, strides=call.numbers("stride", axes, 1),
        pads=[*call.numbers("padding", axes, 0)] * 2, dilations=call.numbers("dilation", axes, 1),
        output_padding=call.numbers("output_padding", axes, 0), group=call.args.get("groups", 1), shape=call.shape,
    )  # fmt: skip


def pool_of(call: Call) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Kernel, stride, padding, dilation, and the additional padding at the end with ceil_mode."""
    size = call.sizes()[2:]
    axes = len(size)
    kernel = call.numbers("kernel_size", axes, 1)
    stride, padding = call.numbers("stride", axes, kernel), call.numbers("padding", axes, 0)
    dilation = call.numbers("dilation", axes, 1)
    end_padding = (
        extra(call.called.name, size, kernel, stride, padding, dilation) if call.args.get("ceil_mode") else (0,) * axes
    )
    return kernel, stride, padding, dilation, end_padding


@operator(ops.max_pool1d, ops.max_pool2d, ops.max_pool3d, condition=is_fixed)
def max_pool(w: Writer, call: Call) -> Value:
    kernel, stride, padding, dilation, end_padding = pool_of(call)
    pads = [*padding, *[p + m for p, m in zip(padding, end_padding, strict=True)]]
    return w(
        "MaxPool", call.array(w, "x"), kernel_shape=kernel, strides=stride, pads=pads, dilations=dilation, shape=call.shape
    )  # fmt: skip


def is_supported_pool(call: Call) -> bool:
    """Whether no window of a mean extends beyond the end, which programs count differently."""
    return is_fixed(call) and not any(pool_of(call)[4])


@operator(ops.avg_pool1d, ops.avg_pool2d, ops.avg_pool3d, condition=is_supported_pool)
def avg_pool(w: Writer, call: Call) -> Value:
    kernel, stride, padding, _, _ = pool_of(call)
    counts = int(call.args.get("count_include_pad", True))
    return w(
        "AveragePool", call.array(w, "x"), kernel_shape=kernel, strides=stride, pads=[*padding, *padding],
        count_include_pad=counts, shape=call.shape,
    )  # fmt: skip


def divides(call: Call) -> bool:
    """Whether all windows of an adaptive pool have the same size."""
    return is_fixed(call) and all(n % m == 0 for n, m in zip(call.sizes()[2:], call.shape[2:], strict=True))


def adaptive(functions: tuple[Any, ...], kind: str) -> None:
    @operator(*functions, condition=divides)
    def export_op(w: Writer, call: Call) -> Value:
        x = call.array(w, "x")
        if all(n == 1 for n in call.shape[2:]):
            return w(f"Global{kind}", x, shape=call.shape)
        kernel = [n // m for n, m in zip(call.sizes()[2:], call.shape[2:], strict=True)]
        return w(kind, x, kernel_shape=kernel, strides=kernel, shape=call.shape)


adaptive((ops.adaptive_avg_pool1d, ops.adaptive_avg_pool2d, ops.adaptive_avg_pool3d), "AveragePool")
adaptive((ops.adaptive_max_pool1d, ops.adaptive_max_pool2d, ops.adaptive_max_pool3d), "MaxPool")


def is_in_use(call: Call) -> bool:
    """Whether a batch norm uses its running statistics, which are not passed to it as Tensors."""
    return not call.args.get("training", False) and len(call.leaves) == 2


@operator(F.batch_norm, condition=is_in_use)
def batch_norm(w: Writer, call: Call) -> Value:
    x = call.array(w, "x")
    features = call.sizes()[1]
    mean, var = (w.as_value(w.value(leaf), np.float32) for leaf in call.leaves)
    weight = call.array(w, "weight") or w.constant(np.ones(features, np.float32))
    bias = call.array(w, "bias") or w.constant(np.zeros(features, np.float32))
    epsilon = float(call.args.get("eps", 1e-5))
    return w("BatchNormalization", x, weight, bias, mean, var, epsilon=epsilon)


@operator(F.layer_norm)
def layer_norm(w: Writer, call: Call) -> Value:
    normalized = call.args["normalized_shape"]
    shape = (normalized,) if isinstance(normalized, int) else tuple(normalized)
    weight = call.array(w, "weight") or w.constant(np.ones(shape, np.float32))
    xs = [call.array(w, "x"), weight, *[b for b in [call.array(w, "bias")] if b is not None]]
    return w("LayerNormalization", *xs, axis=-len(shape), epsilon=float(call.args.get("eps", 1e-5)))

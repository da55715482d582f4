"""ONNX operators implemented with tensorgrad's ops, for `load`.

Each takes its inputs, Tensors or arrays (None for omitted ones), and its attributes. Shapes are arrays and remain arrays.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

from tensorgrad import ops
from tensorgrad.core.tensor import Tensor, raw
from tensorgrad.nn import functional as F
from tensorgrad.ops.linalg import as_operand

OPERATORS: dict[str, Callable[..., Any]] = {}


def operator(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def register(fn: Callable[..., Any]) -> Callable[..., Any]:
        OPERATORS.update(dict.fromkeys(names, fn))
        return fn

    return register


SIMPLE: dict[str, Any] = {
    "Abs": ops.abs, "Acos": ops.arccos, "Add": ops.add, "Asin": ops.arcsin, "Atan": ops.arctan, "Ceil": ops.ceil,
    "Cos": ops.cos, "Cosh": ops.cosh, "Equal": ops.equal, "Erf": ops.erf, "Exp": ops.exp, "Floor": ops.floor,
    "Greater": ops.greater, "GreaterOrEqual": ops.greater_equal, "IsNaN": ops.isnan, "Less": ops.less,
    "LessOrEqual": ops.less_equal, "Log": ops.log,
    "MatMul": ops.matmul, "Mul": ops.mul, "Neg": ops.neg, "Not": ops.logical_not, "Or": ops.logical_or, "And": ops.logical_and,
    "Pow": ops.power, "Reciprocal": ops.reciprocal, "Relu": ops.relu, "Round": ops.round, "Sigmoid": ops.sigmoid,
    "Sign": ops.sign, "Sin": ops.sin, "Sinh": ops.sinh, "Softplus": ops.softplus, "Sqrt": ops.sqrt, "Sub": ops.sub,
    "Tan": ops.tan, "Tanh": ops.tanh, "Where": ops.where, "Xor": ops.logical_xor, "Softsign": F.softsign, "Mish": F.mish,
    "HardSwish": F.hardswish,
}  # fmt: skip
OPERATORS.update(SIMPLE)


def numbers(x: Any) -> list[int]:
    """The integers in an array."""
    x = x.numpy() if isinstance(x, Tensor) else x
    return [int(n) for n in np.asarray(x).reshape(-1)]


@operator("Div")
def div(a: Any, b: Any) -> Any:
    if raw(a).dtype.kind in "iu" and raw(b).dtype.kind in "iu":  # rounds towards 0
        return ops.cast(ops.trunc(ops.div(a, b)), raw(a).dtype)
    return ops.div(a, b)


def folded(name: str, fn: Callable[[Any, Any], Any]) -> None:
    @operator(name)
    def several(first: Any, *rest: Any) -> Any:
        for x in rest:
            first = fn(first, x)
        return first


folded("Max", ops.maximum)
folded("Min", ops.minimum)
folded("Sum", ops.add)


@operator("Identity", "Dropout")
def identity(x: Any, *_: Any, **attrs: Any) -> Any:
    return x


@operator("Cast")
def cast(x: Any, to: Any, **_: Any) -> Any:
    return ops.astype(x, to) if np.dtype(to).kind == "f" else ops.cast(x, to)


@operator("Mod")
def mod(a: Any, b: Any, fmod: int = 0) -> Any:
    if fmod:
        raise NotImplementedError("fmod=1")
    return ops.mod(a, b)


@operator("LeakyRelu")
def leaky_relu(x: Any, alpha: float = 0.01) -> Any:
    return F.leaky_relu(x, alpha)


@operator("Elu")
def elu(x: Any, alpha: float = 1.0) -> Any:
    return F.elu(x, alpha)


@operator("Selu")
def selu(x: Any, alpha: float = 1.67326319217681884765625, gamma: float = 1.05070102214813232421875) -> Any:
    return gamma * F.elu(x, alpha)


@operator("Celu")
def celu(x: Any, alpha: float = 1.0) -> Any:
    return F.celu(x, alpha)


@operator("HardSigmoid")
def hard_sigmoid(x: Any, alpha: float = 0.2, beta: float = 0.5) -> Any:
    return ops.clip(alpha * as_operand("HardSigmoid", x) + beta, 0.0, 1.0)


@operator("Gelu")
def gelu(x: Any, approximate: str = "none") -> Any:
    return F.gelu(x, approximate)


@operator("PRelu")
def prelu(x: Any, slope: Any) -> Any:
    return ops.where(ops.greater(x, 0), x, ops.mul(x, slope))


@operator("Clip")
def clip(x: Any, low: Any = None, high: Any = None) -> Any:
    low, high = (None if n is None else float(np.asarray(raw(n))) for n in (low, high))
    return ops.clip(x, low, high)


@operator("Softmax")
def softmax(x: Any, axis: int = -1) -> Any:
    return ops.softmax(x, axis)


@operator("LogSoftmax")
def log_softmax(x: Any, axis: int = -1) -> Any:
    return ops.log_softmax(x, axis)


@operator("Gemm")
def gemm(a: Any, b: Any, c: Any = None, alpha: float = 1.0, beta: float = 1.0, transA: int = 0, transB: int = 0) -> Any:
    y = ops.matmul(ops.swapaxes(a, 0, 1) if transA else a, ops.swapaxes(b, 0, 1) if transB else b)
    y = y if alpha == 1 else y * alpha
    return y if c is None else y + (c if beta == 1 else ops.mul(c, beta))


@operator("Einsum")
def einsum(*xs: Any, equation: str) -> Any:
    return ops.einsum(equation, *xs)


def pads_of(pads: Any, auto_pad: str, axes: int) -> list[tuple[int, int]]:
    """Zeros before and after, for each axis."""
    if auto_pad not in ("NOTSET", "VALID"):
        raise NotImplementedError(f"auto_pad={auto_pad}")
    return [(0, 0)] * axes if pads is None else list(zip(pads[:axes], pads[axes:], strict=True))


@operator("Conv")
def conv(
    x: Any, weight: Any, bias: Any = None, *, strides: Any = None, pads: Any = None, dilations: Any = None, group: int = 1,
    kernel_shape: Any = None, auto_pad: str = "NOTSET",
) -> Any:  # fmt: skip
    axes = weight.ndim - 2
    fn = (ops.conv1d, ops.conv2d, ops.conv3d)[axes - 1]
    stride, dilation = tuple(strides or (1,) * axes), tuple(dilations or (1,) * axes)
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        sizes = zip(x.shape[2:], weight.shape[2:], stride, dilation, strict=True)
        totals = [max((-(-n // s) - 1) * s + d * (k - 1) + 1 - n, 0) for n, k, s, d in sizes]
        halves = [(t // 2, t - t // 2) for t in totals]
        padding = halves if auto_pad == "SAME_UPPER" else [(b, a) for a, b in halves]
    else:
        padding = pads_of(pads, auto_pad, axes)
    if all(a == b for a, b in padding):
        return fn(x, weight, bias, stride, tuple(a for a, _ in padding), dilation, group)
    return fn(ops.pad(x, ((0, 0), (0, 0), *padding)), weight, bias, stride, 0, dilation, group)


@operator("ConvTranspose")
def conv_transpose(
    x: Any, weight: Any, bias: Any = None, *, strides: Any = None, pads: Any = None, dilations: Any = None, group: int = 1,
    kernel_shape: Any = None, auto_pad: str = "NOTSET", output_padding: Any = None,
) -> Any:  # fmt: skip
    axes = weight.ndim - 2
    padding = pads_of(pads, auto_pad, axes)
    if any(a != b for a, b in padding):
        raise NotImplementedError("asymmetric pads")
    fn = (ops.conv_transpose1d, ops.conv_transpose2d, ops.conv_transpose3d)[axes - 1]
    stride, dilation = tuple(strides or (1,) * axes), tuple(dilations or (1,) * axes)
    extra = tuple(output_padding or (0,) * axes)
    return fn(x, weight, bias, stride, tuple(a for a, _ in padding), extra, group, dilation)


@operator("MaxPool")
def max_pool(
    x: Any, *, kernel_shape: Any, strides: Any = None, pads: Any = None, dilations: Any = None, ceil_mode: int = 0,
    auto_pad: str = "NOTSET", storage_order: int = 0,
) -> Any:  # fmt: skip
    axes = len(kernel_shape)
    padding = pads_of(pads, auto_pad, axes)
    fn = (ops.max_pool1d, ops.max_pool2d, ops.max_pool3d)[axes - 1]
    stride, dilation = tuple(strides or (1,) * axes), tuple(dilations or (1,) * axes)
    if all(a == b for a, b in padding):
        return fn(x, tuple(kernel_shape), stride, tuple(a for a, _ in padding), dilation, bool(ceil_mode))
    x = ops.pad(x, ((0, 0), (0, 0), *padding), -math.inf)
    return fn(x, tuple(kernel_shape), stride, 0, dilation, bool(ceil_mode))


@operator("AveragePool")
def average_pool(
    x: Any, *, kernel_shape: Any, strides: Any = None, pads: Any = None, ceil_mode: int = 0, count_include_pad: int = 0,
    auto_pad: str = "NOTSET", dilations: Any = None,
) -> Any:  # fmt: skip
    axes = len(kernel_shape)
    widths = pads_of(pads, auto_pad, axes)
    if any(a != b for a, b in widths) or any(d != 1 for d in dilations or ()):
        raise NotImplementedError("asymmetric pads, or dilations")
    fn = (ops.avg_pool1d, ops.avg_pool2d, ops.avg_pool3d)[axes - 1]
    stride, padding = tuple(strides or (1,) * axes), tuple(a for a, _ in widths)
    return fn(x, tuple(kernel_shape), stride, padding, bool(ceil_mode), bool(count_include_pad))


@operator("GlobalAveragePool")
def global_average_pool(x: Any) -> Any:
    return ops.mean(x, tuple(range(2, x.ndim)), True)


@operator("GlobalMaxPool")
def global_max_pool(x: Any) -> Any:
    return ops.max(x, tuple(range(2, x.ndim)), True)


@operator("BatchNormalization")
def batch_norm(
    x: Any, weight: Any, bias: Any, mean: Any, var: Any, epsilon: float = 1e-5, momentum: float = 0.9, training_mode: int = 0
) -> Any:
    if training_mode:
        raise NotImplementedError("training_mode=1")
    return F.batch_norm(x, raw(mean), raw(var), weight, bias, False, 0.1, epsilon)


@operator("LayerNormalization")
def layer_norm(x: Any, weight: Any, bias: Any = None, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1) -> Any:
    return F.layer_norm(x, x.shape[axis % x.ndim :], weight, bias, epsilon)


@operator("InstanceNormalization")
def instance_norm(x: Any, weight: Any, bias: Any, epsilon: float = 1e-5) -> Any:
    return F.instance_norm(x, weight=weight, bias=bias, eps=epsilon)


# Data movement


@operator("Reshape")
def reshape(x: Any, shape: Any, allowzero: int = 0) -> Any:
    sizes = numbers(shape)
    if raw(x).dtype.kind == "O":
        return raw(x).reshape(sizes)
    return ops.reshape(x, tuple(x.shape[i] if n == 0 and not allowzero else n for i, n in enumerate(sizes)))


@operator("Flatten")
def flatten(x: Any, axis: int = 1) -> Any:
    axis = axis % x.ndim if axis < 0 else axis
    return ops.reshape(x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))


@operator("Transpose")
def transpose(x: Any, perm: Any = None) -> Any:
    return ops.transpose(x, tuple(reversed(range(x.ndim))) if perm is None else tuple(perm))


@operator("Squeeze")
def squeeze(x: Any, axes: Any = None) -> Any:
    removed = {a % x.ndim for a in numbers(axes)} if axes is not None else {i for i, n in enumerate(x.shape) if n == 1}
    return ops.reshape(x, tuple(n for i, n in enumerate(x.shape) if i not in removed))


@operator("Unsqueeze")
def unsqueeze(x: Any, axes: Any) -> Any:
    x = x if hasattr(x, "ndim") else np.asarray(x)
    new = numbers(axes)
    ndim = x.ndim + len(new)
    sizes = iter(x.shape)
    new = [a % ndim for a in new]
    return ops.reshape(x, tuple(1 if i in new else next(sizes) for i in range(ndim)))


@operator("Concat")
def concat(*xs: Any, axis: int) -> Any:
    return ops.concatenate(list(xs), axis)


@operator("Split")
def split(x: Any, sizes: Any = None, axis: int = 0, num_outputs: int | None = None) -> Any:
    n = x.shape[axis]
    if sizes is not None:
        parts = numbers(sizes)
    else:
        step = -(-n // (num_outputs or 1))
        parts = [min(step, n - i) for i in range(0, n, step)]
    ends = np.cumsum([0, *parts])
    leading = (slice(None),) * (axis % x.ndim)
    return tuple(ops.getitem(x, (*leading, slice(int(a), int(b)))) for a, b in pairwise(ends))


@operator("Slice")
def slice_of(x: Any, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Any:
    begin, end = numbers(starts), numbers(ends)
    sliced_axes = list(range(len(begin))) if axes is None else numbers(axes)
    index: list[Any] = [slice(None)] * x.ndim
    for a, b, axis, step in zip(begin, end, sliced_axes, [1] * len(begin) if steps is None else numbers(steps), strict=True):
        n = x.shape[axis]
        if step < 0:  # an end below -n is before the first element
            index[axis] = slice(a if a < n else None, None if b < -n else b, step)
        else:
            index[axis] = slice(a, b, step)
    return ops.getitem(x, tuple(index))


@operator("Gather")
def gather(x: Any, indices: Any, axis: int = 0) -> Any:
    return ops.getitem(
        x, (*(slice(None),) * (axis % x.ndim), indices if np.ndim(raw(indices)) else int(np.asarray(raw(indices))))
    )


@operator("GatherElements")
def gather_elements(x: Any, indices: Any, axis: int = 0) -> Any:
    return ops.take_along_axis(x, indices, axis)


@operator("Expand")
def expand(x: Any, shape: Any) -> Any:
    return ops.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(numbers(shape))))


@operator("Tile")
def tile(x: Any, repeats: Any) -> Any:
    return ops.tile(x, tuple(numbers(repeats)))


@operator("Shape")
def shape_of(x: Any, start: int = 0, end: int | None = None) -> Any:
    return np.array(x.shape, np.int64)[start:end]


@operator("ConstantOfShape")
def constant_of_shape(shape: Any, value: Any = None) -> Any:
    value = np.zeros(1, np.float32) if value is None else value
    return np.full(tuple(numbers(shape)), value[0], value.dtype)


@operator("Range")
def range_of(start: Any, limit: Any, delta: Any) -> Any:
    begin, end, step = (np.asarray(raw(v)) for v in (start, limit, delta))
    return np.arange(begin.item(), end.item(), step.item(), dtype=begin.dtype)


@operator("Pad")
def pad(x: Any, pads: Any, value: Any = None, axes: Any = None, mode: str = "constant") -> Any:
    widths = numbers(pads)
    padded_axes = list(range(x.ndim)) if axes is None else [a % x.ndim for a in numbers(axes)]
    width = [(0, 0)] * x.ndim
    for i, axis in enumerate(padded_axes):
        width[axis] = (widths[i], widths[i + len(padded_axes)])
    if mode != "constant":
        return ops.pad(x, width, mode=mode)
    return ops.pad(x, width, 0.0 if value is None else float(np.asarray(raw(value)).reshape(())))


@operator("Trilu")
def trilu(x: Any, k: Any = None, upper: int = 1) -> Any:
    n = 0 if k is None else int(np.asarray(raw(k)))
    return ops.triu(x, n) if upper else ops.tril(x, n)


def reduction(name: str, fn: Callable[..., Any]) -> None:
    @operator(name)
    def reduced(x: Any, axes: Any = None, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Any:
        reduced_axes = None if axes is None else tuple(numbers(axes))
        if not reduced_axes and noop_with_empty_axes:
            return x
        return fn(x, reduced_axes or None, keepdims=bool(keepdims))


REDUCTIONS: dict[str, Any] = {
    "ReduceMean": ops.mean, "ReduceSum": ops.sum, "ReduceMax": ops.max, "ReduceMin": ops.min, "ReduceProd": ops.prod,
    "ReduceL2": ops.norm, "ReduceLogSumExp": ops.logsumexp,
}  # fmt: skip
for _name, _op in REDUCTIONS.items():
    reduction(_name, _op)


@operator("ArgMax")
def argmax(x: Any, axis: int = 0, keepdims: int = 1) -> Any:
    return ops.argmax(x, axis, bool(keepdims))


@operator("ArgMin")
def argmin(x: Any, axis: int = 0, keepdims: int = 1) -> Any:
    return ops.argmin(x, axis, bool(keepdims))


@operator("CumSum")
def cumsum(x: Any, axis: Any) -> Any:
    return ops.cumsum(x, int(np.asarray(raw(axis)).reshape(())))


# Operators of ai.onnx.ml, for scikit-learn's classifiers


@operator("ArrayFeatureExtractor")
def feature_of(x: Any, indices: Any) -> Any:
    if raw(x).dtype.kind == "O":  # class names are not numbers: the result is an array
        return raw(x)[..., np.asarray(raw(indices)).reshape(-1)]
    return ops.getitem(x, (..., ops.reshape(indices, (-1,))))


@operator("ZipMap")
def zip_map(x: Any, **_: Any) -> Any:
    """The probabilities of all classes as an array instead of a list of dicts."""
    return x

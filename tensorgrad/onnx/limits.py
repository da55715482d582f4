"""Limits on what a loaded file computes: a file of a few bytes can declare arrays that exceed any memory.

A run may use a gibibyte, or a thousand times the size of the file and the arguments, because layers and channels multiply the
size of a model's values. The size of an operator's result and temporaries is estimated before it runs; so is the number of
multiplications in products, which is limited to a million for each number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from tensorgrad.core.backend import memory_left
from tensorgrad.core.tensor import raw
from tensorgrad.errors import DataError
from tensorgrad.onnx.operators import numbers

BYTES, TIMES = 1 << 30, 1000
STEPS = 10**6  # operators, those in Scan once per step
PRODUCTS, USES = 1 << 37, 10**6  # the former takes one or two seconds

Estimate: TypeAlias = Callable[..., tuple[int, int]]  # elements, products

ESTIMATES: dict[str, Estimate] = {}  # by operator


def estimate(*names: str) -> Callable[[Estimate], Estimate]:
    def register(fn: Estimate) -> Estimate:
        ESTIMATES.update(dict.fromkeys(names, fn))
        return fn

    return register


class Budget:
    """What is left of the limits for a run.

    existing_bytes   bytes of the arrays that exist before it
    """

    def __init__(self, existing_bytes: int) -> None:
        self.steps = max(STEPS, existing_bytes // 4)
        self.bytes, self.products = max(BYTES, TIMES * existing_bytes), max(PRODUCTS, USES * (existing_bytes // 4))

    def take(self, kind: str, inputs: Sequence[Any], attrs: dict[str, Any]) -> None:
        """Called before an operator runs. Raises DataError if it would exceed what is left."""
        self.step()
        elements, products = ESTIMATES.get(kind, elementwise)(*inputs, **attrs)
        typed_inputs = inputs[:1] if kind in ESTIMATES else inputs  # the others are sizes and positions, or have the same dtype
        needed = elements * max([4, *[x.dtype.itemsize for x in typed_inputs if x is not None]])
        if needed > self.bytes or (needed > BYTES and needed > memory_left()):
            raise DataError(
                f"would create an array of {needed:,} bytes, more than the {self.bytes:,} left of the limit for this file"
            )
        if products > self.products:
            raise DataError(
                f"would do {products:,} multiplications, more than the {self.products:,} left of the limit for this file"
            )
        self.bytes -= needed
        self.products -= products

    def step(self) -> None:
        """Called before an operator or a step of Scan runs. Raises DataError after too many of them."""
        self.steps -= 1
        if self.steps < 0:
            raise DataError("would run more operators than the limit for this file, a million or more")


def size(x: Any) -> int:
    return math.prod(shape(x))


def shape(x: Any) -> tuple[int, ...]:
    return () if x is None else tuple(x.shape)


def elementwise(*inputs: Any, **_: Any) -> tuple[int, int]:
    """Elementwise, or no larger than the largest input."""
    shapes = [shape(x) for x in inputs]
    if len(shapes) == 1:
        return math.prod(shapes[0]), 0
    axes = max(map(len, shapes), default=0)
    columns = zip(*[(1,) * (axes - len(s)) + s for s in shapes], strict=True)
    return math.prod(max(column) for column in columns), 0


@estimate("Concat", "Sum", "Max", "Min")
def concatenated(*inputs: Any, **_: Any) -> tuple[int, int]:
    return max(sum(map(size, inputs)), elementwise(*inputs)[0]), 0


@estimate("Expand")
def expand(x: Any, target: Any) -> tuple[int, int]:
    return math.prod(np.broadcast_shapes(shape(x), tuple(numbers(target)))), 0


@estimate("Tile")
def tile(x: Any, repeats: Any) -> tuple[int, int]:
    return size(x) * math.prod(max(n, 0) for n in numbers(repeats)), 0


@estimate("ConstantOfShape")
def constant_of_shape(target: Any, value: Any = None) -> tuple[int, int]:
    return math.prod(max(n, 0) for n in numbers(target)), 0


@estimate("Range")
def range_of(start: Any, limit: Any, delta: Any) -> tuple[int, int]:
    begin, end, step = (float(np.asarray(raw(v)).item()) for v in (start, limit, delta))
    return max(math.ceil((end - begin) / step), 0), 0


@estimate("Pad")
def pad(x: Any, pads: Any, value: Any = None, axes: Any = None, mode: str = "constant") -> tuple[int, int]:
    widths, sizes = numbers(pads), list(shape(x))
    padded_axes = list(range(len(sizes))) if axes is None else numbers(axes)
    for i, axis in enumerate(padded_axes):
        sizes[axis] += max(widths[i], 0) + max(widths[i + len(padded_axes)], 0)
    return math.prod(sizes), 0


@estimate("Gather")
def gather(x: Any, indices: Any, axis: int = 0) -> tuple[int, int]:
    return size(x) // max(shape(x)[axis], 1) * size(indices), 0


@estimate("ArrayFeatureExtractor")
def feature_of(x: Any, indices: Any) -> tuple[int, int]:
    return gather(x, indices, -1)


@estimate("GatherElements")
def gather_elements(x: Any, indices: Any, axis: int = 0) -> tuple[int, int]:
    return size(indices), 0


@estimate("MatMul")
def matmul(a: Any, b: Any) -> tuple[int, int]:
    a_shape, b_shape = shape(a), shape(b)
    batch = math.prod(np.broadcast_shapes(a_shape[:-2], b_shape[:-2]))
    rows, columns = math.prod(a_shape[-2:-1]), b_shape[-1] if len(b_shape) > 1 else 1
    return batch * rows * columns, batch * rows * columns * math.prod(a_shape[-1:])


@estimate("Gemm")
def gemm(a: Any, b: Any, c: Any = None, transA: int = 0, transB: int = 0, **_: Any) -> tuple[int, int]:
    rows, inner = shape(a)[::-1] if transA else shape(a)
    columns = shape(b)[0 if transB else 1]
    return rows * columns, rows * columns * inner


@estimate("Einsum")
def einsum(*xs: Any, equation: str) -> tuple[int, int]:
    left, _, right = equation.replace(" ", "").partition("->")
    sizes: dict[str, int] = {}
    for letters, x in zip(left.split(","), xs, strict=True):
        axes = shape(x)
        if "." in letters:  # axes without names: as if each array had separate ones
            sizes["."] = sizes.get(".", 1) * math.prod(axes)
        else:
            sizes |= {letter: max(n, sizes.get(letter, 1)) for letter, n in zip(letters, axes, strict=True)}
    total = math.prod(sizes.values())
    return math.prod(sizes.get(letter, 1) for letter in set(right)) if right and "." not in left else total, total


def padded_windows(attrs: dict[str, Any], sizes: Sequence[int], kernel: Sequence[int]) -> tuple[list[int], list[int]]:
    """The padded sizes of the image axes, and the number of windows along each."""
    pads = attrs.get("pads") or [0] * 2 * len(sizes)
    padded_sizes = [n + max(a, 0) + max(b, 0) for n, a, b in zip(sizes, pads, pads[len(sizes) :], strict=False)]
    if attrs.get("auto_pad", "NOTSET") in ("SAME_UPPER", "SAME_LOWER"):
        dilations = attrs.get("dilations") or [1] * len(sizes)
        padded_sizes = [n + d * k for n, k, d in zip(sizes, kernel, dilations, strict=True)]
    strides = attrs.get("strides") or [1] * len(sizes)
    return padded_sizes, [max(n - k, 0) // max(s, 1) + 2 for n, k, s in zip(padded_sizes, kernel, strides, strict=True)]


@estimate("Conv")
def conv(x: Any, weight: Any, bias: Any = None, **attrs: Any) -> tuple[int, int]:
    (n, channels, *sizes), (out, inner, *kernel) = shape(x), shape(weight)
    padded_sizes, windows = padded_windows(attrs, sizes, kernel)
    patches = n * channels * math.prod(kernel) * math.prod(windows)
    return n * channels * math.prod(padded_sizes) + patches, n * out * inner * math.prod(kernel) * math.prod(windows)


@estimate("ConvTranspose")
def conv_transpose(x: Any, weight: Any, bias: Any = None, **attrs: Any) -> tuple[int, int]:
    (n, channels, *sizes), (_, out, *kernel) = shape(x), shape(weight)
    strides, dilations = (attrs.get(key) or [1] * len(sizes) for key in ("strides", "dilations"))
    output_padding = attrs.get("output_padding") or [0] * len(sizes)
    steps = zip(sizes, kernel, strides, dilations, output_padding, strict=True)
    ends = [max(m * s + k * d + p, 0) for m, k, s, d, p in steps]
    patches = n * out * math.prod(kernel) * math.prod(sizes)
    return n * max(out, channels) * math.prod(ends) + patches, patches * channels


@estimate("MaxPool", "AveragePool")
def pool(x: Any, kernel_shape: Any, **attrs: Any) -> tuple[int, int]:
    n, channels, *sizes = shape(x)
    padded_sizes, windows = padded_windows(attrs, sizes, kernel_shape)
    return n * channels * (math.prod(padded_sizes) + math.prod(kernel_shape) * math.prod(windows)), 0


@estimate("LSTM", "GRU", "RNN")
def recurrent(x: Any, w: Any, r: Any, *_: Any, **attrs: Any) -> tuple[int, int]:
    (first, second, inputs), (directions, gate_size, h) = shape(x), shape(r)
    gate_elements = first * second * directions * gate_size
    return 4 * gate_elements, gate_elements * (inputs + h)

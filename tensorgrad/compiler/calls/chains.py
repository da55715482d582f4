"""Elementwise functions: a single one, or a chain with column sums of results."""

from __future__ import annotations

import copy
import functools
import importlib
import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from tensorgrad.compiler.calls.call import Call, Launch, Launcher, Rows, Writer
from tensorgrad.compiler.values import Value
from tensorgrad.core.backend import Array
from tensorgrad.core.node import Node
from tensorgrad.core.signature import Shape
from tensorgrad.kernels import build, forks, generate, reference, thresholds
from tensorgrad.kernels.chain import Chain, Operand, Ref, Step
from tensorgrad.kernels.cuda.launch import chain_kernel
from tensorgrad.kernels.llvm import SCALAR_OPS
from tensorgrad.ops.exponential import power

__all__ = ["ChainCall", "Elementwise"]


class Elementwise(Call):
    """One function of arrays and numbers, which gives the name. quiet: the kinds of floating-point errors to ignore."""

    def __init__(
        self, function: str, inputs: list[Any], outputs: list[Value], nodes: list[Node], flops: int, quiet: tuple[str, ...] = ()
    ) -> None:
        super().__init__(function, inputs, outputs, nodes, flops)
        self.quiet = quiet

    @property
    def middle_sum(self) -> tuple[Value, Value] | None:
        """The operands x (n,m,k), y (n,1,k) of a sum, such as that with the biases of an ensemble, for which NumPy would take
        many short steps."""
        (out,), values = self.outputs, [v for v in self.inputs if isinstance(v, Value)]
        if self.name != "add" or self.quiet or len(values) != 2 or len(out.shape) != 3 or out.dtype.char not in "fd":
            return None
        n, _, k = out.shape
        is_plain = all(v.dtype == out.dtype and v.contiguous for v in (*values, out))
        if not is_plain or not 1 < k <= thresholds.MIDDLE:
            return None
        for x, y in (values, reversed(values)):
            if x.shape == out.shape != y.shape == (n, 1, k) and n > 1:
                return x, y
        return None

    def compute(self, *inputs: Any) -> list[Array]:
        out = np.empty(self.outputs[0].shape, self.outputs[0].dtype)
        function = build.NAMESPACE[self.name]
        with quiet(self.quiet):
            function(*inputs, out=out)
        return [out]

    def sums(self, split: Rows) -> list[Value] | None:
        return sums_of(self, self.outputs[0].shape, split)

    def emit(self, writer: Writer) -> None:
        *inputs, out = [writer.name(v) if isinstance(v, Value) else writer.bind("c", v) for v in (*self.inputs, *self.outputs)]
        if (pair := self.middle_sum) and (kernel := build.add_middle_kernel(self.outputs[0].dtype)) is not None:
            writer.write(writer.bind("add_middle", kernel), [*(writer.name(v) for v in pair), out])
            return
        if self.name in SCALAR_OPS and not self.quiet:
            writer.write(self.name, [*inputs, out])
            return
        line = f"{self.name}({', '.join(inputs)}, out={out})"
        ignored = ", ".join(f"{kind}='ignore'" for kind in self.quiet)
        writer.lines.append(f"with errstate({ignored}): {line}" if ignored else line)

    def launch(self, launcher: Launcher) -> Launch:
        """One function of arrays that chains do not support: 0-d or not C-contiguous."""
        (out,) = self.outputs
        arrays = [launcher.array(v) for v in self.inputs]
        target = launcher.array(out)
        if all(a.shape == () for a in (*self.reads, out)):
            operands = [v for v in self.inputs if isinstance(v, Value)]
            order = iter(range(len(operands)))
            refs = tuple(Ref(next(order)) if isinstance(v, Value) else v for v in self.inputs)
            step = Step(self.name, refs, str(out.dtype), self.quiet)
            chain = Chain(tuple(Operand("full", str(v.dtype)) for v in operands), (step,), ((len(operands), "full"),))
            return launch_chain(launcher, chain, {}, (), [*(launcher.array(v) for v in operands), target])
        function = function_of(launcher.xp, self.name)

        def launch() -> None:
            target[...] = function(*arrays)

        return launch


class ChainCall(Call):
    """A chain: elementwise functions of one shape in one kernel, with column sums of some results."""

    def __init__(
        self, chain: Chain, shape: Shape, name: str, inputs: list[Any], outputs: list[Value], nodes: list[Node], flops: int
    ) -> None:
        super().__init__(name, inputs, outputs, nodes, flops)
        self.chain, self.shape = chain, shape

    def compute(self, *inputs: Any) -> list[Array]:
        registers: list[Any] = list(inputs)
        for step in self.chain.steps:
            operands = [registers[a.register] if isinstance(a, Ref) else a for a in step.inputs]
            out = np.empty(np.broadcast_shapes(*map(np.shape, operands)), step.dtype)
            with quiet(step.quiet):
                build.NAMESPACE[step.function](*operands, out=out)
            registers.append(out)
        results = []
        for (register, layout), result in zip(self.chain.results, self.outputs, strict=True):
            values = np.broadcast_to(registers[register], self.shape)
            results.append(reference.column_sum(values).reshape(result.shape) if layout == "sum" else np.array(values))
        return results

    def overlays(self, k: int) -> list[int]:
        if self.chain.results[k][1] != "full":  # a sum is written before all of its elements are read
            return []
        return [j for j, operand in enumerate(self.chain.operands) if operand.layout == "full"]

    def sums(self, split: Rows) -> list[Value] | None:
        return sums_of(self, self.shape, split)

    def narrowed(self, inputs: list[Any], outputs: list[Value], rows: int) -> ChainCall:
        call = copy.copy(self)
        call.inputs, call.outputs, call.shape = inputs, outputs, (rows, *self.shape[1:])
        return call

    def emit(self, writer: Writer) -> None:
        chain, shape, shared = self.chain, self.shape, writer.shared(self)
        values = [*self.inputs, *self.outputs]
        layouts = generate.layouts_of(chain)
        flat = all(x in ("full", "number") for x in layouts)
        size = math.prod(shape)
        kernel = build.numba_kernel(chain, tuple(sorted(shared.items())), flat)
        matrix_shape = (math.prod(shape[:-1]), shape[-1])
        kernel_shapes: dict[str, Shape] = {
            "full": (size,) if flat else matrix_shape,
            "column": (matrix_shape[0], 1),
            "number": (),
        }
        large = size > 2 * thresholds.SLICE if kernel is None else math.prod(shape[:-1]) > thresholds.COLUMN
        is_shared = size >= thresholds.CHAIN_THREADS
        if writer.threads > 1 and kernel is not None:
            is_shared = forks.is_worth_sharing(chain, size)
        if (is_shared and "sum" not in layouts) or (large and (kernel is None or "sum" in layouts)):
            chain_call = build.ChainKernel(chain, shared)
            names = [writer.shaped(v, kernel_shapes.get(x, v.shape)) for v, x in zip(values, layouts, strict=True)]
            writer.write(writer.bind("chain", chain_call), names)
            return
        if kernel is None:
            names, n = [writer.name(v) for v in values], len(self.inputs)
            writer.lines += generate.numpy_lines(
                chain,
                names[:n],
                names[n:],
                shared,
                lambda i, dtype: writer.scratch(i, dtype, shape),
                lambda _, c: writer.bind("c", c),
            )
            return
        dummies, names = [], []
        for v, x in zip(values, layouts, strict=True):
            kernel_shape, array = kernel_shapes.get(x, v.shape), writer.array(v)
            names.append(writer.shaped(v, kernel_shape))
            array = np.empty(kernel_shape, v.dtype) if array is None else array.reshape(kernel_shape)
            dummies.append(array[:0] if x in generate.SLICED else np.empty_like(array))
        kernel(*dummies)  # compiles it, or reads it from the cache
        writer.write(writer.bind("chain", kernel), names)

    def launch(self, launcher: Launcher) -> Launch:
        arrays = [launcher.array(v) for v in (*self.inputs, *self.outputs)]
        return launch_chain(launcher, self.chain, launcher.shared(self), self.shape, arrays)


def quiet(kinds: tuple[str, ...]) -> AbstractContextManager[Any]:
    """Inside the block NumPy ignores these kinds of floating-point errors."""
    ignored: dict[str, Any] = dict.fromkeys(kinds, "ignore")
    return np.errstate(**ignored)


def sums_of(call: Call, shape: Shape, split: Rows) -> list[Value] | None:
    """Like Call.sums, for functions of all elements of a shape."""
    rows = [v for v in call.reads if split.rows(v)]
    if not rows or any(split.columns(v) for v in call.reads):
        return None
    # an array as long as the samples, but unrelated to them, cannot be split
    foreign = [v for v in call.reads if v not in rows and len(v.shape) == len(shape) and v.shape[0] == shape[0] != 1]
    if shape[0] != split.samples or any(len(v.shape) != len(shape) for v in rows) or foreign:
        return None
    return [v for v in call.outputs if v.shape != shape]


def launch_chain(launcher: Launcher, chain: Chain, shared: Mapping[int, int], shape: Shape, arrays: list[Array]) -> Launch:
    """The launch of a chain over arrays of this shape."""
    matrix_shape = (math.prod(shape[:-1]), shape[-1]) if shape else (1, 1)
    kernel_shapes = {"full": matrix_shape, "column": (matrix_shape[0], 1)}
    arrays = [a.reshape(kernel_shapes.get(x, a.shape)) for a, x in zip(arrays, generate.layouts_of(chain), strict=True)]
    kernel = chain_kernel(chain, tuple(sorted(shared.items())))
    return kernel.bind(*arrays) if kernel is not None else functools.partial(by_cupy, launcher.xp, chain, arrays)


def by_cupy(xp: Any, chain: Chain, arrays: list[Array]) -> None:
    """A chain without CUDA C code, function by function."""
    registers: list[Any] = list(arrays[: len(chain.operands)])
    for step in chain.steps:
        operands = [registers[a.register] if isinstance(a, Ref) else a for a in step.inputs]
        registers.append(function_of(xp, step.function)(*operands))
    for (register, layout), out in zip(chain.results, arrays[len(chain.operands) :], strict=True):
        value = registers[register]
        out[...] = value.sum(axis=0) if layout == "sum" else value


def function_of(xp: Any, name: str) -> Callable[..., Array]:
    """CuPy's function for a step of a chain."""
    if name == "relu_grad":
        return lambda g, unit: xp.where(unit > 0, g, 0)
    if name in ("mul_grad", "div_grad"):
        plain = xp.multiply if name == "mul_grad" else xp.divide
        return lambda g, d: xp.where(g == 0, g, plain(g, d))
    if name == "power":
        return functools.partial(power.forward, xp)
    if name == "erf":
        return importlib.import_module("cupyx.scipy.special").erf  # type: ignore[no-any-return]
    return getattr(xp, name)  # type: ignore[no-any-return]

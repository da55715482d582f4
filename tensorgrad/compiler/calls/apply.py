"""An operation run by its own `forward`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tensorgrad.autograd.checkpointing import Checkpoint
from tensorgrad.compiler.calls.call import Call, Launch, Launcher, Rows, Writer
from tensorgrad.compiler.values import Value
from tensorgrad.core.arithmetic import evaluate, needs_conversion
from tensorgrad.core.backend import Array
from tensorgrad.core.location import is_own
from tensorgrad.core.node import Node
from tensorgrad.core.op import Op
from tensorgrad.core.signature import Shape
from tensorgrad.errors import CompileError
from tensorgrad.ops.random import Draw

__all__ = ["Apply"]


class Apply(Call):
    """y = op.forward(...), an array that the operation allocates. errors: NumPy's settings for floating-point errors."""

    def __init__(
        self,
        op: Op,
        attrs: Mapping[str, Any],
        inputs: list[Any],
        outputs: list[Value],
        nodes: list[Node],
        flops: int,
        errors: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(op.name, inputs, outputs, nodes, flops)
        self.op, self.attrs, self.errors = op, dict(attrs), dict(errors or {})

    @property
    def draws(self) -> bool:  # type: ignore[override]
        return self.op.draws

    def compute(self, *inputs: Any) -> list[Array]:
        return [np.array(evaluate(self.op, np, inputs, self.attrs))]

    def sums(self, split: Rows) -> list[Value] | None:
        is_inseparable = not self.reads or len(self.reads) != len(self.inputs) or not all(split.rows(v) for v in self.reads)
        if not self.op.rowwise or is_inseparable or self.attrs.get("axis") in (0, -len(self.reads[0].shape)):
            return None
        return []

    def emit(self, writer: Writer) -> None:
        (out,) = self.outputs
        forward = writer.bind("forward", self.forward())
        inputs = ", ".join(writer.name(v) for v in self.inputs)
        settings = ", ".join(f"{kind}={action!r}" for kind, action in self.errors.items())
        prefix = f"with errstate({settings}): " if settings else ""
        result = f"{forward}({inputs})"
        if isinstance(self.op, Checkpoint) or not is_own(type(self.op).__module__):  # user code
            planned = writer.bind("planned", functools.partial(as_planned, self.op.name, out.shape, out.dtype))
            result = f"{planned}({result})"
        if writer.has_memory(out):
            writer.lines.append(f"{prefix}copyto({writer.name(out)}, {result})")
        else:
            copy = writer.bind("own", contiguous_copy)
            writer.lines.append(f"{prefix}{writer.define(out)} = {copy}({result}, {inputs})")

    def forward(self) -> Callable[..., Array]:
        """The operation as a function of NumPy arrays."""
        op, attrs = self.op, self.attrs
        if needs_conversion(op, [v.dtype for v in self.inputs if hasattr(v, "dtype")]):
            return lambda *inputs: evaluate(op, np, inputs, attrs)
        return functools.partial(op.forward, np, **attrs)

    def launch(self, launcher: Launcher) -> Launch:
        """Copy its result to its place."""
        inputs, out = [launcher.array(v) for v in self.inputs], launcher.array(self.outputs[0])
        op, attrs, xp = self.op, self.attrs, launcher.xp
        if isinstance(op, Draw):
            return op.bound(out, **attrs)

        def launch() -> None:
            out[...] = evaluate(op, xp, inputs, attrs)

        return launch


def as_planned(name: str, shape: Shape, dtype: Any, result: Any) -> Any:
    """The result of an operation. Raises CompileError if its shape or dtype differs from when the plan was made: kernels
    only see its memory."""
    result = result if isinstance(result, (np.ndarray, np.generic)) else np.asarray(result)
    if result.shape != shape or result.dtype != dtype:
        raise CompileError(
            f"compile: {name} has made an array {result.shape} of {result.dtype}, and one {shape} of {dtype} when the step was "
            f"compiled; in a replay both have to stay the same. Do what depends on values outside of the step"
        )
    return result


def contiguous_copy(result: Any, *inputs: Any) -> Array:
    """The result of an operation, C-contiguous, in memory that belongs to no operand."""
    array = np.ascontiguousarray(result) if np.ndim(result) else np.asarray(result)
    if array.base is None and not any(array is x for x in inputs):
        return array
    return array.copy() if any(isinstance(x, np.ndarray) and np.may_share_memory(array, x) for x in inputs) else array

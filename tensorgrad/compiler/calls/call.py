"""Call: one kernel of a plan. What a kind of kernel is stands in one class."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, ClassVar, Protocol, TypeAlias

from tensorgrad.compiler.values import Value
from tensorgrad.core.backend import Array
from tensorgrad.core.node import Node
from tensorgrad.core.signature import Shape

__all__ = ["Call"]

Launch: TypeAlias = Callable[[], None]


class Writer(Protocol):
    """What a call is written to: a Python function in the making (emit.Emitter). threads: how many share products and loops, in
    machine code."""

    lines: list[str]
    threads: int

    def write(self, function: str, arguments: list[str]) -> None:
        """Append a line that calls a function with arrays and integers, all by what they are called in the function."""

    def name(self, value: Any) -> str:
        """What a value, or a number, is called in the function."""

    def shaped(self, value: Value, shape: Shape) -> str:
        """What a value is called, seen in another shape."""

    def bind(self, prefix: str, thing: Any) -> str:
        """A name for an array, a kernel, a function."""

    def array(self, value: Value) -> Array | None:
        """The array of a value, if it is known before a run."""

    def holds(self, value: Value) -> bool:
        """Whether a value has a place already, which its maker is to write to."""

    def define(self, value: Value) -> str:
        """A name for a value that is made only now."""

    def shared(self, call: Call) -> dict[int, int]:
        """Result to operand of a call that lie in the same memory."""

    def scratch(self, i: int, dtype: str, shape: Shape) -> str:
        """A name for memory number i of this dtype and shape, for what a call makes on the way."""


class Launcher(Protocol):
    """What a call is launched on: a GPU, with all arrays known (launches.Launches)."""

    xp: Any

    def array(self, value: Any) -> Any:
        """The array of a value; a number as it is."""

    def shared(self, call: Call) -> dict[int, int]:
        """Result to operand of a call that lie in the same memory."""


class Rows(Protocol):
    """What a call is told of values whose first axis is the samples (rows.Split)."""

    samples: int

    def rows(self, v: Value) -> bool:
        """Whether the first axis of a value is the samples."""

    def columns(self, v: Value) -> bool:
        """Whether a value is the transpose of one with rows."""


class Call:
    """One kernel: what it is called in tables, values and numbers that it reads, values that it writes.

    A subclass says what it computes (`compute`), how it is cut into parts (`sums`), how it is written as Python (`emit`) and
    how it is launched on a GPU (`launch`).

    nodes   what it computes, for names
    flops   floating-point operations
    """

    draws: ClassVar[bool] = False  # whether each run draws random numbers
    meets: ClassVar[bool] = False  # whether all ranks have to come to each run, in the order of the program
    assigns: ClassVar[bool] = False  # whether its result is memory outside of the plan by what the program says

    def __init__(self, name: str, inputs: list[Any], outputs: list[Value], nodes: list[Node], flops: int = 0) -> None:
        self.name, self.inputs, self.outputs, self.nodes, self.flops = name, inputs, outputs, nodes, flops

    @property
    def reads(self) -> list[Value]:
        return [v for v in self.inputs if isinstance(v, Value)]

    @property
    def parts(self) -> list[Call]:
        """The kernels that it consists of: itself, but for a loop."""
        return [self]

    def compute(self, *inputs: Any) -> list[Array]:
        """The results by NumPy alone, in arrays of their own: what every other way is compared with."""
        raise NotImplementedError

    def overlays(self, k: int) -> list[int]:
        """The operands over which result k may be written: element by element, it depends on no other element of them."""
        return []

    def sums(self, split: Rows) -> list[Value] | None:
        """The results that are added up over the samples, if it can be done for some of the samples at a time, all others being
        rows of such a result; None if it cannot."""
        return None

    def narrowed(self, inputs: list[Any], outputs: list[Value], rows: int) -> Call:
        """The same for so many samples, of values that are as narrow."""
        call = copy.copy(self)
        call.inputs, call.outputs = inputs, outputs
        return call

    def emit(self, writer: Writer) -> None:
        """Append the lines that do it."""
        raise NotImplementedError

    def launch(self, launcher: Launcher) -> Launch:
        """What does it on a GPU."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} {[v.shape for v in self.outputs]}>"

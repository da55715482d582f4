"""Call: one kernel of a plan. Everything about a kind of kernel is in one class."""

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
    """A Python function under construction (emit.Emitter). threads: how many share products and loops, in machine code."""

    lines: list[str]
    threads: int

    def write(self, function: str, arguments: list[str]) -> None:
        """Append a line that calls a function with arrays and integers, given by their names."""

    def name(self, value: Any) -> str:
        """The name of a value or number in the function."""

    def shaped(self, value: Value, shape: Shape) -> str:
        """The name of a value, reshaped."""

    def bind(self, prefix: str, obj: Any) -> str:
        """A name bound to an array, a kernel or a function."""

    def array(self, value: Value) -> Array | None:
        """The array of a value, if known before a run."""

    def has_memory(self, value: Value) -> bool:
        """Whether a value already has memory, which its call writes to."""

    def define(self, value: Value) -> str:
        """A name for a new value."""

    def shared(self, call: Call) -> dict[int, int]:
        """Result to operand of a call that are in the same memory."""

    def scratch(self, i: int, dtype: str, shape: Shape) -> str:
        """A name for scratch memory number i of a call, with this dtype and shape."""


class Launcher(Protocol):
    """A GPU, with all arrays known (launches.Launches)."""

    xp: Any

    def array(self, value: Any) -> Any:
        """The array of a value; numbers are returned unchanged."""

    def shared(self, call: Call) -> dict[int, int]:
        """Result to operand of a call that are in the same memory."""


class Rows(Protocol):
    """Which values have the samples as first axis (rows.Split)."""

    samples: int

    def rows(self, v: Value) -> bool:
        """Whether the first axis of a value is the samples."""

    def columns(self, v: Value) -> bool:
        """Whether a value is the transpose of one with rows."""


class Call:
    """One kernel: its name in tables, the values and numbers that it reads, the values that it writes.

    A subclass defines its computation (`compute`), how it is split into parts (`sums`), its Python code (`emit`) and its
    launch on a GPU (`launch`).

    nodes   the nodes that it computes, for names
    flops   floating-point operations
    """

    draws: ClassVar[bool] = False  # whether each run draws random numbers
    meets: ClassVar[bool] = False  # whether all ranks must take part in each run, in program order
    assigns: ClassVar[bool] = False  # whether its result is memory outside the plan, assigned by the program

    def __init__(self, name: str, inputs: list[Any], outputs: list[Value], nodes: list[Node], flops: int = 0) -> None:
        self.name, self.inputs, self.outputs, self.nodes, self.flops = name, inputs, outputs, nodes, flops

    @property
    def reads(self) -> list[Value]:
        return [v for v in self.inputs if isinstance(v, Value)]

    @property
    def parts(self) -> list[Call]:
        """The kernels that it consists of: itself, except for a loop."""
        return [self]

    def compute(self, *inputs: Any) -> list[Array]:
        """The results in NumPy, in new arrays: the reference for all other implementations."""
        raise NotImplementedError

    def overlays(self, k: int) -> list[int]:
        """The operands whose memory result k may overwrite: each element depends only on the same element of them."""
        return []

    def sums(self, split: Rows) -> list[Value] | None:
        """The results that are sums over samples, if the call can be split by samples; the other results then consist of rows.
        None if it cannot be split."""
        return None

    def narrowed(self, inputs: list[Any], outputs: list[Value], rows: int) -> Call:
        """The same call for fewer samples, on correspondingly smaller values."""
        call = copy.copy(self)
        call.inputs, call.outputs = inputs, outputs
        return call

    def emit(self, writer: Writer) -> None:
        """Append its lines of code."""
        raise NotImplementedError

    def launch(self, launcher: Launcher) -> Launch:
        """Its launch on a GPU."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} {[v.shape for v in self.outputs]}>"

"""Chains: elementwise formulas that run as one kernel.

A chain is traced by calling a formula with symbols instead of arrays, which record NumPy functions and Python operators. So a
single definition of a rule, an activation or an optimiser computes with arrays, is recorded with Tensors, and becomes a kernel
here::

    full, number = Operand("full", "float32"), Operand("number", "float32")
    descent = Chain.of(lambda p, g, lr: (p - lr * g,), [full, full, number])

The layout of an operand is "full" (one value per element), "row" (one value per column, repeated over rows), "column" (one
value per row) or "number".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from tensorgrad.core.backend import Array, Placeholder, dtype_name
from tensorgrad.core.lazy import cached_property

Register = int  # numbered: first the operands, then the results of the steps


class Operand(NamedTuple):
    """An operand or result. layout: "full", "row", "column" or "number"; for results also "sum", over rows."""

    layout: str
    dtype: str


class Step(NamedTuple):
    """A function of one to three registers or numbers. quiet: the kinds of floating-point errors to ignore."""

    function: str
    inputs: tuple[Any, ...]  # Ref or a number
    dtype: str
    quiet: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ref:
    """The value in a register."""

    register: Register


@dataclass(frozen=True, eq=False)
class Chain:
    """Operands, steps in order, and the registers of the results, each with its layout. Compared by value."""

    operands: tuple[Operand, ...]
    steps: tuple[Step, ...]
    results: tuple[tuple[Register, str], ...]

    @cached_property
    def text(self) -> str:
        """A unique text; numbers that are equal but not identical (0.0 and -0.0, 1 and True) differ in it."""
        return repr((self.operands, self.steps, self.results))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Chain) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def constants(self) -> dict[str, Any]:
        """The constants of the steps, by their names in generated code."""
        return {
            constant_name(i, k): a
            for i, step in enumerate(self.steps)
            for k, a in enumerate(step.inputs)
            if not isinstance(a, Ref)
        }

    @classmethod
    def of(cls, formula: Callable[..., Sequence[Any]], operands: Sequence[Operand]) -> Chain:
        """The chain of a formula, which takes the operands as arguments and returns a sequence of results."""
        sketch = Sketch()
        symbols = [Symbol(sketch, i, np.ones(1, o.dtype)) for i, o in enumerate(operands)]
        sketch.count = len(operands)
        outs = formula(*symbols)
        return cls(tuple(operands), tuple(sketch.steps), tuple((out.register, "full") for out in outs))

    def dtype(self, register: Register) -> str:
        n = len(self.operands)
        return self.operands[register].dtype if register < n else self.steps[register - n].dtype

    def last_use(self) -> dict[Register, int]:
        """The last step that reads each register."""
        return {ref.register: i for i, step in enumerate(self.steps) for ref in step.inputs if isinstance(ref, Ref)}


def constant_name(step: int, place: int) -> str:
    """The name in generated code of the constant at this position of a step."""
    return f"c{step}_{place}"


@dataclass
class Sketch:
    """The steps recorded so far."""

    count: int = 0
    steps: list[Step] = field(default_factory=list)

    def add(self, function: str, inputs: Sequence[Any], sample: Array) -> Symbol:
        errors = np.geterr()
        quiet = tuple(kind for kind in ("over", "divide", "invalid") if errors[kind] == "ignore")  # "under" is by default
        refs = tuple(Ref(i.register) if isinstance(i, Symbol) else i for i in inputs)
        self.steps.append(Step(function, refs, dtype_name(sample.dtype), quiet))
        self.count += 1
        return Symbol(self, self.count - 1, sample)


class NotElementwise(TypeError):
    """A formula applies an operation that is not elementwise."""


class Symbol(Placeholder, np.lib.mixins.NDArrayOperatorsMixin):
    """A placeholder for an array in a formula; `sample`, an array with one element, gives dtypes."""

    def __init__(self, sketch: Sketch, register: Register, sample: Array) -> None:
        self.sketch, self.register, self.sample = sketch, register, sample

    @property
    def dtype(self) -> Any:
        return self.sample.dtype

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **options: Any) -> Symbol:
        name: str = ufunc.__name__
        count: int = ufunc.nout
        if method != "__call__" or options or getattr(np, name, None) is not ufunc or count != 1:
            raise NotElementwise(f"{name}.{method}")
        return self.record(name, ufunc, inputs)

    def __array_function__(self, function: Any, types: Any, inputs: Any, options: Any) -> Any:
        if function is np.where and len(inputs) == 3 and not options:
            return self.record("where", np.where, inputs)
        if function is np.clip and len(inputs) == 3 and not options:
            x, low, high = inputs
            x = x if low is None else np.maximum(x, low)
            return x if high is None else np.minimum(x, high)
        raise NotElementwise(function.__name__)

    def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
        raise NotElementwise("asarray")

    def record(self, name: str, function: Any, inputs: Sequence[Any]) -> Symbol:
        for i in inputs:
            if not isinstance(i, (Symbol, int, float, bool, np.bool_)):
                raise NotElementwise(f"{name} of {type(i).__name__}")
        with np.errstate(all="ignore"):
            sample = function(*[i.sample if isinstance(i, Symbol) else i for i in inputs])
        return self.sketch.add(name, inputs, np.asarray(sample))

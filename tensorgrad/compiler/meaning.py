"""Meaning: comparison of what the kernels of a plan compute with the program."""

from __future__ import annotations

import functools
from typing import Any

from tensorgrad.compiler.calls import Call, ChainCall, Elementwise, Reduction
from tensorgrad.compiler.values import Value
from tensorgrad.core.signature import Shape
from tensorgrad.kernels.chain import Ref


class Meaning:
    """Value numbering: two values have the same number if they are the same function of the same values.

    program   the calls from lowering the nodes; each value is computed by one of them
    """

    def __init__(self, program: list[Call]) -> None:
        self.numbers: dict[Any, int] = {}
        self.of_value: dict[Value, int] = {}
        self.program = set(program)
        for call in program:
            if isinstance(call, Elementwise):
                (out,) = call.outputs
                self.of_value[out] = self.function(call.name, call.inputs, name_of(out.dtype), call.quiet)
            elif isinstance(call, Reduction) and call.is_column_sum:
                self.of_value[call.outputs[0]] = self.column_sum(self.value(call.inputs[0]))

    def number(self, formula: Any) -> int:
        return self.numbers.setdefault(formula, len(self.numbers))

    def value(self, v: Any) -> Any:
        """The number of a value, or of a constant; 0.0 and -0.0, 1 and True differ."""
        if not isinstance(v, Value):
            return type(v), repr(v)
        if v not in self.of_value:
            self.of_value[v] = self.number(v)
        return self.of_value[v]

    def function(self, name: str, inputs: list[Any], dtype: str, quiet: tuple[str, ...]) -> int:
        return self.number((name, tuple([self.value(v) for v in inputs]), dtype, quiet))

    def column_sum(self, number: int) -> int:
        return self.number(("column sum", number))

    def wrong(self, call: Call) -> str:
        """The error in what a call computes, in words; "" if it is a call of the program, or a chain that computes some of
        them.
        """
        if not isinstance(call, ChainCall):
            return "" if call in self.program else f"{call.name} is not what the program says"
        chain = call.chain
        registers = [self.value(v) for v in call.inputs]
        for v, operand in zip(call.inputs, chain.operands, strict=True):
            if not lies(v.shape, operand.layout, call.shape) or operand.dtype != name_of(v.dtype):
                return f"{call.name} takes {v.shape} {v.dtype} for {operand}"
        for step in chain.steps:
            inputs = tuple([registers[a.register] if isinstance(a, Ref) else self.value(a) for a in step.inputs])
            registers.append(self.number((step.function, inputs, step.dtype, step.quiet)))
        for out, (register, layout) in zip(call.outputs, chain.results, strict=True):
            found = self.column_sum(registers[register]) if layout == "sum" else registers[register]
            if found != self.value(out):
                return f"{call.name} does not compute {out.shape} {out.dtype} as the program says"
        return ""


@functools.cache
def name_of(dtype: Any) -> str:
    """Cached, because NumPy is slow here."""
    return str(dtype)


def lies(shape: Shape, layout: str, whole: Shape) -> bool:
    """Whether an operand of this shape has this layout relative to a chain's shape."""
    if layout == "number":
        return all(n == 1 for n in shape) and len(shape) <= len(whole)
    return shape == {"full": whole, "row": whole[-1:], "column": (*whole[:-1], 1)}[layout]

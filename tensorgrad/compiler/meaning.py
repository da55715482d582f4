"""Meaning: comparison of what the kernels of a plan compute with the program."""

from __future__ import annotations

import functools
from typing import Any

from tensorgrad.compiler.calls import Call, ChainCall, CrossEntropy, Elementwise, Matmul, Network, Reduction
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
            elif isinstance(call, Matmul):
                self.of_value[call.outputs[0]] = self.product(*map(self.value, call.inputs))
            elif isinstance(call, CrossEntropy):
                self.of_value |= dict(zip(call.outputs, self.losses(call.samples, *map(self.value, call.inputs)), strict=False))
            elif isinstance(call, Reduction) and call.is_column_sum:
                self.of_value[call.outputs[0]] = self.column_sum(self.value(call.inputs[0]))

    def number(self, formula: Any) -> int:
        return self.numbers.setdefault(formula, len(self.numbers))

    def value(self, v: Any) -> Any:
        """The number of a value, or of a constant; 0.0 and -0.0, 1 and True differ."""
        if not isinstance(v, Value):
            return type(v), repr(v)
        if v not in self.of_value:
            self.of_value[v] = self.transposed(self.value(v.base)) if v.view_kind == "transpose" else self.number(v)
        return self.of_value[v]

    def function(self, name: str, inputs: list[Any], dtype: str, quiet: tuple[str, ...]) -> int:
        return self.number((name, tuple([self.value(v) for v in inputs]), dtype, quiet))

    def product(self, a: int, b: int) -> int:
        return self.number(("product", a, b))

    def transposed(self, number: int) -> int:
        return self.number(("transposed", number))

    def losses(self, samples: int, *inputs: int) -> list[int]:
        """A cross-entropy and its gradient."""
        return [self.number((name, samples, *inputs)) for name in ("loss", "its gradient")]

    def column_sum(self, number: int) -> int:
        return self.number(("column sum", number))

    def error_in(self, call: Call) -> str:
        """The error in what a call computes, in words; "" if it is a call of the program, or a chain that computes some of
        them.
        """
        if isinstance(call, Network):
            return self.error_in_network(call)
        if not isinstance(call, ChainCall):
            return "" if call in self.program else f"{call.name} is not what the program says"
        chain = call.chain
        registers = [self.value(v) for v in call.inputs]
        for v, operand in zip(call.inputs, chain.operands, strict=True):
            if not has_layout(v.shape, operand.layout, call.shape) or operand.dtype != name_of(v.dtype):
                return f"{call.name} takes {v.shape} {v.dtype} for {operand}"
        for step in chain.steps:
            inputs = tuple([registers[a.register] if isinstance(a, Ref) else self.value(a) for a in step.inputs])
            registers.append(self.number((step.function, inputs, step.dtype, step.quiet)))
        for out, (register, layout) in zip(call.outputs, chain.results, strict=True):
            number = self.column_sum(registers[register]) if layout == "sum" else registers[register]
            if number != self.value(out):
                return f"{call.name} does not compute {out.shape} {out.dtype} as the program says"
        return ""

    def error_in_network(self, call: Network) -> str:
        """The same for a perceptron, by its formulas."""
        x, t, g, *parameters = map(self.value, call.inputs)
        weights, biases, zero = parameters[::2], parameters[1::2], self.value(0)
        activations = [x]
        for w, b in zip(weights, biases, strict=True):
            z = self.elementwise("add", self.product(activations[-1], w), b)
            activations.append(self.elementwise("maximum", z, zero))
        loss, d = self.losses(call.inputs[0].shape[0], z, t, g)
        expected = [loss]
        for a, w in zip(activations[-2::-1], weights[::-1], strict=True):
            expected[1:1] = [self.product(self.transposed(a), d), self.column_sum(d)]
            d = self.elementwise("relu_grad", self.product(d, self.transposed(w)), a)
        not_float32 = [v for v in (*call.inputs[:1], *call.inputs[2:], *call.outputs) if name_of(v.dtype) != "float32"]
        if not_float32 or expected != [self.value(v) for v in call.outputs]:
            return f"{call.name} does not compute what the program says"
        return ""

    def elementwise(self, name: str, *inputs: Any) -> int:
        return self.number((name, inputs, "float32", ()))


@functools.cache
def name_of(dtype: Any) -> str:
    """Cached, because NumPy is slow here."""
    return str(dtype)


def has_layout(shape: Shape, layout: str, chain_shape: Shape) -> bool:
    """Whether an operand of this shape has this layout relative to a chain's shape."""
    if layout == "number":
        return all(n == 1 for n in shape) and len(shape) <= len(chain_shape)
    return shape == {"full": chain_shape, "row": chain_shape[-1:], "column": (*chain_shape[:-1], 1)}[layout]

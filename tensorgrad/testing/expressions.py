"""Random expression graphs of registered ops, printed as short programs."""

from __future__ import annotations

import ast
import string
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tensorgrad.core.backend import Array, is_floating
from tensorgrad.core.graph import literal
from tensorgrad.core.op import REGISTRY, Op
from tensorgrad.errors import DataError, MissingDependencyError

try:
    from hypothesis import assume
    from hypothesis import strategies as st
except ModuleNotFoundError as error:
    if error.name != "hypothesis":
        raise
    raise MissingDependencyError(
        "tensorgrad.testing.expressions: needs hypothesis, which is not installed; pip install hypothesis"
    ) from None

from tensorgrad.testing import strategies
from tensorgrad.testing.strategies import Draws, arrays

LARGEST = 1e3  # larger results are not used further
WELL_CONDITIONED = 1e3  # gradients of nearly singular matrices cannot be confirmed numerically
TRIES = 3  # samples of an op to try for one with the shape of an earlier result


@dataclass(frozen=True)
class Step:
    """result = op(*sources, **attrs); a source is the name of a value, a number, or a data array."""

    result: str
    op: Op
    sources: tuple[Any, ...]
    attrs: dict[str, Any]

    def __str__(self) -> str:
        inputs = [s if isinstance(s, str) else literal(s) for s in self.sources]
        attrs = [f"{key}={literal(value)}" for key, value in self.attrs.items()]
        return f"{self.result} = ops[{self.op.name!r}]({', '.join(inputs + attrs)})"


@dataclass
class Expression:
    """A function of its leaves, which are float64 arrays. Called with Tensors or arrays it computes the last step.

    leaves  name to array
    steps   in the order of execution

    It prints as a program, in a line that recreates it.
    """

    leaves: dict[str, Array] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)

    @classmethod
    def of(cls, program: str) -> Expression:
        """Parse a printed program: "a = np.array([1.0, 2.0]); y0 = ops['sin'](a); y1 = ops['mul'](y0, a)"."""
        expression = cls()
        for line in ast.parse(program).body:
            match line:
                case ast.Assign([ast.Name(name)], ast.Call(ast.Subscript(ast.Name("ops"), ast.Constant(str(op))), args, attrs)):
                    sources = tuple(a.id if isinstance(a, ast.Name) else evaluated(a) for a in args)
                    expression.steps.append(Step(name, REGISTRY[op], sources, {str(k.arg): evaluated(k.value) for k in attrs}))
                case ast.Assign([ast.Name(name)], value):
                    expression.leaves[name] = evaluated(value)
                case _:
                    raise DataError(
                        f'Expression.of: expected lines such as "a = np.array([1.0])" and "y0 = ops[\'sin\'](a)", got '
                        f"{ast.unparse(line)!r}"
                    )
        return expression

    @property
    def inputs(self) -> tuple[Array, ...]:
        """The arrays of the leaves, to call it with."""
        return tuple(self.leaves.values())

    def __call__(self, *inputs: Any) -> Any:
        values = dict(zip(self.leaves, inputs, strict=True))
        for step in self.steps:
            sources = [values[s] if isinstance(s, str) else s for s in step.sources]
            values[step.result] = step.op(*sources, **step.attrs)
        return values[self.steps[-1].result]

    def pruned(self) -> Expression:
        """Without the steps that the last one does not depend on."""
        needed = {self.steps[-1].result}
        steps_needed: list[Step] = []
        for step in reversed(self.steps):
            if step.result in needed:
                steps_needed.append(step)
                needed.update(s for s in step.sources if isinstance(s, str))
        names = {step.result: f"y{i}" for i, step in enumerate(reversed(steps_needed))}
        steps = [
            Step(names[s.result], s.op, tuple(names.get(x, x) if isinstance(x, str) else x for x in s.sources), s.attrs)
            for s in reversed(steps_needed)
        ]
        return Expression({name: a for name, a in self.leaves.items() if name in needed}, steps)

    def script(self) -> str:
        """Python code that checks its gradients."""
        names = ", ".join(self.leaves)
        return "\n".join(
            [
                "import numpy as np",
                "from tensorgrad.op import REGISTRY as ops",
                "from tensorgrad.testing import gradcheck",
                "",
                f"def fn({names}):",
                *[f"    {step}" for step in self.steps],
                f"    return {self.steps[-1].result}",
                "",
                *[f"{name} = {literal(a)}" for name, a in self.leaves.items()],
                f"gradcheck(fn, {names if len(self.leaves) == 1 else f'({names})'})",
            ]
        )

    def __repr__(self) -> str:
        leaves = [f"{name} = {literal(a)}" for name, a in self.leaves.items()]
        return f"Expression.of({'; '.join([*leaves, *map(str, self.steps)])!r})"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """For Hypothesis, which would print the fields of a dataclass."""
        printer.text(repr(self))


def evaluated(code: ast.expr) -> Any:
    return eval(compile(ast.Expression(code), "an expression", "eval"), {"np": np})


@st.composite
def expressions(
    draw: st.DrawFn, names: Sequence[str] | None = None, max_ops: int = 5, sizes: Sequence[int] = (1, 2, 3)
) -> Expression:
    """Random expressions of registered ops (or the given ones), with values inside their domains and away from kinks.

    The arguments of an op are earlier results of the right shape whose values, possibly after a tanh, are in the op's domain;
    otherwise new leaves. Shrinks towards a single op on small round numbers. It prints as a program; `.script()` returns code
    that checks it.
    """
    return Builder(draw, names, sizes).build(max_ops)


class Builder:
    """Draws one expression."""

    def __init__(self, draw: st.DrawFn, names: Sequence[str] | None, sizes: Sequence[int]) -> None:
        self.draw = draw
        self.rng: Any = Draws(draw)  # for Op.sample
        self.ops = strategies.ops(names)
        self.sizes = [draw(st.sampled_from(list(sizes)))]  # a single size, so that shapes match often
        self.expression = Expression()
        self.values: dict[str, Array] = {}

    def build(self, max_ops: int) -> Expression:
        for i in range(max_ops):
            if i and not self.draw(st.integers(0, 15)):  # drawn each time, so that shrinking can remove any step
                break
            op = self.draw(self.ops)
            elementwise = type(op).sample is Op.sample and not any(op.parsed.inputs)
            for _ in range(TRIES):
                args, attrs = op.sample(self.rng, self.sizes)
                if not self.values or elementwise or any(self.fitting(a.shape) for a in args):
                    break
            shape = None  # that of the sample
            if elementwise and self.values:
                shape = self.draw(st.sampled_from([a.shape for a in reversed(self.values.values())]))
            sources: list[Any] = []
            for i, a in enumerate(args):
                fresh = any(isinstance(s, str) for s in sources)  # at least one argument should be an earlier result
                sources.append(self.source(op, i, a, shape, fresh))
            if not self.add(op, tuple(sources), attrs):
                self.add(op, tuple(self.leaf(a) if self.is_input(op, i, a) else a for i, a in enumerate(args)), attrs)
        assume(self.expression.steps)
        return self.expression.pruned()

    def is_input(self, op: Op, i: int, a: Array) -> bool:
        return is_floating(a.dtype) and not op.is_data(i)

    def fitting(self, shape: Any) -> list[str]:
        """The values so far with a given shape, the latest first."""
        return [name for name, v in reversed(self.values.items()) if v.shape == shape]

    def source(self, op: Op, i: int, sample: Array, shape: Any, may_be_fresh: bool) -> Any:
        """The source of one argument: a fitting earlier value, or a new leaf."""
        if not self.is_input(op, i, sample):
            return sample
        if shape is not None and sample.shape != shape:
            sample = self.draw(arrays(shape, op.domain, op.kinks))
        fitting = self.fitting(sample.shape)
        if not fitting and self.values and not may_be_fresh and not op.kinks and self.draw(st.booleans()):
            # no value has this shape: multiply a new leaf by the sum of the latest value
            summed = self.add(REGISTRY["sum"], (next(reversed(self.values)),), {"axis": None, "keepdims": False})
            if summed and self.add(REGISTRY["mul"], (self.leaf(sample), self.expression.steps[-1].result), {}):
                fitting = [self.expression.steps[-1].result]
        if not fitting or (may_be_fresh and self.draw(st.booleans())):
            return self.leaf(sample)
        chosen: str = self.draw(st.sampled_from(fitting))
        low, high = op.domain
        v = self.values[chosen]
        if v.size and (v.min() < low or v.max() > high):
            middle, half = (low + high) / 2, 0.9 * (high - low) / 2
            into_domain: list[tuple[str, tuple[float, ...]]] = [("tanh", ()), ("mul", (round(half, 2),))]
            for name, numbers in [*into_domain, *([("add", (round(middle, 2),))] if middle else [])]:
                self.add(REGISTRY[name], (chosen, *numbers), {})
                chosen = self.expression.steps[-1].result
        return chosen

    def leaf(self, a: Array) -> str:
        name = (
            string.ascii_lowercase[len(self.expression.leaves)] if len(self.expression.leaves) < 20 else f"x{len(self.values)}"
        )
        self.expression.leaves[name] = self.values[name] = np.asarray(a)
        return name

    def is_kink(self, op: Op, arrays: list[Any], attrs: dict[str, Any], result: Array) -> bool:
        """Whether one-sided slopes differ: their difference does not shrink with the step."""
        rng = np.random.default_rng(0)
        moves = [rng.normal(size=np.shape(a)) if self.is_input(op, i, np.asarray(a)) else None for i, a in enumerate(arrays)]

        def at(e: float) -> Array:
            return np.asarray(op(*[a if v is None else a + e * v for a, v in zip(arrays, moves, strict=True)], **attrs))

        wide, narrow = (np.abs(at(h) - 2 * result + at(-h)) / h for h in (1e-3, 1e-4))
        return bool(((narrow > wide / 3) & (narrow > 1e-6 * (1 + np.abs(result)))).any())

    def add(self, op: Op, sources: tuple[Any, ...], attrs: dict[str, Any]) -> bool:
        """Append a step, unless its result is not finite, too large, or at a kink."""
        arrays = [self.values[s] if isinstance(s, str) else s for s in sources]
        for axes, a in zip(op.parsed.inputs, arrays, strict=False):
            square = len(axes) == 2 and axes[0] == axes[1]
            if square and a.size and not (np.linalg.cond(a) < WELL_CONDITIONED).all():
                return False
        try:
            with np.errstate(all="ignore"):
                result = np.asarray(op(*arrays, **attrs))
            may_kink = (op.kinks or type(op).sample is not Op.sample) and any(isinstance(s, str) for s in sources)
            if may_kink and self.is_kink(op, arrays, attrs, result):
                return False
        except Exception:  # a singular matrix, or an argument outside of the domain
            return False
        if not np.isfinite(result).all() or np.abs(result).max(initial=0.0) > LARGEST:
            return False
        name = f"y{len(self.expression.steps)}"
        self.expression.steps.append(Step(name, op, sources, attrs))
        self.values[name] = result
        return True

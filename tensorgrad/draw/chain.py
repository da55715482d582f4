"""The reverse walk from a loss to one Tensor, with formulas instead of gradients."""

from __future__ import annotations

import math
from collections import Counter
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from tensorgrad import ops
from tensorgrad.autograd.saved import as_float32, is_wide, recorded_nodes, rule_values
from tensorgrad.core.graph import Graph
from tensorgrad.core.node import Node
from tensorgrad.core.signature import Shape
from tensorgrad.core.state import switched
from tensorgrad.core.tensor import Tensor, wrap
from tensorgrad.draw.algebra import abbreviated, everywhere, number, product, quotient, replaced, scaled, total, uniform
from tensorgrad.draw.closed import CLOSED, Standardised, standardised, standardised_gradient
from tensorgrad.draw.counts import Axes, key_of
from tensorgrad.draw.expression import Expr, Symbol, Term, call, named, symbols_in
from tensorgrad.draw.formula import BY_NORM, COUNTED, Use, formula, function_of, summed_to
from tensorgrad.draw.latex import latex, latex_name
from tensorgrad.draw.notation import text
from tensorgrad.draw.titles import Titles
from tensorgrad.errors import GraphError

LONGEST = 240  # maximum characters of a formula in one piece
SHORT, LONG = 9, 17  # maximum sizes of a value that is substituted at every use, and at a single use
REPEATED, BRIEF = 5, 3  # maximum sizes of a repeated part of a rule, before and after naming

# Ops that are substituted where they are used; other ops read a layer's result by its name
PLAIN = {
    ops.add, ops.sub, ops.mul, ops.div, ops.neg, ops.sum, ops.mean, ops.matmul, ops.transpose, ops.power, ops.square,
    ops.reshape, ops.sum_to, ops.broadcast_to, ops.linear, ops.getitem, ops.einsum,
}  # fmt: skip


class Formulas(NamedTuple):
    """A derivation as text: name, text, LaTeX, shape and LaTeX name of each step."""

    forward: list[tuple[str, str, str, Shape, str]]
    backward: list[tuple[str, str, str, Shape, str]]
    complete: tuple[str, str]
    constants: dict[str, Any]
    names: dict[str, str]


class Chain:
    """One derivation: forward values as expressions, then the gradient of each, starting at the loss."""

    def __init__(self, loss: Tensor, wrt: Tensor, name: str) -> None:
        assert loss.node is not None
        recorded_nodes("derive", [loss])
        recorded = Graph.of(loss)
        self.fused = recorded.fused()
        self.axes = Axes(recorded)
        self.titles = Titles(recorded, self.fused, name)
        self.leaf = wrt if wrt.node is None else None
        self.wrt = key_of(wrt.node or wrt)
        self.loss = loss.node.index
        self.nodes = {node.index: node for node in self.fused.nodes}
        self.path = self.between(wrt)
        self.on_path = {node.index for node in self.path} | {self.wrt}
        self.readers: dict[Any, list[Node]] = {}
        for node in self.fused.nodes:
            for source in node.inputs:
                if isinstance(source, Node):
                    self.readers.setdefault(source.index, []).append(node)
        self.counts: dict[Any, Symbol] = {}
        self.constants: list[tuple[Any, Symbol]] = []
        self.label_rows: dict[Expr, Symbol] = {}
        self.symbols: dict[int, Symbol] = {}
        self.gradients: list[Symbol] = []
        self.formulas: dict[int, Expr] = {}
        self.units: dict[int, Standardised] = {n.index: u for n in self.fused.nodes if (u := standardised(n)) is not None}
        self.deviations = {u.deviation.index for u in self.units.values()}
        for node in self.fused.nodes:
            self.compute(node)

    def between(self, wrt: Tensor) -> list[Node]:
        """The nodes from `wrt` to the loss, in order."""
        reached = {self.wrt}
        path = []
        for node in self.fused.nodes:
            if any(key_of(s) in reached for s in node.inputs if isinstance(s, (Node, Tensor))):
                reached.add(node.index)
                path.append(node)
        if self.loss not in reached:
            raise GraphError(f"derive: the loss was not computed from the second argument (shape {wrt.shape})")
        if self.loss == self.wrt:
            raise GraphError("derive: loss and wrt are the same Tensor")
        return path

    # Forward

    def compute(self, node: Node) -> None:
        """Compute the formula of a forward value, with a symbol if it gets one."""
        expression = formula(self.use(node, tuple(self.expr(s) for s in node.inputs)))
        self.formulas[node.index] = expression
        if (kind := self.kind_of(node, expression)) is not None:
            self.name(node.index, kind)

    def name(self, index: int, kind: str = "v") -> Symbol:
        if index not in self.symbols:
            symbol = self.symbols[index] = Symbol(kind, self.nodes[index].shape)
            symbol.definition = self.formulas[index]
            symbol.base = None
        return self.symbols[index]

    def kind_of(self, node: Node, expression: Expr) -> str | None:
        """The kind of a value's name, or None to substitute its formula."""
        readers = self.readers.get(node.index, [])
        if node.index == self.loss:
            return "L"
        if node.index in self.units:
            return "xhat"
        if node.index in self.deviations:
            return "s"
        if node.op is ops.hypot and function_of(node) in BY_NORM:
            return "r"
        if node.op is ops.relu and expression.size <= SHORT and not self.is_layer(node.inputs[0]):
            return None
        if node.op.activation:
            return "h*" if node.op.layer else "h"
        if node.op.layer and any(reader.op not in PLAIN for reader in readers):
            return "z"
        if expression.head is Term.NAME or uniform(expression) is not None:
            return "v" if node.index == self.wrt else None
        if node.op is ops.softmax and len(readers) > 0 and node.ndim > 1:
            return "P"
        if node.index == self.wrt or node.op.draws or expression.size > (LONG if len(readers) == 1 else SHORT):
            return "z" if node.op.layer else "v"
        return None

    def is_layer(self, source: Any) -> bool:
        return isinstance(source, Node) and source.op.layer

    def use(self, node: Node, args: tuple[Expr, ...]) -> Use:
        return Use(node.op, args, dict(node.attrs), node.shape, node, self)

    def expr(self, source: Any) -> Expr:
        """The formula of an input: its name, or what computed it."""
        if isinstance(source, Tensor):
            if (symbol := self.titles.leaves.get(source)) is not None:
                return named(symbol)
            return self.constant(source._data)
        if not isinstance(source, Node):
            return number(as_written(source))
        if source.index in self.symbols:
            return named(self.symbols[source.index])
        return self.formulas[source.index]

    def constant(self, array: Any) -> Expr:
        """An array that a rule computed outside of the graph: a number if all elements are equal, or a name."""
        values = np.asarray(array)
        if values.dtype.kind == "f" and values.size and (values == values.flat[0]).all():
            return everywhere(number(as_written(float(values.flat[0]))), values.shape)
        for other, symbol in self.constants:
            if other is array:
                return named(symbol)
        symbol = Symbol("C", values.shape, value=array)
        self.constants.append((array, symbol))
        return named(symbol)

    # Context of formulas

    def count(self, node: Node, axes: tuple[int, ...]) -> Expr:
        source = node.inputs[0]
        n = math.prod(source.shape[a] for a in axes)
        unit = node.gradient_of
        if unit is not None and unit.index in self.nodes and not (isinstance(source, Node) and source.index in self.nodes):
            same_shape = unit.shape == source.shape
            key = self.axes.key(unit, axes) if same_shape else (unit.index, axes, source.shape)
        else:
            key = self.axes.key(source, axes)
        return self.letter(key, n, axes, source.shape)

    def averaged(self, node: Node, axes: tuple[int, ...]) -> None:
        self.count(node, axes).args[0].averages = True

    def letter(self, key: Any, n: int, axes: tuple[int, ...], shape: Shape) -> Expr:
        if key not in self.counts:
            self.counts[key] = Symbol("m", (), value=n)
            self.counts[key].over = (axes, shape)
        return named(self.counts[key])

    def rows_of(self, source: Any) -> Expr:
        axes = tuple(range(len(source.shape) - 1))
        return self.letter(self.axes.key(source, axes), math.prod(source.shape[:-1]), axes, source.shape)

    def rows(self, node: Node) -> Expr | None:
        """The number of samples, for a loss that divides a sum by it."""
        total = node.inputs[0]
        inner = total.inputs[0] if isinstance(total, Node) and total.op in (ops.sum, ops.neg) else None
        while isinstance(inner, Node) and inner.op in (ops.sum, ops.neg):
            inner = inner.inputs[0]
        if inner is None or not inner.shape:
            return None
        axes = tuple(range(len(inner.shape) - 1)) if len(inner.shape) > 1 else (0,)
        n = math.prod(inner.shape[a] for a in axes)
        if n != node.inputs[1]:
            return None
        return self.letter(self.axes.key(inner, axes), n, axes, inner.shape)

    def labels(self, t: Expr, shape: Shape) -> Expr:
        if t not in self.label_rows:
            symbol = self.label_rows[t] = Symbol("Y", shape)
            symbol.definition = call(ops.one_hot, t, shape=shape, classes=shape[-1])
        return named(self.label_rows[t])

    def scale(self, node: Node) -> Expr:
        """The weight of an element of a loss: its factors and means, as letters and numbers."""
        expected = node.attrs.get("scale")
        if not node.members:
            return number(expected) if expected is not None else quotient((), number(1), self.rows_of(node.inputs[0]))
        result, value = number(1), 1.0
        member: Any = node.members[0]
        while True:
            if member.op is ops.nll_loss:
                return product((), result, quotient((), number(1), self.rows_of(member.inputs[0])))
            if member.op is ops.neg:
                factor, amount = number(-1), -1.0
            elif member.op is ops.mean:
                inner = member.inputs[0]
                axes = tuple(range(len(inner.shape))) if member.attrs["axis"] is None else axes_of_mean(member)
                n = math.prod(inner.shape[a] for a in axes)
                factor = quotient((), number(1), self.letter(self.axes.key(inner, axes), n, axes, inner.shape))
                amount = 1 / max(n, 1)
            elif member.op in (ops.mul, ops.div) and (numbers := [s for s in member.inputs if is_constant(s)]):
                factor, amount = self.expr(numbers[0]), number_of(numbers[0])
                if member.op is ops.div:
                    counted = function_of(member) in COUNTED
                    factor = quotient((), number(1), (self.rows(member) if counted else None) or factor)
                    amount = 1 / amount
            elif member.op is ops.sum:
                factor, amount = number(1), 1.0
            else:
                break
            result, value = product((), result, factor), value * amount
            member = next(s for s in member.inputs if isinstance(s, Node))
        if expected is None or not math.isclose(abs(expected), abs(value), rel_tol=1e-6):
            return number(expected if expected is not None else 1)
        return result if (expected > 0) == (value > 0) else scaled(result, -1)

    def sums_to_one(self, t: Expr) -> bool:
        leaf = self.titles.leaf_of(t)
        return leaf is not None and bool(np.allclose(leaf._data.sum(-1), 1))

    def complement(self, node: Node, a: Expr, b: Expr) -> Expr:
        first, second = self.titles.leaf_of(a), self.titles.leaf_of(b)
        if first is None or second is None or second.name or not np.array_equal(second._data, 1 - first._data):
            return b
        return total(b.shape, number(1), scaled(a, -1))

    def is_total(self, node: Node) -> bool:
        """Whether everything computed from it is a scalar."""
        stack, seen = [node.index], set()
        while stack:
            for reader in self.readers.get(stack.pop(), ()):
                if reader.shape:
                    return False
                if reader.index not in seen:
                    seen.add(reader.index)
                    stack.append(reader.index)
        return True

    # Backward

    def walk(self) -> Symbol:
        """Compute the gradients of all values on the path; returns that of `wrt`."""
        sums: dict[Any, list[Expr]] = {self.loss: [number(1)]}
        for node in reversed(self.path):
            if node.index not in sums or node.index == self.wrt:
                continue
            g = total(node.shape, *sums[node.index])
            if node.index != self.loss:
                g = self.gradient(node, g)
            for source, gx in self.differentiated(node, g):
                key = key_of(source)
                if key in self.on_path and source.requires_grad:
                    gx = summed_to(gx, source.shape, partial(self.count_of_result, node))
                    sums.setdefault(key, []).append(gx)
        base = self.titles.leaves[self.leaf] if self.leaf is not None else self.name(self.wrt)
        last = Symbol("gradient", base.shape)
        last.base = base
        last.definition = total(last.shape, *sums.get(self.wrt, [number(0)]))
        self.gradients.append(last)
        return last

    def count_of_result(self, node: Node, axes: tuple[int, ...]) -> Expr:
        return self.letter(self.axes.key(node, axes), math.prod(node.shape[a] for a in axes), axes, node.shape)

    def gradient(self, node: Node, g: Expr) -> Expr:
        """The gradient of a value, as a name if it gets one."""
        if uniform(g) is not None or g.head is Term.NAME:
            return g
        inputs_on_path = sum(key_of(s) in self.on_path for s in node.inputs if isinstance(s, (Node, Tensor)))
        uses_g_once = inputs_on_path == 1 and node.op not in (ops.softmax, ops.log_softmax) and node.index not in self.units
        if node.index not in self.symbols and g.size <= (2 * LONG if uses_g_once else SHORT):
            return g
        symbol = Symbol("gradient", node.shape)
        symbol.base, symbol.definition = self.name(node.index), g
        self.gradients.append(symbol)
        return named(symbol)

    def differentiated(self, node: Node, g: Expr) -> list[tuple[Any, Expr]]:
        """The gradients of the arguments of `node` that need one, given that of its result."""
        if (unit := self.units.get(node.index)) is not None:
            xhat, deviation = named(self.symbols[node.index]), named(self.symbols[unit.deviation.index])
            return [(unit.x, standardised_gradient(g, xhat, deviation, unit.axes))]
        use = self.use(node, tuple(self.expr(s) for s in node.inputs))
        rule = CLOSED.get(node.op)
        gradients = rule(use, g) if rule is not None else None
        if gradients is None:
            gradients = self.by_rule(node, g)
        return [
            (s, gx) for s, gx in zip(node.inputs, gradients, strict=False) if gx is not None and isinstance(s, (Node, Tensor))
        ]

    def by_rule(self, node: Node, g: Expr) -> list[Expr | None]:
        """Apply the rule of an op to a placeholder g, and read the result from its recording."""
        placeholder = wrap(np.ones(node.shape, np.float32 if is_wide(node) else node.dtype), None)
        results: list[Tensor | None] = []
        assert node.op.backward is not None
        with switched(tracing=True, recording=True, gradient_of=node, scope=node.scope, function=node.function):
            y, values = rule_values(node, node, True)
            rules = node.op.backward(as_float32(placeholder) if is_wide(node) else placeholder, y, *values, **node.attrs)
            for source, rule in zip(node.inputs, rules, strict=True):
                needed = isinstance(source, (Node, Tensor)) and source.requires_grad
                needed = needed and key_of(source) in self.on_path
                results.append(rule() if rule is not None and needed else None)
        return self.read(node, results, placeholder, g)

    def read(self, unit: Node, results: list[Tensor | None], placeholder: Tensor, g: Expr) -> list[Expr | None]:
        """The results of a rule as formulas, with g for the placeholder; long parts that are used repeatedly get a name."""
        expressions: dict[Any, Expr] = {placeholder: g}
        inner: dict[Node, None] = {}
        stack = [t.node for t in results if t is not None and t.node is not None]
        while stack:
            node = stack.pop()
            if node.gradient_of is unit and node not in inner:
                inner[node] = None
                stack += [s for s in node.inputs if isinstance(s, Node)]
        readers = Counter(s for node in inner for s in node.inputs if isinstance(s, Node))

        def read(source: Any) -> Expr:
            if isinstance(source, (Node, Tensor)) and source in expressions:
                return expressions[source]
            return self.expr(source)

        for node in sorted(inner, key=lambda n: n.index):
            expression = formula(self.use(node, tuple(read(s) for s in node.inputs)))
            if readers[node] > 1 and expression.size > REPEATED:
                symbol = Symbol("t", expression.shape)
                symbol.definition = expression
                self.gradients.append(symbol)
                expression = named(symbol)
            expressions[node] = expression
        return [None if t is None else read(t.node if t.node is not None else t) for t in results]

    # Text

    def derivation(self) -> Formulas:
        last = self.walk()
        self.shorten()
        final = last.definition
        assert final is not None
        needed = reachable([last, self.symbols[self.loss]])
        backward = [s for s in self.gradients if s in needed]
        bases = {s.base for s in backward if s.base is not None}
        needed |= reachable(list(bases))
        forward = [s for s in self.label_rows.values() if s in needed]
        forward += [self.symbols[i] for i in sorted(self.symbols) if self.symbols[i] in needed]
        self.titles.assign(forward, backward, list(self.counts.values()), [s for _, s in self.constants], needed)
        complete = self.expanded(last, backward)
        return Formulas(
            [step(s) for s in forward],
            [step(s) for s in backward],
            (text(complete), latex(complete)),
            *self.titles.legend(needed),
        )

    def shorten(self) -> None:
        """Substitute the names that values have received on the way."""
        symbols = [*self.symbols.values(), *self.gradients]
        by: dict[Expr, Expr] = {}
        for _, symbol in sorted(self.symbols.items()):
            if symbol.definition is not None and symbol.definition.size > 2:
                by.setdefault(symbol.definition, named(symbol))
        memo: dict[Expr, Expr] = {}
        for symbol in symbols:
            if symbol.definition is not None:
                symbol.definition = abbreviated(symbol.definition, by, memo, symbol)
        parts = {s: s.definition for s in self.gradients if s.kind == "t" and s.definition is not None}
        parts = {s: e for s, e in parts.items() if e.size <= BRIEF}
        for symbol in symbols if parts else ():
            if symbol.definition is not None:
                symbol.definition = replaced(symbol.definition, parts)

    def expanded(self, last: Symbol, backward: list[Symbol]) -> Expr:
        """The last step with earlier steps substituted, as far as it stays readable."""
        assert last.definition is not None
        result = last.definition
        definitions = {s: s.definition for s in backward if s is not last and s.definition is not None}
        while True:
            inner = {s: definitions[s] for s in symbols_in(result) if s in definitions}
            if not inner:
                return result
            substituted = replaced(result, {s: everywhere(e, s.shape) for s, e in inner.items()})
            if substituted.size > LONGEST or len(text(substituted)) > LONGEST:
                return result
            result = substituted


def as_written(x: float) -> float:
    """A number that was np.float32(0.1) as 0.1, which is shorter."""
    with np.errstate(over="ignore"):
        short = np.float32(x)
    return float(str(short)) if float(short) == x else x


def is_constant(source: Any) -> bool:
    return isinstance(source, (int, float)) or (
        isinstance(source, Tensor) and not source.shape and not source.requires_grad and not source.name
    )


def number_of(source: Any) -> float:
    return float(source._data) if isinstance(source, Tensor) else float(source)


def axes_of_mean(node: Node) -> tuple[int, ...]:
    axis, n = node.attrs["axis"], len(node.inputs[0].shape)
    return tuple(a % n for a in ((axis,) if isinstance(axis, int) else axis))


def reachable(symbols: list[Symbol]) -> set[Symbol]:
    """The symbols, and those in their definitions, recursively."""
    reached: set[Symbol] = set()
    stack = list(symbols)
    while stack:
        symbol = stack.pop()
        if symbol not in reached:
            reached.add(symbol)
            if symbol.definition is not None:
                stack += symbols_in(symbol.definition)
    return reached


def step(symbol: Symbol) -> tuple[str, str, str, Shape, str]:
    assert symbol.definition is not None
    return symbol.title, text(symbol.definition), latex(symbol.definition), symbol.shape, latex_name(symbol.title)

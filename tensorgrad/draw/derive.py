"""The chain rule for a recorded program, step by step, as a person writes it on paper.

The backward pass is recorded like any other program, so a gradient is an expression of forward values and of the gradients
that come before it. Here these expressions are read off the graph and written down. In the text two factors side by side are a
matrix product, * is elementwise, A^T is the transpose, [a > b] is 1 where it holds and 0 elsewhere.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import tensorgrad.autograd.walk as autograd
from tensorgrad.core.graph import Graph
from tensorgrad.core.node import Node
from tensorgrad.core.signature import Shape
from tensorgrad.core.table import visible
from tensorgrad.core.tensor import Tensor, wrap
from tensorgrad.draw.expression import Expr, constant, named, names_in, number, replaced, uniform
from tensorgrad.draw.formula import simplified
from tensorgrad.draw.notation import latex, latex_name, text
from tensorgrad.errors import GraphError

LONGEST = 240  # characters of a formula that is still written in one piece


@dataclass(frozen=True)
class Step:
    """name = formula; for a gradient the name is "dL/dx"."""

    name: str
    formula: str
    latex: str
    shape: Shape
    latex_name: str

    def __str__(self) -> str:
        return f"{self.name} = {self.formula}"


@dataclass
class Derivation:
    """What draw.derive found.

    forward   how the values that occur in the gradients are computed
    backward  the gradients, from the loss down to the one that was asked for
    formula   that gradient in one piece, or as its last step where that would be too long to read
    constants what letters stand for: m, a number of rows; C1, an array that a rule made, such as a mask
    """

    forward: list[Step]
    backward: list[Step]
    formula: str
    latex_formula: str
    constants: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        rows = [(str(step), "×".join(map(str, step.shape)) or "scalar") for step in (*self.forward, *self.backward)]
        width = max(len(text) for text, _ in rows)
        lines = [f"    {text:{width}}    {shape}" for text, shape in rows]
        n = len(self.forward)
        constants = [f"    {name} = {described(value)}" for name, value in self.constants.items()]
        last = self.backward[-1].name
        return "\n".join(["forward", *lines[:n], *constants, "backward", *lines[n:], f"{last} = {self.formula}"])

    __repr__ = __str__

    @property
    def latex(self) -> str:
        """The steps as a LaTeX align* environment, the whole formula last."""
        rows = [f"{s.latex_name} &= {s.latex}" for s in (*self.forward, *self.backward)]
        rows += [f"{latex_name(name)} &= \\text{{{described(value)}}}" for name, value in self.constants.items()]
        if self.backward and self.latex_formula != self.backward[-1].latex:
            rows.append(f"{self.backward[-1].latex_name} &= {self.latex_formula}")
        return "\\begin{align*}\n" + " \\\\\n".join(rows) + "\n\\end{align*}"

    def _repr_latex_(self) -> str:
        return self.latex


def derive(loss: Tensor, wrt: Tensor, *, name: str = "L") -> Derivation:
    """The derivation of d loss / d wrt by the chain rule, from the graph that was recorded.

    loss  a computed 0-d Tensor
    wrt   a Tensor that it was computed from, a leaf or not
    name  what to call the loss

    Every fused group is written as the closed formula that it stands for, such as (softmax(z2) - Y) / m. Names are those of the
    model and of `name=`; h1, z2, ... are what the first layer's activation and the second one's linear part gave. It prints as
    text, `.latex` is LaTeX. Raises GraphError if the loss is not 0-d, or was not computed from `wrt`.
    """
    if loss.ndim:
        raise GraphError(f"derive: the loss has shape {loss.shape}, expected a 0-d Tensor")
    if loss.node is None or not wrt.requires_grad:
        what = "loss was given, not computed" if loss.node is None else "second argument does not require a gradient"
        raise GraphError(f"derive: the {what}")
    return Writer(loss, wrt, name).written()


def described(value: Any) -> str:
    """A number, or what kind of array it is."""
    if isinstance(value, (int, float)):
        return f"{value:g}"
    return f"given, {'×'.join(map(str, value.shape))} {value.dtype}"


class Writer:
    """Reads the expressions of one derivation off the graph."""

    def __init__(self, loss: Tensor, wrt: Tensor, name: str) -> None:
        recorded = Graph.of(loss)
        self.fused = recorded.fused()
        self.leaf_names = recorded.leaf_names()
        self.taken = set(self.leaf_names.values())
        self.loss, self.wrt, self.name = loss, wrt, self.free(visible(name))
        known = self.fused.values()
        ends = {node.index: node for node in self.fused.nodes}
        original = {node.index: node for node in recorded.nodes}
        reached: set[Any] = {wrt.node.index if wrt.node is not None else wrt}
        self.path: list[Node] = []
        for node in self.fused.nodes:
            if any((s.index if isinstance(s, Node) else s) in reached for s in node.inputs if isinstance(s, (Node, Tensor))):
                reached.add(node.index)
                self.path.append(original[node.index])
        if loss.node is not None and loss.node.index not in reached:
            raise GraphError(f"derive: the loss was not computed from the second argument (shape {wrt.shape})")
        if wrt.node is not None and loss.node is wrt.node:
            raise GraphError("derive: both arguments are the same Tensor")
        asked = [wrap(known[ends[node.index]], node) for node in self.path[::-1] if node.index != loss.node.index]  # type: ignore[union-attr]
        asked = [t for t in asked if t.requires_grad and t.node is not wrt.node]  # a mask of dropout's has no gradient
        found = autograd.grad(loss, [*asked, wrt], create_graph=True, allow_unused=True)
        self.ends = ends
        self.constants: dict[str, Any] = {}
        sizes: list[Shape] = [node.shape for node in self.fused.nodes] + [leaf.shape for leaf in self.fused.leaves]
        self.rows = {n for shape in sizes if shape for n in (shape[0], math.prod(shape[:-1]))}
        self.named: dict[Any, Expr] = {}
        self.forward_names: dict[int, str] = {}
        self.layers = 0
        self.count: Counter[str] = Counter()
        self.name_forward()
        self.gradients: list[tuple[str, Tensor]] = []
        for t, g in zip([*asked, wrt], found, strict=True):
            if g is not None:
                self.gradients.append((self.forward_name(t), g))
        self.grad_of: dict[Node, str] = {}
        for title, g in self.gradients:
            if g.node is not None:
                self.grad_of.setdefault(g.node, f"d{self.name}/d{title}")
        self.memo: dict[Any, Expr] = {}
        self.used: dict[int, Node] = {self.fused.outputs[0].index: self.fused.outputs[0]}
        self.shared = self.shared_nodes()

    # Names

    def free(self, title: str) -> str:
        """`title`, primed until nothing else has it."""
        while title in self.taken:
            title += "'"
        self.taken.add(title)
        return title

    def name_forward(self) -> None:
        """h1 for what the first layer's activation gave, z2 for the second layer's linear part, v1 for anything else."""
        for node in self.fused.nodes:
            if node.op.layer or node.op.activation:
                self.layers += node.op.layer
                title = f"{'h' if node.op.activation else 'z'}{self.layers}"
            else:
                self.count["v"] += 1
                title = f"v{self.count['v']}"
            title = self.free(title)
            self.forward_names[node.index] = self.name if node.index == self.loss.node.index else title  # type: ignore[union-attr]

    def forward_name(self, t: Tensor) -> str:
        if t.node is not None:
            return self.forward_names[t.node.index]
        return self.leaf_names[t]

    def shared_nodes(self) -> dict[Node, str]:
        """Parts of rules that are read more than once and are no gradient of their own: t1, t2, ..."""
        readers: Counter[Node] = Counter()
        for node in self.backward_nodes():
            for source in node.inputs:
                if isinstance(source, Node) and source.gradient_of is not None:
                    readers[source] += 1
        found: dict[Node, str] = {}
        for node in sorted(readers, key=lambda n: n.index):
            big = any(isinstance(s, Node) and s.gradient_of is not None for s in node.inputs)
            if readers[node] > 1 and big and node not in self.grad_of:
                found[node] = self.free(f"t{len(found) + 1}")
        return found

    def backward_nodes(self) -> list[Node]:
        seen: set[Node] = set()
        stack = [g.node for _, g in self.gradients if g.node is not None]
        while stack:
            node = stack.pop()
            if node in seen or node.gradient_of is None:
                continue
            seen.add(node)
            stack += [s for s in node.inputs if isinstance(s, Node)]
        return sorted(seen, key=lambda n: n.index)

    # Expressions

    def expr(self, source: Any) -> Expr:
        """The formula of an input: a name where there is one, else what it was computed by."""
        if isinstance(source, Tensor):
            if source in self.leaf_names:
                return named(self.leaf_names[source], source.shape)
            return constant(source._data) or self.given(source._data)
        if not isinstance(source, Node):
            return number(source)
        if source.gradient_of is None and source.index in self.ends:
            self.used[source.index] = self.ends[source.index]
            return named(self.forward_names[source.index], source.shape)
        formula = self.of(source)
        title = self.grad_of.get(source) or self.shared.get(source)
        if title is None or uniform(formula) is not None:  # a number needs no name
            return formula
        return named(title, source.shape)

    def of(self, node: Node) -> Expr:
        """The formula of a node by its own op, simplified."""
        if node not in self.memo:
            self.memo[node] = simplified(
                Expr(node.op, tuple(self.expr(s) for s in node.inputs), tuple(node.attrs.items()), node.shape), self
            )
        return self.memo[node]

    def written(self) -> Derivation:
        for node in self.backward_nodes():  # in their order, so that no formula has to go looking for deeper ones
            self.of(node)
        titles: dict[str, Expr] = {}
        for node, title in self.shared.items():
            titles[title] = self.of(node)
        for title, g in self.gradients:
            full = f"d{self.name}/d{title}"
            own = g.node is not None and self.grad_of.get(g.node) == full
            titles[full] = self.of(g.node) if own and g.node is not None else self.expr(g.node if g.node is not None else g)
        place = {title: node.index for node, title in (*self.shared.items(), *self.grad_of.items())}
        order = sorted(titles, key=lambda t: (place.get(t, math.inf), t))
        last = f"d{self.name}/d{self.forward_name(self.wrt)}"
        needed = self.needed(last, titles)
        order = [t for t in order if t in needed and t != last] + [last]
        whole = self.expanded(last, titles)
        forward: dict[int, Expr] = {}
        while missing := {i: n for i, n in self.used.items() if i not in forward}:
            for i, node in missing.items():
                args = tuple(self.expr(s) for s in node.inputs)
                forward[i] = simplified(Expr(node.op, args, tuple(node.attrs.items()), node.shape), self)
        steps = [self.step(self.forward_names[i], forward[i]) for i in sorted(forward)]
        backward = [self.step(title, titles[title]) for title in order]
        return Derivation(steps, backward, text(whole), latex(whole), self.constants)

    def needed(self, title: str, titles: dict[str, Expr]) -> set[str]:
        found, stack = set(), [title]
        while stack:
            now = stack.pop()
            if now in found or now not in titles:
                continue
            found.add(now)
            stack += names_in(titles[now])
        return found

    def expanded(self, last: str, titles: dict[str, Expr]) -> Expr:
        """The last step with the steps before it put in, as long as that can be read."""
        whole = titles[last]
        while True:
            inner = [name for name in names_in(whole) if name in titles and name != last]
            if not inner:
                return whole
            put_in = replaced(whole, {name: titles[name] for name in inner})
            if len(text(put_in)) > LONGEST:
                return whole
            whole = put_in

    def step(self, title: str, formula: Expr) -> Step:
        return Step(title, text(formula), latex(formula), formula.shape, latex_name(title))

    def given(self, array: Any) -> Expr:
        """A name for an array that a rule made outside of the graph, such as the mask of a maximum."""
        name = next((n for n, a in self.constants.items() if a is array), "")
        name = name or self.free(f"C{len(self.constants) + 1}")
        self.constants[name] = array
        return named(name, array.shape)

    def sums_to_one(self, name: str) -> bool:
        """Whether the rows of a given array are probabilities."""
        leaf = next((leaf for leaf, own in self.leaf_names.items() if own == name), None)
        return leaf is not None and bool(np.allclose(leaf._data.sum(-1), 1))

    def are_complements(self, a: str, b: str) -> bool:
        """Whether b is 1 - a, for two given arrays."""
        given = {own: leaf.data for leaf, own in self.leaf_names.items() if own in (a, b)}
        return len(given) == 2 and bool(np.allclose(given[a], 1.0 - given[b]))

    def count_of(self, scale: float) -> Expr | None:
        """m, for a factor 1/m where m is the number of rows of something."""
        m = round(1 / scale) if scale > 0 and math.isfinite(1 / scale) else 0
        if m < 2 or abs(scale * m - 1) > 1e-9 or m not in self.rows:
            return None
        for name, value in self.constants.items():
            if isinstance(value, int) and value == m:  # others are arrays
                return named(name)
        name = self.free("m" if "m" not in self.constants else f"m{len(self.constants) + 1}")
        self.constants[name] = m
        return named(name)

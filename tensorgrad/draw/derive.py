"""The chain rule for a recorded program, step by step, as written by hand.

Every rule is applied to a placeholder for the gradient and recorded; its result is an expression of forward values and that
gradient. Starting at the loss, these expressions are substituted into each other and simplified. In the text two adjacent
factors are a matrix product, a number before a factor multiplies it, * is elementwise, A^T is the transpose, [a > b] is 1 where
true and 0 elsewhere, and sum_j(a) the sum over the second axis, which stays with size 1 (i, j and k are the first three axes);
sum(a, axis=1) removes the axis. Phi is the normal distribution function, phi its density.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tensorgrad.core.signature import Shape
from tensorgrad.core.table import visible
from tensorgrad.core.tensor import Tensor
from tensorgrad.draw.chain import Chain
from tensorgrad.draw.latex import latex_name, upright
from tensorgrad.errors import GraphError

WIDEST = 100  # maximum column of the shapes


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
    """The result of draw.derive.

    forward   the formulas of the values in the gradients
    backward  the gradients, from the loss to the requested one
    formula   the requested gradient in one formula, or its last step if that would be too long
    constants the meaning of letters: m, the number of elements of a mean; C1, an array computed by a rule, such as a mask; t,
              unnamed labels
    names     letters that abbreviate parameters of a module: W1 for 0.weight
    """

    forward: list[Step]
    backward: list[Step]
    formula: str
    latex_formula: str
    constants: dict[str, Any] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        rows = [(str(step), "×".join(map(str, step.shape)) or "scalar") for step in (*self.forward, *self.backward)]
        width = min(max(len(text) for text, _ in rows), WIDEST)
        lines = [f"    {text:{width}}    {shape}" for text, shape in rows]
        n = len(self.forward)
        legend = [f"    {name} = {path}" for name, path in self.names.items()]
        legend += [f"    {name} = {described(value)}" for name, value in self.constants.items()]
        last = self.backward[-1].name
        return "\n".join(["forward", *legend, *lines[:n], "backward", *lines[n:], f"{last} = {self.formula}"])

    __repr__ = __str__

    @property
    def latex(self) -> str:
        """The letters and steps as a LaTeX align* environment, the whole formula last."""
        rows = [f"{latex_name(name)} &= {upright(path)}" for name, path in self.names.items()]
        rows += [f"{latex_name(name)} &= \\text{{{described(value)}}}" for name, value in self.constants.items()]
        rows += [f"{s.latex_name} &= {s.latex}" for s in (*self.forward, *self.backward)]
        if self.backward and self.latex_formula != self.backward[-1].latex:
            rows.append(f"{self.backward[-1].latex_name} &= {self.latex_formula}")
        return "\\begin{align*}\n" + " \\\\\n".join(rows) + "\n\\end{align*}"

    def _repr_latex_(self) -> str:
        return self.latex


def described(value: Any) -> str:
    """A number, or a description of an array."""
    if isinstance(value, (int, float)):
        return f"{value:g}"
    return f"given, {'×'.join(map(str, value.shape))} {value.dtype}"


def derive(loss: Tensor, wrt: Tensor, *, name: str = "L") -> Derivation:
    """Derive d loss / d wrt by the chain rule, from the recorded graph.

    loss  a computed 0-d Tensor
    wrt   a Tensor that it depends on, a leaf or not
    name  the name of the loss

    The steps are written as by hand: every fused group by its closed formula, such as (softmax(z2) - Y) / m, numbers in front,
    transposes resolved, short values substituted. Tensors have the names given by `name=`; parameters of modules are W1, b1,
    ..., and h1, z2, ... the first layer's activation and the second one's linear part. m is the number of elements of a mean;
    numbers of the program stay as written. Formulas hold where they are defined: for a norm it is u / L, although the gradient
    at u = 0 is 0.

    It prints as text, `.latex` is LaTeX. Raises GraphError if the loss is not 0-d, or does not depend on `wrt`.
    """
    if loss.ndim:
        raise GraphError(f"derive: the loss has shape {loss.shape}, expected a 0-d Tensor")
    if loss.node is None or not wrt.requires_grad:
        problem = "loss is a leaf, it was not computed" if loss.node is None else "second argument does not require a gradient"
        raise GraphError(f"derive: the {problem}")
    formulas = Chain(loss, wrt, visible(name)).derivation()

    def steps(rows: list[Any]) -> list[Step]:
        return [Step(*row) for row in rows]

    return Derivation(steps(formulas.forward), steps(formulas.backward), *formulas.complete, formulas.constants, formulas.names)

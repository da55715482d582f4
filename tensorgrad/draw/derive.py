"""The chain rule for a recorded program, step by step, as a person writes it on paper.

Every rule is applied to a gradient that is still a letter, and recorded like any other program; its result is an expression of
forward values and of that gradient. These expressions are put into each other from the loss down, and written in their simplest
form. In the text two factors side by side are a matrix product, a number before a factor multiplies it, * is elementwise, A^T
is the transpose, [a > b] is 1 where it holds and 0 elsewhere, and sum_j(a) the sum over the second axis, which stays as 1 (i, j
and k are the first three); sum(a, axis=1) is without it. Phi is the normal distribution function, phi its density.
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

WIDEST = 100  # how far to the right shapes stand


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
    constants what letters stand for: m, over how many elements a mean is taken; C1, an array that a rule made, such as a mask;
              t, labels that were given without a name
    names     what letters stand for that are short for a parameter of a module: W1 for 0.weight
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
        """What letters stand for and the steps, as a LaTeX align* environment, the whole formula last."""
        rows = [f"{latex_name(name)} &= {upright(path)}" for name, path in self.names.items()]
        rows += [f"{latex_name(name)} &= \\text{{{described(value)}}}" for name, value in self.constants.items()]
        rows += [f"{s.latex_name} &= {s.latex}" for s in (*self.forward, *self.backward)]
        if self.backward and self.latex_formula != self.backward[-1].latex:
            rows.append(f"{self.backward[-1].latex_name} &= {self.latex_formula}")
        return "\\begin{align*}\n" + " \\\\\n".join(rows) + "\n\\end{align*}"

    def _repr_latex_(self) -> str:
        return self.latex


def described(value: Any) -> str:
    """A number, or what kind of array it is."""
    if isinstance(value, (int, float)):
        return f"{value:g}"
    return f"given, {'×'.join(map(str, value.shape))} {value.dtype}"


def derive(loss: Tensor, wrt: Tensor, *, name: str = "L") -> Derivation:
    """The derivation of d loss / d wrt by the chain rule, from the graph that was recorded.

    loss  a computed 0-d Tensor
    wrt   a Tensor that it was computed from, a leaf or not
    name  what to call the loss

    It is written as one does it on paper: every fused group by the closed formula that it stands for, such as
    (softmax(z2) - Y) / m, numbers in front, transposes resolved, short values put in. Names are those of `name=`; parameters of
    modules are W1, b1, ..., and h1, z2, ... what the first layer's activation and the second one's linear part gave. m is how
    much a mean is taken over; a number that the program has stands as it was written. A formula is meant where it is defined:
    of the norm it is u / L, though at u = 0 the gradient is taken as 0.

    It prints as text, `.latex` is LaTeX. Raises GraphError if the loss is not 0-d, or was not computed from `wrt`.
    """
    if loss.ndim:
        raise GraphError(f"derive: the loss has shape {loss.shape}, expected a 0-d Tensor")
    if loss.node is None or not wrt.requires_grad:
        what = "loss was given, not computed" if loss.node is None else "second argument does not require a gradient"
        raise GraphError(f"derive: the {what}")
    written = Chain(loss, wrt, visible(name)).written()

    def steps(found: list[Any]) -> list[Step]:
        return [Step(*one) for one in found]

    return Derivation(steps(written.forward), steps(written.backward), *written.whole, written.constants, written.names)

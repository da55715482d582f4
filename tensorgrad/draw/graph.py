"""Drawings of computation graphs: as they were written, fused, with their gradients, with values and costs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

import tensorgrad.autograd.walk as autograd
from tensorgrad.compiler.plan import Plan
from tensorgrad.core.files import as_path, replacing
from tensorgrad.core.graph import Graph
from tensorgrad.core.node import Node
from tensorgrad.core.profiling import Cost, Profile
from tensorgrad.core.state import switched
from tensorgrad.core.tensor import Tensor
from tensorgrad.draw.dot import to_dot
from tensorgrad.draw.mermaid import to_mermaid
from tensorgrad.draw.page import to_html
from tensorgrad.draw.render import render
from tensorgrad.draw.scene import Options, Scene, beside, build, gradient_scene
from tensorgrad.errors import ArgumentError, GraphError, MissingDependencyError
from tensorgrad.nn.module import Module

SUFFIXES = ("svg", "png", "pdf", "dot", "html")


class Drawing:
    """A drawing of a graph. A notebook shows it, `print` gives the program as a table, `save` writes a file by its suffix.

    graph   the Graph that it is a drawing of
    scene   the boxes, groups and arrows in it
    """

    def __init__(self, graph: Graph, scene: Scene, views: Callable[[], dict[str, Scene]] | None = None) -> None:
        self.graph, self.scene = graph, scene
        self._views = views or (lambda: {"graph": scene})

    @property
    def dot(self) -> str:
        """The DOT text, for Graphviz."""
        return to_dot(self.scene)

    def to_mermaid(self) -> str:
        """The flowchart as Mermaid text, which GitHub and others draw in a ```mermaid block of a Markdown page."""
        return to_mermaid(self.scene)

    def save(self, path: str | Path) -> Path:
        """Write a .svg, .png, .pdf, .dot or .html file and return its path.

        Without Graphviz, for all but .dot, it writes the .dot file instead and raises MissingDependencyError, which says what
        to install. Raises ValueError for another suffix.
        """
        path = as_path(path)
        suffix = path.suffix.lower().removeprefix(".")
        if suffix not in SUFFIXES:
            raise ArgumentError(f"Drawing.save: expected a .svg, .png, .pdf, .dot or .html file, got {path.name!r}")
        if suffix == "dot":
            return written(path, self.dot.encode())
        try:
            content = to_html(self._views()).encode() if suffix == "html" else render(self.dot, suffix)
        except MissingDependencyError as error:
            instead = written(path.with_suffix(".dot"), self.dot.encode())
            raise MissingDependencyError(f"{error}. Wrote {instead} instead") from None
        return written(path, content)

    def hash(self) -> str:
        """The same for graphs that are the same program; see Graph.hash."""
        return self.graph.hash()

    def diff(self, other: Drawing | Graph | Tensor) -> Drawing:
        """The drawing of what changes from this graph to `other`: added green, removed red and dashed, changed yellow."""
        after = other.graph if isinstance(other, Drawing) else other if isinstance(other, Graph) else Graph.of(other)
        merged, marks = self.graph.merged(after)
        return Drawing(merged, build(merged, Options(fold=False, functions=False, marks=marks)))

    def __str__(self) -> str:
        return str(self.graph)

    __repr__ = __str__

    def _repr_svg_(self) -> str | None:
        """For notebooks, which show the text where this is None."""
        try:
            return render(self.dot, "svg").decode()
        except Exception:  # a notebook's repr never raises
            return None


def written(path: Path, content: bytes) -> Path:
    """The path, to which this has been written."""
    with replacing(path) as file:
        file.write(content)
    return path


def graph(
    what: Tensor | Graph | Module | Plan,
    *more: Any,
    backward: bool = False,
    fused: bool | str = False,
    values: bool = False,
    cost: bool | Profile = False,
    depth: int | None = None,
    fold: bool = True,
    highlight: Iterable[Tensor | Node] = (),
    direction: str = "TB",
    title: str = "",
) -> Drawing:
    """The drawing of what a Tensor was computed by.

    what       a computed Tensor; a Module, to be called with `more`; a Graph, such as the one that an error carries, whose
               failed operation is drawn in red; or the plan of a compiled step
    more       further Tensors; for a Module its example inputs
    backward   also the gradients of all leaves that require one: a box for each rule, beside its operation, with the formula
    fused      True: as fusion makes of it, each fused group one box with its formula; "both": before and after, side by side
    values     small arrays themselves; of larger ones minimum, maximum, mean and how many NaN
    cost       bytes, FLOPs and measured time of every operation, the more expensive the more orange; a Profile has the
               times of the operations while it was open
    depth      modules below this level as one box each; 0: those at the top
    fold       four or more equal blocks in a row as one with a count; long programs as at most 200 boxes; functions of several
               operations, such as conv2d or cross_entropy, as the one box that was written
    highlight  Tensors, or nodes, to be drawn in red
    direction  "TB", top to bottom, or "LR", left to right

    Parameters, inputs, constants, operations and results have colours of their own; boxes around them are the modules that
    made them. Raises GraphError for a Tensor that was given, not computed, and where a gradient can no longer be computed.
    """
    if direction not in ("TB", "LR"):
        raise ArgumentError(f'draw.graph: direction must be "TB" or "LR", got {direction!r}')
    if fused not in (True, False, "both"):
        raise ArgumentError(f'draw.graph: fused must be True, False or "both", got {fused!r}')
    if depth is not None and (not isinstance(depth, (int, np.integer)) or depth < 0):
        raise ArgumentError(f"draw.graph: depth must be a whole number from 0 on, or None, got {depth!r}")
    costs: dict[Node, Cost] | None = None
    if isinstance(what, Plan):
        what, costs = what.costs()
    elif isinstance(cost, Profile):
        costs = cost.nodes
    outputs = traced(what, more)
    program = what if isinstance(what, Graph) else Graph.of(*outputs)
    red = frozenset((t.node or t) if isinstance(t, Tensor) else t for t in highlight)

    def scene(as_fused: bool, as_backward: bool, prefix: str = "", panel: str = "", measured: bool = False) -> Scene:
        options = Options(
            fused=as_fused, values=values, cost=bool(cost), measured=measured or bool(cost), depth=depth, fold=fold,
            functions=fold, highlight=red, costs=costs,
        )  # fmt: skip
        if not as_backward:
            return build(program, options, prefix, panel)
        if not outputs:
            raise GraphError("draw.graph: backward=True needs the Tensor itself, a Graph does not tell what to differentiate")
        gradients = gradients_of(program, outputs)
        whole = Graph.of(*outputs, *gradients.values()) if gradients else program
        return gradient_scene(whole, options, gradients, prefix, panel)

    def finished(made: Scene) -> Scene:
        made.title, made.direction = title, direction
        return made

    def views() -> dict[str, Scene]:
        found = {"forward": finished(scene(False, False, measured=True)), "fused": finished(scene(True, False, measured=True))}
        with suppress(GraphError):  # nothing requires a gradient, or the graph has been let go of
            found["backward"] = finished(scene(True, True, measured=True))
        return found

    if fused == "both":
        shown = beside([scene(False, False, "a", "as written"), scene(True, backward, "b", "as fused")])
    else:
        shown = scene(bool(fused), backward)
    return Drawing(program, finished(shown), views)


def traced(what: Any, more: tuple[Any, ...]) -> list[Tensor]:
    """The Tensors to draw; none for a Graph."""
    if isinstance(what, Graph):
        return []
    if isinstance(what, Module):
        with switched(tracing=True, recording=True):
            inputs = [
                a if isinstance(a, Tensor) else Tensor(a, name="x" if len(more) == 1 else f"x{i}") for i, a in enumerate(more)
            ]
            result = what(*inputs)
        return list(result) if isinstance(result, (tuple, list)) else [result]
    outputs = [what, *more]
    for i, t in enumerate(outputs):
        if not isinstance(t, Tensor):
            raise GraphError(f"draw.graph: argument {i} is of type {type(t).__name__}, expected a Tensor, a Graph or a Module")
    return outputs


def gradients_of(program: Graph, outputs: list[Tensor]) -> dict[str, Tensor]:
    """Name to recorded gradient, for every leaf that requires one."""
    names = program.leaf_names()
    leaves = [leaf for leaf in program.leaves if leaf.requires_grad]
    seeds = [Tensor(np.ones(t.shape, t.dtype), device=t.device, name="g") for t in outputs]
    found = autograd.grad(outputs, leaves, seeds, create_graph=True, allow_unused=True)
    return {names[leaf]: g for leaf, g in zip(leaves, found, strict=True) if g is not None}

"""Drawings of computation graphs: as they were written, fused, with their gradients, with values and costs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import cache
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
from tensorgrad.draw.backward import add_backward
from tensorgrad.draw.build import Builder
from tensorgrad.draw.dot import to_dot
from tensorgrad.draw.measure import values_of
from tensorgrad.draw.mermaid import to_mermaid
from tensorgrad.draw.page import to_html
from tensorgrad.draw.program import Options, Program
from tensorgrad.draw.render import render
from tensorgrad.draw.scene import Scene, beside
from tensorgrad.draw.sources import given_to
from tensorgrad.draw.tikz import to_tikz
from tensorgrad.errors import ArgumentError, GraphError, MissingDependencyError
from tensorgrad.nn.module import Module
from tensorgrad.nn.trial import left_as_they_were

SUFFIXES = ("svg", "png", "pdf", "tex", "dot", "html")


class Drawing:
    """A drawing of a graph. A notebook shows it, `save` writes a file by its suffix.

    `print` gives the program as it was written, as a table: of what was asked for, such as values or marks, it has nothing.

    graph   the Graph that it is a drawing of
    scene   the boxes, groups and arrows in it
    """

    def __init__(self, graph: Graph, scene: Scene, views: Callable[[], dict[str, Scene]] | None = None) -> None:
        self.graph, self.scene = graph, scene
        self._given = given_to(graph)  # it is alive, and has its name and numbers, as long as the drawing is
        self._views = views or (lambda: {"graph": scene})

    @property
    def dot(self) -> str:
        """The DOT text, for Graphviz."""
        return to_dot(self.scene)

    def to_mermaid(self) -> str:
        """The flowchart as Mermaid text, which GitHub and others draw in a ```mermaid block of a Markdown page."""
        return to_mermaid(self.scene)

    def save(self, path: str | Path) -> Path:
        """Write a .svg, .png, .pdf, .tex (a LaTeX document with one TikZ picture), .dot or .html file and return its path.

        Without Graphviz, for all but .dot, it writes the .dot file instead and raises MissingDependencyError, which says what
        to install. Raises ValueError for another suffix.
        """
        path = as_path(f"{type(self).__name__}.save", path)
        suffix = path.suffix.lower().removeprefix(".")
        if suffix not in SUFFIXES:
            raise ArgumentError(f"Drawing.save: expected a .svg, .png, .pdf, .tex, .dot or .html file, got {path.name!r}")
        if suffix == "dot":
            return written(path, self.dot.encode())
        try:
            if suffix in ("html", "tex"):
                content = (to_html(self._views()) if suffix == "html" else to_tikz(self.scene)).encode()
            else:
                content = render(self.dot, suffix)
        except MissingDependencyError as error:
            instead = written(path.with_suffix(".dot"), self.dot.encode())
            raise MissingDependencyError(f"{error}. Wrote {instead} instead") from None
        return written(path, content)

    def hash(self) -> str:
        """The same for graphs that are the same program; see Graph.hash."""
        return self.graph.hash()

    def diff(self, other: Drawing | Graph | Tensor) -> Drawing:
        """The drawing of what changes from this graph to `other`: added (+), removed (−, dashed) and changed (~) operations.

        Operations are compared with their operands in their order, their numbers and attributes.
        """
        after = other.graph if isinstance(other, Drawing) else other if isinstance(other, Graph) else Graph.of(other)
        merged, marks = self.graph.merged(after)
        return Drawing(merged, Builder(Program(merged, Options(fold=False, marks=marks))).scene)

    def __str__(self) -> str:
        return str(self.graph)

    __repr__ = __str__

    def _repr_svg_(self) -> str | None:
        """For notebooks, which show the text where this is None."""
        try:
            svg = render(self.dot, "svg").decode()
            return svg.replace("<svg ", '<svg style="max-width: 100%; height: auto" ', 1)
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
    values: bool | str = False,
    cost: bool | Profile = False,
    depth: int | None = None,
    fold: bool = True,
    highlight: Iterable[Tensor | Node] = (),
    names: Mapping[str, Module] | None = None,
    direction: str = "TB",
    title: str = "",
) -> Drawing:
    """The drawing of what a Tensor was computed by. Of a model it is the architecture.

    what       a computed Tensor; a Module, to be called with `more`; a Graph, such as the one that an error carries, whose
               failed operation is drawn in red, with what does not fit; or the plan of a compiled step
    more       further Tensors; for a Module its example inputs
    backward   also the gradients of all leaves that require one: a rule beside each box, with its formula where it has a
               closed one, and what comes out of it; what several uses add to has a +
    fused      True: as fusion makes of it, each fused group one box with its formula; "both": before and after, side by side
    values     small arrays themselves; of larger ones, gradients too, the extremes, mean and deviation, share of zeros, NaN;
               "maps": also pictures of weights, inputs and results, small in the boxes, large on a page
    cost       bytes, FLOPs and measured time of every box, the more expensive the more orange; a Profile has the times of the
               operations while it was open
    depth      modules at this level as one box each, 0 being those at the top, and what lies above them unfolded, down to
               operations; None: modules that call no others are boxes, larger ones where there would be too many boxes
    fold       four or more equal blocks in a row as one with a count, more than forty operations in a row as at most some
               thirty regions, with what is in them and their share of the work, functions of several operations, such as
               conv2d or cross_entropy, as the one box that was written, parameters in the boxes that read them. On a page
               one goes into each of these, down to every operation. False: every operation and every leaf at once
    highlight  Tensors, or nodes, to be drawn in another colour
    names      what models are called where there are several: {"G": generator, "D": discriminator}
    direction  "TB", top to bottom, in columns where that is long; or "LR", left to right

    Parameters, inputs, constants, layers, operations and results have colours of their own; frames are the modules that made
    what is in them. Derivatives that were recorded (create_graph=True) are drawn by their rules, each order in its frame.

    Raises GraphError for a Tensor that was given, not computed, where a gradient can no longer be computed, and where what is
    asked for does not exist: values, or gradients, of a plan.
    """
    check_layout("draw.graph", direction, depth)
    if fused not in (True, False, "both"):
        raise ArgumentError(f'draw.graph: fused must be True, False or "both", got {fused!r}')
    if values not in (True, False, "maps"):
        raise ArgumentError(f'draw.graph: values must be True, False or "maps", got {values!r}')
    called = as_names(names)
    costs: Mapping[Node, Cost] | None = None
    notes: list[str] = []
    is_plan = isinstance(what, Plan)
    if isinstance(what, Plan):
        if values or backward:
            raise GraphError(
                f"draw.graph: a plan keeps no {'values' if values else 'graph to differentiate'}; draw what it was made of"
            )
        what, costs = what.costs()
    elif isinstance(cost, Profile):
        costs = cost.nodes
    outputs = traced(what, more)
    program = what if isinstance(what, Graph) else recorded(outputs)
    failed = any(node.dtype is None for node in program.nodes)
    if isinstance(cost, Profile) and not any(n in cost.nodes for n in program.nodes):
        notes.append("the profile has no times of these operations")
    if (failed or is_plan) and fused:
        notes.append("as it is: a plan is fused already" if is_plan else "as written: an operation has failed")
        fused = False
    red = frozenset((t.node or t) if isinstance(t, Tensor) else t for t in highlight)

    def known(as_fused: bool, measured: bool) -> Program:
        """The program, as it is or fused; the same where fusion changes nothing."""
        shown = program.fused() if as_fused else program
        if as_fused and not any(n.members for n in shown.nodes):
            return known_once(False, measured)
        options = Options(
            values=values_of(shown) if values else None, maps=values == "maps", cost=bool(cost),
            measured=measured or bool(cost), depth=depth, fold=fold, highlight=red, costs=costs, names=called,
            modules=not is_plan,
        )  # fmt: skip
        return Program(shown, options)

    known_once = cache(known)

    def scene(as_fused: bool, as_backward: bool, prefix: str = "", panel: str = "", measured: bool = False) -> Scene:
        builder = Builder(known_once(as_fused, measured), prefix, panel, formulas=not as_backward)
        if as_backward:
            if not outputs:
                raise GraphError(
                    "draw.graph: backward=True needs the Tensor itself, a Graph does not tell what to differentiate"
                )
            with switched(fusing=as_fused):
                found = gradients_of(program, outputs)
            add_backward(builder, found, None if failed else program.fused())
        return builder.scene

    def finished(made: Scene) -> Scene:
        made.title, made.direction = title, direction
        made.notes = [*made.notes, *notes]
        return made

    def views() -> dict[str, Scene]:
        """What a page shows: first what was asked for, then the others that there are."""
        wanted = {"forward": (False, False), "fused": (True, False), "backward": (True, True)}
        first = "both" if fused == "both" else "backward" if backward else "fused" if fused else "forward"
        found = {first: shown}
        if first == "backward":
            wanted["backward"] = (bool(fused), True)
        for name, (as_fused, as_backward) in wanted.items():
            if (as_fused or as_backward) and (is_plan or failed):
                continue
            with suppress(GraphError):  # nothing requires a gradient, or the graph has been let go of
                found[name] = finished(scene(as_fused, as_backward, measured=not failed))
        return found

    if fused == "both":
        shown = beside([scene(False, False, "a", "as written"), scene(True, backward, "b", "as fused")])
    else:
        shown = scene(bool(fused), backward)
    return Drawing(program, finished(shown), views)


def check_layout(where: str, direction: Any, depth: Any) -> None:
    if direction not in ("TB", "LR"):
        raise ArgumentError(f'{where}: direction must be "TB" or "LR", got {direction!r}')
    if depth is not None and (not isinstance(depth, (int, np.integer)) or depth < 0):
        raise ArgumentError(f"{where}: depth must be a whole number from 0 on, or None, got {depth!r}")


def as_names(names: Mapping[str, Module] | None) -> dict[Module, str]:
    """Model to its name."""
    if names is None:
        return {}
    if not isinstance(names, Mapping) or not all(isinstance(k, str) and isinstance(v, Module) for k, v in names.items()):
        raise ArgumentError(f"draw.graph: names must be a dict of name to Module, got {names!r}"[:200])
    return {module: name for name, module in names.items()}


def recorded(outputs: list[Tensor]) -> Graph:
    """The graph of some Tensors."""
    try:
        return Graph.of(*outputs)
    except GraphError as error:
        raise GraphError(f"draw.graph: {str(error).removeprefix('Graph: ')}") from None


def traced(what: Any, more: tuple[Any, ...]) -> list[Tensor]:
    """The Tensors to draw; none for a Graph."""
    if isinstance(what, Graph):
        if more:
            raise GraphError(f"draw.graph: a Graph, or a plan, is drawn by itself, got {len(more)} more")
        if not what.nodes:
            raise GraphError("draw.graph: there is nothing in this Graph")
        return []
    if isinstance(what, Module):
        modules = [module for _, module in what.named_modules()]
        with left_as_they_were(modules), switched(tracing=True, recording=True):
            result = what(*[as_input(a, "x" if len(more) == 1 else f"x{i}") for i, a in enumerate(more)])
        found = tensors_in(result)
        computed = [t for t in found if t.node is not None]  # what is handed on as it came is no part of it
        if not computed:
            raise GraphError(f"draw.graph: the model returned {shown_kind(result)}, expected Tensors that it has computed")
        return computed
    outputs = [what, *more]
    for i, t in enumerate(outputs):
        if not isinstance(t, Tensor):
            raise GraphError(f"draw.graph: argument {i} is of type {type(t).__name__}, expected a Tensor, a Graph or a Module")
    return outputs


def as_input(a: Any, name: str) -> Any:
    """An argument of a model: arrays as Tensors of that name, in tuples and lists, too; None and the like as they are."""
    if isinstance(a, (tuple, list)) and any(hasattr(part, "dtype") for part in a):
        return type(a)(as_input(part, f"{name}_{i}") for i, part in enumerate(a))
    if isinstance(a, (Tensor, str, bool)) or a is None:
        return a
    return Tensor(a, name=name)


def tensors_in(result: Any) -> list[Tensor]:
    """The Tensors that a model has returned, in tuples, lists and dicts, too."""
    if isinstance(result, Tensor):
        return [result]
    parts = result.values() if isinstance(result, Mapping) else result if isinstance(result, (tuple, list)) else ()
    return [t for part in parts for t in tensors_in(part)]


def shown_kind(result: Any) -> str:
    return "a Tensor that was given" if isinstance(result, Tensor) else f"a {type(result).__name__}"


def gradients_of(program: Graph, outputs: list[Tensor]) -> dict[Tensor, Tensor]:
    """The recorded gradient of every leaf that requires one."""
    leaves = [leaf for leaf in program.leaves if leaf.requires_grad]
    if not leaves:
        raise GraphError("draw.graph: backward=True, but nothing that was given requires a gradient")
    roots = [t for t in outputs if t.requires_grad]
    seeds = [Tensor(np.ones(t.shape, t.dtype), device=t.device, name="g") for t in roots]
    try:
        found = autograd.grad(roots, leaves, seeds, create_graph=True, allow_unused=True)
    except GraphError as error:
        raise GraphError(f"draw.graph: {error}") from error
    return {leaf: g for leaf, g in zip(leaves, found, strict=True) if g is not None}

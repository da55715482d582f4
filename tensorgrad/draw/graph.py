"""Drawings of computation graphs: as written, fused, with gradients, values and costs."""

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
from tensorgrad.draw.scene import Scene, side_by_side
from tensorgrad.draw.sources import arguments_in
from tensorgrad.draw.tikz import to_tikz
from tensorgrad.errors import ArgumentError, GraphError, MissingDependencyError
from tensorgrad.nn.module import Module
from tensorgrad.nn.trial import preserve_state

SUFFIXES = ("svg", "png", "pdf", "tex", "dot", "html")


class Drawing:
    """A drawing of a graph. Notebooks display it; `save` writes a file by its suffix.

    `print` shows the program as a table, without options such as values or marks.

    graph   the drawn Graph
    scene   its boxes, groups and arrows
    """

    def __init__(self, graph: Graph, scene: Scene, views: Callable[[], dict[str, Scene]] | None = None) -> None:
        self.graph, self.scene = graph, scene
        self._arguments = arguments_in(graph)  # keeps the arguments alive, with names and values, as long as the drawing
        self._views = views or (lambda: {"graph": scene})

    @property
    def dot(self) -> str:
        """DOT text, for Graphviz."""
        return to_dot(self.scene)

    def to_mermaid(self) -> str:
        """A flowchart as Mermaid text, for ```mermaid blocks in Markdown pages, as on GitHub."""
        return to_mermaid(self.scene)

    def save(self, path: str | Path) -> Path:
        """Write a .svg, .png, .pdf, .tex (a LaTeX document with one TikZ picture), .dot or .html file and return its path.

        Without Graphviz it writes a .dot file instead and raises MissingDependencyError, which says what to install. Raises
        ValueError for another suffix.
        """
        path = as_path(f"{type(self).__name__}.save", path)
        suffix = path.suffix.lower().removeprefix(".")
        if suffix not in SUFFIXES:
            raise ArgumentError(f"Drawing.save: expected a .svg, .png, .pdf, .tex, .dot or .html file, got {path.name!r}")
        if suffix == "dot":
            return write_file(path, self.dot.encode())
        try:
            if suffix in ("html", "tex"):
                content = (to_html(self._views()) if suffix == "html" else to_tikz(self.scene)).encode()
            else:
                content = render(self.dot, suffix)
        except MissingDependencyError as error:
            instead = write_file(path.with_suffix(".dot"), self.dot.encode())
            raise MissingDependencyError(f"{error}. Wrote {instead} instead") from None
        return write_file(path, content)

    def hash(self) -> str:
        """Equal for graphs that are the same program; see Graph.hash."""
        return self.graph.hash()

    def diff(self, other: Drawing | Graph | Tensor) -> Drawing:
        """Draw the changes from this graph to `other`: added (+), removed (−, dashed) and changed (~) operations.

        Operations are compared by their ordered operands, numbers and attributes.
        """
        after = other.graph if isinstance(other, Drawing) else other if isinstance(other, Graph) else Graph.of(other)
        merged, marks = self.graph.merged(after)
        return Drawing(merged, Builder(Program(merged, Options(fold=False, marks=marks))).scene)

    def __str__(self) -> str:
        return str(self.graph)

    __repr__ = __str__

    def _repr_svg_(self) -> str | None:
        """SVG for notebooks; None makes them show text."""
        try:
            svg = render(self.dot, "svg").decode()
            return svg.replace("<svg ", '<svg style="max-width: 100%; height: auto" ', 1)
        except Exception:  # must not raise an error in a notebook
            return None


def write_file(path: Path, content: bytes) -> Path:
    """Write a file and return its path."""
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
    """Draw the graph that computed a Tensor, or the architecture of a model.

    what       a computed Tensor; a Module, called with `more`; a Graph, such as that of an error, whose failed operation is
               red and shows the mismatch; or the plan of a compiled step
    more       further Tensors; for a Module its example inputs
    backward   include the gradients of all leaves that require one: a rule beside each box, with its closed formula if it has
               one, and its results; gradients summed from several uses have a +
    fused      True: after fusion, each fused group as one box with its formula; "both": before and after, side by side
    values     show small arrays, and of larger ones, including gradients, extremes, mean, deviation, fraction of zeros and NaN;
               "maps": also pictures of weights, inputs and results, small in boxes, large on a page
    cost       bytes, FLOPs and measured time of every box, in orange by cost; a Profile has the times of the operations
               profiled by it
    depth      draw modules at this level as one box each (0 is the top level) and unfold those above, down to operations; None:
               modules without submodules are boxes, or larger ones if there would be too many boxes
    fold       draw four or more equal consecutive blocks as one with a count, more than forty consecutive operations as at most
               some thirty regions with their contents and fraction of the work, functions of several operations, such as
               conv2d or cross_entropy, as one box, and parameters in the boxes that read them. On a page each of these can be
               opened, down to single operations. False: every operation and every leaf
    highlight  Tensors, or nodes, to draw in another colour
    names      names of models if there are several: {"G": generator, "D": discriminator}
    direction  "TB", top to bottom, with long drawings in columns; or "LR", left to right

    Parameters, inputs, constants, layers, operations and results have different colours; frames are the modules that computed
    their contents. Recorded derivatives (create_graph=True) are drawn as rules, each order in a frame.

    Raises GraphError for a Tensor that was not computed, for gradients that can no longer be computed, and for options that do
    not apply, such as values or gradients of a plan.
    """
    check_layout("draw.graph", direction, depth)
    if fused not in (True, False, "both"):
        raise ArgumentError(f'draw.graph: fused must be True, False or "both", got {fused!r}')
    if values not in (True, False, "maps"):
        raise ArgumentError(f'draw.graph: values must be True, False or "maps", got {values!r}')
    model_names = as_names(names)
    costs: Mapping[Node, Cost] | None = None
    notes: list[str] = []
    is_plan = isinstance(what, Plan)
    if isinstance(what, Plan):
        if values or backward:
            raise GraphError(
                f"draw.graph: a plan has no {'values' if values else 'graph to differentiate'}; draw its Tensors instead"
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
    highlighted = frozenset((t.node or t) if isinstance(t, Tensor) else t for t in highlight)

    def program_of(as_fused: bool, measured: bool) -> Program:
        """The program, fused or not; the same object if fusion changes nothing."""
        graph = program.fused() if as_fused else program
        if as_fused and not any(n.members for n in graph.nodes):
            return cached_program_of(False, measured)
        options = Options(
            values=values_of(graph) if values else None, maps=values == "maps", cost=bool(cost),
            measured=measured or bool(cost), depth=depth, fold=fold, highlight=highlighted, costs=costs, names=model_names,
            modules=not is_plan,
        )  # fmt: skip
        return Program(graph, options)

    cached_program_of = cache(program_of)

    def scene(as_fused: bool, as_backward: bool, prefix: str = "", panel: str = "", measured: bool = False) -> Scene:
        builder = Builder(cached_program_of(as_fused, measured), prefix, panel, formulas=not as_backward)
        if as_backward:
            if not outputs:
                raise GraphError(
                    "draw.graph: backward=True needs the Tensor itself, a Graph does not say what to differentiate"
                )
            with switched(fusing=as_fused):
                gradients = gradients_of(program, outputs)
            add_backward(builder, gradients, None if failed else program.fused())
        return builder.scene

    def finished(drawn: Scene) -> Scene:
        drawn.title, drawn.direction = title, direction
        drawn.notes = [*drawn.notes, *notes]
        return drawn

    def views() -> dict[str, Scene]:
        """The views of a page: the requested one first, then the other available ones."""
        available = {"forward": (False, False), "fused": (True, False), "backward": (True, True)}
        first = "both" if fused == "both" else "backward" if backward else "fused" if fused else "forward"
        scenes = {first: main_scene}
        if first == "backward":
            available["backward"] = (bool(fused), True)
        for name, (as_fused, as_backward) in available.items():
            if (as_fused or as_backward) and (is_plan or failed):
                continue
            with suppress(GraphError):  # nothing requires a gradient, or the graph has been freed
                scenes[name] = finished(scene(as_fused, as_backward, measured=not failed))
        return scenes

    if fused == "both":
        main_scene = side_by_side([scene(False, False, "a", "as written"), scene(True, backward, "b", "as fused")])
    else:
        main_scene = scene(bool(fused), backward)
    return Drawing(program, finished(main_scene), views)


def check_layout(where: str, direction: Any, depth: Any) -> None:
    if direction not in ("TB", "LR"):
        raise ArgumentError(f'{where}: direction must be "TB" or "LR", got {direction!r}')
    if depth is not None and (not isinstance(depth, (int, np.integer)) or depth < 0):
        raise ArgumentError(f"{where}: depth must be a non-negative integer, or None, got {depth!r}")


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
            raise GraphError(f"draw.graph: a Graph or a plan must be the only argument, got {len(more)} more")
        if not what.nodes:
            raise GraphError("draw.graph: this Graph is empty")
        return []
    if isinstance(what, Module):
        modules = [module for _, module in what.named_modules()]
        with preserve_state(modules), switched(tracing=True, recording=True):
            result = what(*[as_input(a, "x" if len(more) == 1 else f"x{i}") for i, a in enumerate(more)])
        tensors = tensors_in(result)
        computed = [t for t in tensors if t.node is not None]  # inputs returned unchanged are not drawn
        if not computed:
            raise GraphError(f"draw.graph: the model returned {kind_name(result)}, expected Tensors that it computed")
        return computed
    outputs = [what, *more]
    for i, t in enumerate(outputs):
        if not isinstance(t, Tensor):
            raise GraphError(f"draw.graph: argument {i} has type {type(t).__name__}, expected a Tensor, a Graph or a Module")
    return outputs


def as_input(a: Any, name: str) -> Any:
    """An argument of a model: arrays, also in tuples and lists, as Tensors of that name; other values unchanged."""
    if isinstance(a, (tuple, list)) and any(hasattr(part, "dtype") for part in a):
        return type(a)(as_input(part, f"{name}_{i}") for i, part in enumerate(a))
    if isinstance(a, (Tensor, str, bool)) or a is None:
        return a
    return Tensor(a, name=name)


def tensors_in(result: Any) -> list[Tensor]:
    """All Tensors in a model's result, also in tuples, lists and dicts."""
    if isinstance(result, Tensor):
        return [result]
    parts = result.values() if isinstance(result, Mapping) else result if isinstance(result, (tuple, list)) else ()
    return [t for part in parts for t in tensors_in(part)]


def kind_name(result: Any) -> str:
    return "a Tensor that was given" if isinstance(result, Tensor) else f"a {type(result).__name__}"


def gradients_of(program: Graph, outputs: list[Tensor]) -> dict[Tensor, Tensor]:
    """The recorded gradient of every leaf that requires one."""
    leaves = [leaf for leaf in program.leaves if leaf.requires_grad]
    if not leaves:
        raise GraphError("draw.graph: backward=True, but no argument requires a gradient")
    roots = [t for t in outputs if t.requires_grad]
    seeds = [Tensor(np.ones(t.shape, t.dtype), device=t.device, name="g") for t in roots]
    try:
        gradients = autograd.grad(roots, leaves, seeds, create_graph=True, allow_unused=True)
    except GraphError as error:
        raise GraphError(f"draw.graph: {error}") from error
    return {leaf: g for leaf, g in zip(leaves, gradients, strict=True) if g is not None}

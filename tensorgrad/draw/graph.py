"""The drawing of a computation graph: forward, fused groups, and the gradients when they were recorded."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import graphviz
import numpy as np

from tensorgrad import fusion
from tensorgrad.draw.render import render
from tensorgrad.graph import Graph
from tensorgrad.op import Node
from tensorgrad.tensor import Tensor

FONT = {"fontname": "Helvetica,Arial,sans-serif", "fontsize": "11"}
PARAMETER = {"shape": "box", "style": "filled,rounded", "fillcolor": "#fff3d6", "color": "#c98a00"}
INPUT = {"shape": "box", "style": "filled,rounded", "fillcolor": "#e3f0ff", "color": "#2f6fb5"}
OPERATION = {"shape": "box", "style": "filled", "fillcolor": "#ffffff", "color": "#444444"}
OUTPUT = {"shape": "box", "style": "filled,bold", "fillcolor": "#e4f6e4", "color": "#2e8540"}
FAILED = {"shape": "box", "style": "filled,bold", "fillcolor": "#ffd9d9", "color": "#c00000", "fontcolor": "#800000"}
FUSED = {"style": "filled,rounded", "fillcolor": "#f3ecff", "color": "#7a4fc0", "fontcolor": "#4b2a85", "fontsize": "11"}
RULE = {"shape": "box", "style": "filled,rounded", "fillcolor": "#ffeeee", "color": "#c04f4f", "fontcolor": "#852a2a"}


class Drawing:
    """A drawing of a graph: `save(path)` by suffix, `dot` is its DOT text, and a notebook shows it."""

    def __init__(self, dot: str) -> None:
        self.dot = dot

    def save(self, path: str | Path) -> Path:
        """Write a .svg, .png, .pdf or .dot file and return its path. Raises MissingDependencyError without Graphviz."""
        path = Path(path)
        suffix = path.suffix.lower().removeprefix(".")
        if suffix not in ("svg", "png", "pdf", "dot"):
            raise ValueError(f"Drawing.save: expected a .svg, .png, .pdf or .dot file, got {path.name!r}")
        content = self.dot.encode() if suffix == "dot" else render(self.dot, suffix)
        path.write_bytes(content)
        return path

    def _repr_svg_(self) -> str:
        return render(self.dot, "svg").decode()


def graph(
    loss: Tensor | Graph,
    gradients: dict[str, Tensor] | None = None,
    *,
    title: str = "",
    highlight: Iterable[Tensor | Node] = (),
) -> Drawing:
    """The drawing of what `loss` was computed by; or of a Graph, such as the one an error carries, with what failed in red.

    gradients  name to gradient, recorded by `tensorgrad.grad(..., create_graph=True)`: the backward pass is drawn beside the
               forward one, upwards, a box for each (fused) op's rule
    highlight  Tensors, or nodes, to be drawn in red

    Parameters, inputs and results have colours of their own. What fusion takes as one op stands in one purple box;
    the red box beside it has the formula that its gradients are computed by.
    """
    named = dict(gradients or {})
    g = loss if isinstance(loss, Graph) else Graph.of(loss, *named.values())
    end = g.outputs[0]
    names = g.leaf_names()
    forward = [n for n in g.nodes if n.gradient_of is None]
    groups = fusion.match(forward[::-1])
    red = {t.node or t if isinstance(t, Tensor) else t for t in highlight}
    inside = {member: last for last, use in groups.items() for member in use.members}

    dot = graphviz.Digraph(graph_attr={"rankdir": "TB", "nodesep": "0.3", "ranksep": "0.4", **FONT})
    dot.attr("node", height="0.3", margin="0.12,0.06", **FONT)
    dot.attr("edge", color="#666666", arrowsize="0.7", fontname=FONT["fontname"], fontsize="9", fontcolor="#666666")
    if title:
        dot.attr(label=graphviz.escape(title), labelloc="t", fontsize="15")

    ids: dict[Any, str] = {}
    clusters: dict[Node | None, list[Node]] = {}
    for node in forward:
        clusters.setdefault(inside.get(node), []).append(node)
    for last, nodes in clusters.items():
        if last is None:
            for node in nodes:
                draw_node(dot, ids, node, node is end, node in red)
            continue
        with dot.subgraph(name=f"cluster_{len(ids)}") as box:
            box.attr(label=left(f"fused: {groups[last].op.name}"), **FUSED)
            for node in nodes:
                draw_node(box, ids, node, node is end, node in red)

    for node in forward:
        for source in node.inputs:
            if isinstance(source, Tensor) and source not in ids:
                ids[source] = f"leaf{len(ids)}"
                look = FAILED if source in red else PARAMETER if source.requires_grad else INPUT
                dot.node(ids[source], label(names[source], described(source)), **look)
            if isinstance(source, (Node, Tensor)):
                dot.edge(ids[source], ids[node], label=graphviz.escape(shape_of(source)))
    draw_backward(dot, ids, [n for n in g.nodes if n.gradient_of is not None], named)
    return Drawing(dot.source)


def draw_backward(dot: Any, ids: dict[Any, str], nodes: list[Node], gradients: dict[str, Tensor]) -> None:
    """The backward pass: one box for what one rule made, at the height of the op that the rule belongs to."""
    rules = {node: f"rule{list(ids).index(forward_end(node.gradient_of))}" for node in nodes if node.gradient_of}
    made = {rules[node]: node.gradient_of for node in nodes if node.gradient_of}
    for rule, use in made.items():
        lines = [f"gradient of {use.op.name}", *use.op.formula("backward").splitlines()]
        dot.node(rule, "".join(left(line) for line in lines), **RULE)
        dot.edge(ids[forward_end(use)], rule, style="dashed", arrowhead="none", minlen="0", color="#c04f4f")
        results = [f"{name}  {described(t)}" for name, t in gradients.items() if t.node and rules.get(t.node) == rule]
        if results:
            dot.node(f"{rule}r", left("gradients") + "".join(left(line) for line in results), **OUTPUT)
            dot.edge(rule, f"{rule}r", minlen="0", color="#2e8540")
    flows = {(rules[s], rules[n]): s for n in nodes for s in n.inputs if s in rules and rules[s] != rules[n]}
    for (later, earlier), g in flows.items():
        # drawn upwards: the rule of the earlier op stands above, and the gradient comes to it from below
        dot.edge(earlier, later, dir="back", color="#c04f4f", label=graphviz.escape(f"g {shape_of(g)}"))


def forward_end(use: Node) -> Node:
    """The recorded node that `use`, fused or not, ends with."""
    return use.members[0] if use.members else use


def draw_node(dot: Any, ids: dict[Any, str], node: Node, is_end: bool, is_red: bool) -> None:
    """One operation as a box: its symbol, the numbers it was given, its result's shape; in red if it has failed."""
    ids[node] = f"op{len(ids)}"
    numbers = [f"{s:g}" for s in node.inputs if not isinstance(s, (Node, Tensor))]
    name = " ".join([node.op.symbol or node.op.name, *numbers])
    if node.dtype is None:
        dot.node(ids[node], label(name, "failed"), **FAILED)
        return
    result = ["loss"] * (is_end and not node.shape)
    dot.node(ids[node], label(name, *result, described(node)), **(FAILED if is_red else OUTPUT if is_end else OPERATION))


def label(*lines: str) -> str:
    """The lines of a box, one under the other."""
    return "\\n".join(str(graphviz.escape(line)) for line in lines)


def left(line: str) -> str:
    """A line of a box's heading, at its left side."""
    return str(graphviz.escape(line)) + "\\l"


def shape_of(value: Any) -> str:
    return "×".join(map(str, value.shape)) or "scalar"


def described(value: Any) -> str:
    """Shape, and the dtype where it is not float32."""
    return shape_of(value) + ("" if value.dtype == np.float32 else f" {value.dtype}")

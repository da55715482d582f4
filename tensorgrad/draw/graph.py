"""The drawing of a computation graph: forward, fused groups, and the gradients when they were recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import graphviz
import numpy as np

from tensorgrad import fusion
from tensorgrad.draw.render import render
from tensorgrad.graph import Graph, constant
from tensorgrad.op import Node
from tensorgrad.tensor import Tensor

FONT = {"fontname": "Helvetica,Arial,sans-serif", "fontsize": "11"}
PARAMETER = {"shape": "box", "style": "filled,rounded", "fillcolor": "#fff3d6", "color": "#c98a00"}
INPUT = {"shape": "box", "style": "filled,rounded", "fillcolor": "#e3f0ff", "color": "#2f6fb5"}
CONSTANT = {"shape": "box", "style": "filled", "fillcolor": "#f4f4f4", "color": "#999999"}
OPERATION = {"shape": "box", "style": "filled", "fillcolor": "#ffffff", "color": "#444444"}
OUTPUT = {"shape": "box", "style": "filled,bold", "fillcolor": "#e4f6e4", "color": "#2e8540"}
FUSED = {"style": "filled,rounded", "fillcolor": "#f3ecff", "color": "#7a4fc0", "fontcolor": "#4b2a85"}
BACKWARD = {"style": "filled,rounded", "fillcolor": "#ffeeee", "color": "#c04f4f", "fontcolor": "#852a2a"}


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


def graph(loss: Tensor, gradients: dict[str, Tensor] | None = None, *, title: str = "") -> Drawing:
    """The drawing of what `loss` was computed by.

    gradients  name to gradient, recorded by `tensorgrad.grad(..., create_graph=True)`: their computation is drawn too

    Parameters, inputs, constants and results have colours of their own. What fusion takes as one op is in one purple box with
    its formula; what the rule of one (fused) op made in the backward pass is in one red box.
    """
    named = dict(gradients or {})
    g = Graph.of(loss, *named.values())
    names = g.leaf_names()
    groups = fusion.match([n for n in reversed(g.nodes) if n.gradient_of is None])
    inside = {member: end for end, use in groups.items() for member in use.members}
    results = {loss.node: "loss"} | {t.node: f"gradient of {name}" for name, t in named.items()}

    dot = graphviz.Digraph(graph_attr={"rankdir": "TB", "nodesep": "0.25", "ranksep": "0.35", "compound": "true", **FONT})
    dot.attr("node", height="0.3", margin="0.12,0.06", **FONT)
    dot.attr("edge", color="#666666", arrowsize="0.7", fontname=FONT["fontname"], fontsize="9", fontcolor="#666666")
    if title:
        dot.attr(label=graphviz.escape(title), labelloc="t", fontsize="15")

    ids: dict[Any, str] = {}
    for leaf, name in names.items():
        ids[leaf] = f"leaf{len(ids)}"
        look = PARAMETER if leaf.requires_grad else INPUT
        dot.node(ids[leaf], label(name, described(leaf)), **look)

    clusters: dict[Any, list[Node]] = {}
    for node in g.nodes:
        clusters.setdefault(node.gradient_of or inside.get(node) or None, []).append(node)
    for i, (key, nodes) in enumerate(clusters.items()):
        if key is None:
            for node in nodes:
                draw_node(dot, ids, node, results)
            continue
        backward = nodes[0].gradient_of is not None
        op = key.op if backward else groups[key].op
        heading = f"gradient of {op.name}" if backward else f"fused: {op.name}"
        with dot.subgraph(name=f"cluster{i}") as box:
            lines = op.formula("backward").splitlines()
            box.attr(label=f"{left(heading)}{''.join(left(line) for line in lines)}", **(BACKWARD if backward else FUSED))
            for node in nodes:
                draw_node(box, ids, node, results)

    for node in g.nodes:
        for i, source in enumerate(node.inputs):
            if isinstance(source, (Node, Tensor)):
                dot.edge(ids[source], ids[node], label=graphviz.escape(shape_of(source)))
            elif np.shape(source):
                name = f"{ids[node]}c{i}"
                dot.node(name, label("constant", described(source)), **CONSTANT)
                dot.edge(name, ids[node])
    return Drawing(dot.source)


def draw_node(dot: Any, ids: dict[Any, str], node: Node, results: dict[Node | None, str]) -> None:
    """One operation as a box: its symbol, the numbers it was given, its result's shape."""
    ids[node] = f"op{len(ids)}"
    numbers = [constant(s) for s in node.inputs if not isinstance(s, (Node, Tensor)) and not np.shape(s)]
    name = " ".join([node.op.symbol or node.op.name, *numbers])
    lines = [name, described(node)] + ([results[node]] if node in results else [])
    dot.node(ids[node], label(*lines), **(OUTPUT if node in results else OPERATION))


def label(*lines: str) -> str:
    return "\\n".join(graphviz.escape(line) for line in lines)


def left(line: str) -> str:
    """A line of a box's heading, at its left side."""
    return graphviz.escape(line) + "\\l"


def shape_of(value: Any) -> str:
    return "×".join(map(str, value.shape)) or "scalar"


def described(value: Any) -> str:
    """Shape, and the dtype where it is not float32."""
    return shape_of(value) + ("" if value.dtype == np.float32 else f" {value.dtype}")

"""A scene as DOT text, for Graphviz."""

from __future__ import annotations

from typing import Any

import graphviz

from tensorgrad.core.table import visible
from tensorgrad.draw.scene import Box, Scene

FONT = {"fontname": "Helvetica,Arial,sans-serif", "fontsize": "11"}
LOOKS = {
    "parameter": {"style": "filled,rounded", "fillcolor": "#fff3d6", "color": "#c98a00"},
    "input": {"style": "filled,rounded", "fillcolor": "#e3f0ff", "color": "#2f6fb5"},
    "constant": {"style": "filled,rounded,dashed", "fillcolor": "#f4f4f4", "color": "#888888"},
    "op": {"style": "filled", "fillcolor": "#ffffff", "color": "#444444"},
    "output": {"style": "filled,bold", "fillcolor": "#e4f6e4", "color": "#2e8540"},
    "fused": {"style": "filled,rounded", "fillcolor": "#f3ecff", "color": "#7a4fc0", "fontcolor": "#4b2a85"},
    "fold": {"style": "filled,bold", "fillcolor": "#eef1f4", "color": "#5b6b7b"},
    "rule": {"style": "filled,rounded", "fillcolor": "#ffeeee", "color": "#c04f4f", "fontcolor": "#852a2a"},
    "gradients": {"style": "filled,bold", "fillcolor": "#e4f6e4", "color": "#2e8540"},
    "failed": {"style": "filled,bold", "fillcolor": "#ffd9d9", "color": "#c00000", "fontcolor": "#800000"},
}
MARKS = {
    "highlight": {"fillcolor": "#ffd9d9", "color": "#c00000", "fontcolor": "#800000", "penwidth": "2"},
    "added": {"fillcolor": "#d9f5dc", "color": "#1a7f37", "penwidth": "2"},
    "removed": {"fillcolor": "#ffe0de", "color": "#c00000", "fontcolor": "#800000", "penwidth": "2", "style": "filled,dashed"},
    "changed": {"fillcolor": "#fff2b8", "color": "#9a6700", "penwidth": "2"},
}
EDGES = {
    "forward": {},
    "gradient": {"color": "#c04f4f", "dir": "back"},
    "rule": {"style": "dashed", "arrowhead": "none", "minlen": "0", "color": "#c04f4f"},
    "result": {"minlen": "0", "color": "#2e8540"},
    "repeat": {"style": "dashed", "constraint": "false", "color": "#5b6b7b"},
}
MANY = 120  # boxes beyond which the layout is told to hurry


def to_dot(scene: Scene) -> str:
    """DOT text of a scene: nested clusters for its groups, colours for its kinds."""
    settings = {"rankdir": scene.direction, "nodesep": "0.3", "ranksep": "0.4", "newrank": "true", **FONT}
    if len(scene.boxes) > MANY:
        # 2,000 boxes with long arrows take minutes otherwise
        settings |= {"nslimit": "1", "nslimit1": "1", "maxiter": "200", "mclimit": "0.1", "splines": "line"}
    dot = graphviz.Digraph(graph_attr=settings)
    dot.attr("node", shape="box", height="0.3", margin="0.12,0.06", **FONT)
    dot.attr("edge", color="#666666", arrowsize="0.7", fontname=FONT["fontname"], fontsize="9", fontcolor="#666666")
    caption = [scene.title] * bool(scene.title) + scene.notes
    if caption:
        dot.attr(label="".join(escaped(line) + "\\n" for line in caption), labelloc="t", fontsize="13")
    draw_groups(dot, scene, (), list(scene.boxes.values()))
    for edge in scene.edges:
        look: dict[str, str] = dict(EDGES[edge.kind])
        source, target = edge.source, edge.target
        if edge.kind == "gradient":  # drawn upwards: the rule of the earlier op stands above
            source, target = target, source
        if edge.label:
            look["label"] = graphviz.nohtml(escaped(edge.label))
        dot.edge(source, target, **look)
    return str(dot.source)


def draw_groups(dot: Any, scene: Scene, path: tuple[str, ...], boxes: list[Box]) -> None:
    """The boxes that lie directly in a group, and a cluster for every group inside it."""
    inner: dict[str, list[Box]] = {}
    for box in boxes:
        if len(box.group) > len(path):
            inner.setdefault(box.group[len(path)], []).append(box)
        else:
            draw_box(dot, box)
    for key, members in inner.items():
        with dot.subgraph(name=f"cluster_{key}") as cluster:
            label = scene.groups[key]
            repeat = label.startswith("×")
            colour = "#5b6b7b" if repeat else "#b5b5b5"
            style = "rounded,bold" if repeat else "rounded"
            cluster.attr(
                label=escaped(label) + "\\l", style=style, color=colour, fontcolor=colour if repeat else "#777777", **FONT
            )
            draw_groups(cluster, scene, (*path, key), members)


def draw_box(dot: Any, box: Box) -> None:
    look = LOOKS[box.kind] | MARKS.get(box.mark, {})
    if box.heat is not None and not box.mark:
        look |= {"fillcolor": heat_colour(box.heat)}
    end = "\\l" if box.left else "\\n"
    lines = [escaped(line) for line in box.lines]
    dot.node(box.id, graphviz.nohtml(end.join(lines) + (end if box.left else "")), **look)


def heat_colour(share: float) -> str:
    """White for nothing, orange for the most expensive."""
    red, green, blue = (round(255 - share**0.6 * (255 - c)) for c in (255, 150, 60))
    return f"#{red:02x}{green:02x}{blue:02x}"


def escaped(text: str) -> str:
    """Text in which Graphviz finds nothing to interpret."""
    return str(graphviz.escape(visible(text).replace("&", "&amp;")))  # it reads entities, as HTML does

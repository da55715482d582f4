"""Writes a scene as DOT text, for Graphviz."""

from __future__ import annotations

import html
from typing import Any

import graphviz

from tensorgrad.core.table import visible
from tensorgrad.draw.colours import heat_colour, look_of
from tensorgrad.draw.columns import breaks
from tensorgrad.draw.heat import CELL, cell_colour
from tensorgrad.draw.maths import GREEK, pieces
from tensorgrad.draw.scene import Box, Scene

FONT = {"fontname": "Helvetica,Arial,sans-serif", "fontsize": "11"}
EDGES = {
    "forward": {},
    "gradient": {"color": "#c04f4f", "dir": "back"},
    "rule": {"style": "dashed", "arrowhead": "none", "minlen": "0", "color": "#c04f4f"},
    "result": {"minlen": "0", "color": "#5b8f1f"},
    "repeat": {"style": "dashed", "constraint": "false", "color": "#4b5b6b"},
}
SMALL = '<SUB><FONT POINT-SIZE="8">%s</FONT></SUB>'  # larger ones overlap the line below
MANY = 120  # number of boxes above which a faster layout is requested


def to_dot(scene: Scene) -> str:
    """DOT text of a scene: groups as nested clusters, kinds as colours, long programs in several columns."""
    settings = {"rankdir": scene.direction, "nodesep": "0.12", "ranksep": "0.18", "newrank": "true", **FONT}
    if len(scene.boxes) > MANY:
        # without it 2,000 boxes with long arrows take minutes
        settings |= {"nslimit": "1", "nslimit1": "1", "maxiter": "200", "mclimit": "0.1", "splines": "line"}
    dot = graphviz.Digraph(graph_attr=settings)
    dot.attr("node", shape="box", height="0.25", margin="0.08,0.04", **FONT)
    dot.attr("edge", color="#555555", arrowsize="0.6", fontname=FONT["fontname"], fontsize="10", fontcolor="#444444")
    if caption := scene.caption():
        dot.attr(label="".join(escaped(line) + "\\n" for line in caption), labelloc="t", fontsize="12")
    column = breaks(scene)
    draw_groups(dot, scene, (), list(scene.boxes.values()))
    for box in scene.boxes.values():  # boxes of a lane are aligned; with many, Graphviz finds no layout
        if len(scene.boxes) <= MANY and box.kind not in ("input", "gradients"):
            dot.node(box.id, group=f"{column.get(box.id, 0)}{'rule' if box.kind == 'rule' else ''}")
    for edge in scene.edges:
        look: dict[str, str] = dict(EDGES[edge.kind])
        source, target = edge.source, edge.target
        if edge.kind == "gradient":  # drawn upwards: the rule of the earlier op is above
            source, target = target, source
        if edge.label:
            look["label"] = f"<{in_html(edge.label, True)}>" if scene.paper else graphviz.nohtml(escaped(edge.label))
        if column.get(source, 0) != column.get(target, 0):
            look["constraint"] = "false"
        dot.edge(source, target, **look)
    for number in range(1, max(column.values(), default=0) + 1):
        tops = [top_of(column, scene, n) for n in (number - 1, number)]
        dot.body.append(f"\t{{rank=same; {tops[0]}; {tops[1]}}}\n")
        dot.edge(*tops, style="invis", constraint="true", minlen="0")
    return str(dot.source)


def top_of(column: dict[str, int], scene: Scene, number: int) -> str:
    """The first box of a column."""
    return next(key for key in scene.boxes if column.get(key) == number and scene.boxes[key].kind not in ("rule", "gradients"))


def draw_groups(dot: Any, scene: Scene, path: tuple[str, ...], boxes: list[Box]) -> None:
    """Add the boxes of a group, and a cluster for each inner group."""
    inner: dict[str, list[Box]] = {}
    for box in boxes:
        if len(box.group) > len(path):
            inner.setdefault(box.group[len(path)], []).append(box)
        else:
            draw_box(dot, box, scene.paper)
    for key, members in inner.items():
        with dot.subgraph(name=f"cluster_{key}") as cluster:
            repeat = key in scene.repeats
            colour = "#4b5b6b" if repeat else "#aaaaaa"
            cluster.attr(
                label=escaped(scene.groups[key]) + "\\l", style="rounded,bold" if repeat else "rounded", color=colour,
                fontcolor=colour if repeat else "#666666", margin="6", **FONT,
            )  # fmt: skip
            draw_groups(cluster, scene, (*path, key), members)


def draw_box(dot: Any, box: Box, paper: bool) -> None:
    look = look_of(box.kind, box.mark, paper)
    fill = heat_colour(box.heat) if box.heat is not None and not box.mark else look.fill
    style = ",".join(["filled", *["rounded"] * look.round, *["bold"] * look.bold, *["dashed"] * look.dashed])
    end = "\\l" if box.left else "\\n"
    lines = [escaped(line) for line in box.text]
    text = graphviz.nohtml(end.join(lines) + (end if box.left else ""))
    if paper:
        html_lines = [in_html(line, box.has_names(line)) for line in box.text]
        ends = '<BR ALIGN="LEFT"/>' if box.left else "<BR/>"
        text = f"<{ends.join(html_lines)}{ends * box.left}>"
    if box.maps:
        text = f"<{with_maps(box, [in_html(line, paper and box.has_names(line)) for line in box.text])}>"
    dot.node(box.id, text, style=style, fillcolor=fill, color=look.line, fontcolor=look.ink)


def with_maps(box: Box, lines: list[str]) -> str:
    """A table of the lines, the pictures below them, and their captions."""
    maps = [small for small, _ in box.maps]
    plain = 'BORDER="0" CELLBORDER="0" CELLSPACING="0" CELLPADDING="0"'
    cells = ""
    for picture in maps:
        rows = "".join(f"<TR>{''.join(map(cell, row))}</TR>" for row in picture.cells)
        size = f'WIDTH="{CELL * len(picture.cells[0])}" HEIGHT="{CELL * len(picture.cells)}" FIXEDSIZE="TRUE"'
        cells += f'<TD CELLPADDING="3"><TABLE {plain} {size}>{rows}</TABLE></TD>'
    captions = "".join(
        f'<TD CELLPADDING="2"><FONT POINT-SIZE="8">{html.escape(visible(picture.caption))}</FONT></TD>' for picture in maps
    )
    text = f'<TR><TD COLSPAN="{len(maps)}">{"<BR/>".join(lines)}</TD></TR>'
    return f"<TABLE {plain}>{text}<TR>{cells}</TR><TR>{captions}</TR></TABLE>"


def cell(value: float | None) -> str:
    colour = f' BGCOLOR="{cell_colour(value)}"' if value is not None else ""
    return f'<TD WIDTH="{CELL}" HEIGHT="{CELL}" FIXEDSIZE="TRUE"{colour}></TD>'


def in_html(text: str, names: bool) -> str:
    """An HTML-like label with letters in italics and subscripts."""
    parts = []
    for upright, letter, index in pieces(visible(text), names):
        parts.append(html.escape(upright))
        if letter:
            parts.append(f"<I>{GREEK.get(letter, letter)}</I>" + (SMALL % html.escape(index) if index else ""))
    return "".join(parts)


def escaped(text: str) -> str:
    """Text escaped for Graphviz."""
    return str(graphviz.escape(visible(text).replace("&", "&amp;")))  # it also decodes entities

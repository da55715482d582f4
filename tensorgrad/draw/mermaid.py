"""Writes a scene as Mermaid text, which Markdown pages can display."""

from __future__ import annotations

from tensorgrad.core.table import visible
from tensorgrad.draw.colours import heat_colour, look_of
from tensorgrad.draw.scene import Box, Scene


def to_mermaid(scene: Scene) -> str:
    """A flowchart with a subgraph for each group; notes and legend are boxes at the end."""
    lines = ["---", f'title: "{escaped(scene.title)}"', "---"] if scene.title else []
    lines.append(f"flowchart {scene.direction}")
    groups(lines, scene, (), list(scene.boxes.values()), "    ")
    for edge in scene.edges:
        arrow = "-.-" if edge.kind == "rule" else "-.->" if edge.kind == "repeat" else "-->"
        label = f'|"{escaped(edge.label)}"|' if edge.label else ""
        lines.append(f"    {edge.source} {arrow}{label} {edge.target}")
    remarks = [*scene.notes, *(meaning for _, meaning in scene.legend())]
    if remarks:
        lines.append('    notes["' + "<br>".join(map(escaped, remarks)) + '"]:::notes')
        lines.append("    classDef notes fill:none,stroke:none")
    for kind, mark in dict.fromkeys((box.kind, box.mark) for box in scene.boxes.values()):
        look = look_of(kind, mark)
        style = f"fill:{look.fill},stroke:{look.line},color:{look.ink}"
        style += ",stroke-width:2px" * look.bold + ",stroke-dasharray:5 3" * look.dashed
        line = f"    classDef {mark or kind} {style}"
        if line not in lines:
            lines.append(line)
    for box in scene.boxes.values():
        if box.heat is not None and not box.mark:
            lines.append(f"    style {box.id} fill:{heat_colour(box.heat)}")
    return "\n".join(lines) + "\n"


def groups(lines: list[str], scene: Scene, path: tuple[str, ...], boxes: list[Box], indent: str) -> None:
    inner: dict[str, list[Box]] = {}
    for box in boxes:
        if len(box.group) > len(path):
            inner.setdefault(box.group[len(path)], []).append(box)
            continue
        text = "<br>".join(escaped(line) for line in box.text)
        left, right = ("([", "])") if box.kind in ("parameter", "input", "constant") else ("[", "]")
        lines.append(f'{indent}{box.id}{left}"{text}"{right}:::{box.mark or box.kind}')
    for i, (key, members) in enumerate(inner.items()):
        name = "_".join(["g", *[str(len(path)), str(i)], members[0].id])
        lines.append(f'{indent}subgraph {name}["{escaped(scene.groups[key])}"]')
        groups(lines, scene, (*path, key), members, indent + "    ")
        lines.append(f"{indent}end")


def escaped(text: str) -> str:
    """Text escaped for Mermaid: everything but letters, digits and plain punctuation as entities."""
    return "".join(c if c.isalnum() or c in " .,:+-=()/×_…" else f"#{ord(c)};" for c in visible(text))

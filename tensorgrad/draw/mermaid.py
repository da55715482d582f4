"""A scene as Mermaid text, which Markdown pages draw by themselves."""

from __future__ import annotations

from tensorgrad.core.table import visible
from tensorgrad.draw.scene import Box, Scene

CLASSES = {
    "parameter": "fill:#fff3d6,stroke:#c98a00,color:#000",
    "input": "fill:#e3f0ff,stroke:#2f6fb5,color:#000",
    "constant": "fill:#f4f4f4,stroke:#888,color:#000",
    "output": "fill:#e4f6e4,stroke:#2e8540,color:#000",
    "fused": "fill:#f3ecff,stroke:#7a4fc0,color:#4b2a85",
    "fold": "fill:#eef1f4,stroke:#5b6b7b,color:#000",
    "rule": "fill:#ffeeee,stroke:#c04f4f,color:#852a2a",
    "gradients": "fill:#e4f6e4,stroke:#2e8540,color:#000",
    "failed": "fill:#ffd9d9,stroke:#c00000,color:#800000",
}


def to_mermaid(scene: Scene) -> str:
    """A flowchart with a subgraph for every group."""
    lines = [f"flowchart {scene.direction}"]
    groups(lines, scene, (), list(scene.boxes.values()), "    ")
    for edge in scene.edges:
        arrow = "-.->" if edge.kind in ("rule", "repeat") else "-->"
        label = f'|"{escaped(edge.label)}"|' if edge.label else ""
        lines.append(f"    {edge.source} {arrow}{label} {edge.target}")
    for kind in dict.fromkeys(box.kind for box in scene.boxes.values()):
        if kind in CLASSES:
            lines.append(f"    classDef {kind} {CLASSES[kind]}")
    return "\n".join(lines) + "\n"


def groups(lines: list[str], scene: Scene, path: tuple[str, ...], boxes: list[Box], indent: str) -> None:
    inner: dict[str, list[Box]] = {}
    for box in boxes:
        if len(box.group) > len(path):
            inner.setdefault(box.group[len(path)], []).append(box)
            continue
        text = "<br>".join(escaped(line) for line in box.lines)
        left, right = ("([", "])") if box.kind in ("parameter", "input", "constant") else ("[", "]")
        kind = f":::{box.kind}" if box.kind in CLASSES else ""
        lines.append(f'{indent}{box.id}{left}"{text}"{right}{kind}')
    for i, (key, members) in enumerate(inner.items()):
        name = "_".join(["g", *[str(len(path)), str(i)], members[0].id])
        lines.append(f'{indent}subgraph {name}["{escaped(scene.groups[key])}"]')
        groups(lines, scene, (*path, key), members, indent + "    ")
        lines.append(f"{indent}end")


def escaped(text: str) -> str:
    """Text in which Mermaid finds nothing to interpret: everything but letters, digits and plain signs as entities."""
    return "".join(c if c.isalnum() or c in " .,:+-=()/×_…" else f"#{ord(c)};" for c in visible(text))

"""Scenes as one HTML page that needs nothing else: zoom and pan, folding, search, facts beside the drawing.

Graphviz lays the boxes out here; page.html, beside this file, draws them and folds them in the reader's browser, where
dagre.js (MIT licence, in its head) lays out what is left.
"""

from __future__ import annotations

from importlib import resources
from typing import Any

from tensorgrad.core.table import visible
from tensorgrad.draw.colours import KINDS, MARKS, blended, heat_colour
from tensorgrad.draw.heat import BAD, NEGATIVE, POSITIVE, percent
from tensorgrad.draw.place import Rectangle, ends_of, place
from tensorgrad.draw.scene import Scene
from tensorgrad.draw.template import filled


def to_html(views: dict[str, Scene]) -> str:
    """A page with one view for each scene; its first one is shown first. Raises MissingDependencyError without Graphviz."""
    data = all_visible({name: laid_out(scene) for name, scene in views.items()})
    dagre = resources.files("tensorgrad.draw").joinpath("dagre.js").read_text("utf-8")
    return filled("tensorgrad.draw", "page.html", data, COLOURS=styles(), DAGRE=dagre)


def styles() -> str:
    """Rules for the colours of boxes, on white and, where the reader's system is dark, on black."""
    light, dark = [], []
    for key, look in {**KINDS, **MARKS}.items():
        more = "; stroke-width: 2" * look.bold + "; stroke-dasharray: 5 3" * look.dashed
        light.append(f".box.{key} rect {{ fill: {look.fill}; stroke: {look.line}{more} }}")
        light.append(f".box.{key} text {{ fill: {look.ink} }}")
        paper = blended(look.line, "#14171a", 0.35)
        dark.append(f".box.{key} rect {{ fill: {paper}; stroke: {look.fill} }} .box.{key} text {{ fill: var(--ink) }}")
    ends = f":root {{ --negative: {NEGATIVE}; --positive: {POSITIVE}; --bad: {BAD}; }}"
    return "\n".join([ends, *light, "@media (prefers-color-scheme: dark) {", *dark, "}"])


def all_visible(nest: Any) -> Any:
    """The same with every text in it as it is shown."""
    if isinstance(nest, dict):
        return {key: all_visible(value) for key, value in nest.items()}
    if isinstance(nest, list):
        return [all_visible(value) for value in nest]
    return visible(nest) if isinstance(nest, str) else nest


def laid_out(scene: Scene) -> dict[str, Any]:
    """The scene with Graphviz's coordinates, in points, y downwards."""
    placed = place(scene)
    groups = [
        {"key": key, "label": scene.groups[key], "repeat": key in scene.repeats, **rectangle(where)}
        for key, where in placed.groups.items()
    ]
    boxes = [
        {
            "id": box.id, "kind": box.kind, "lines": box.text, "group": list(box.group), "facts": box.facts,
            "mark": box.mark, "left": box.left, "round": KINDS[box.kind].round,
            "maps": [[{"caption": m.caption, "cells": percent(m.cells)} for m in pair] for pair in box.maps],
            "heat": None if box.heat is None else heat_colour(box.heat), **rectangle(placed.boxes[box.id]),
        }
        for box in scene.boxes.values()
    ]  # fmt: skip
    edges = []
    for edge, points, at in placed.edges:
        source, target = ends_of(edge)
        made: dict[str, Any] = {"source": source, "target": target, "kind": edge.kind, "label": edge.label, "points": points}
        edges.append({**made, "at": at} if at else made)
    return {"width": placed.width, "height": placed.height, "boxes": boxes, "groups": groups, "edges": edges,
            "title": scene.title, "notes": scene.notes, "legend": [list(pair) for pair in scene.legend()]}  # fmt: skip


def rectangle(where: Rectangle) -> dict[str, float]:
    return dict(zip("xywh", where, strict=True))

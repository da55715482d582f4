"""Writes scenes as one self-contained HTML page: zoom and pan, folding, search, facts beside the drawing.

Graphviz computes the layout here; page.html draws it and folds boxes in the browser, where dagre.js (MIT licence, in its head)
lays out the rest.
"""

from __future__ import annotations

from importlib import resources
from typing import Any

from tensorgrad.core.table import visible
from tensorgrad.draw.colours import KINDS, MARKS, blended, heat_colour, look_of
from tensorgrad.draw.heat import BAD, NEGATIVE, POSITIVE, percent
from tensorgrad.draw.maths import GREEK, pieces
from tensorgrad.draw.place import Rectangle, ends_of, place
from tensorgrad.draw.scene import Edge, Scene
from tensorgrad.draw.template import filled

BELOW = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


def to_html(views: dict[str, Scene]) -> str:
    """A page with one view for each scene, starting with the first. Raises MissingDependencyError without Graphviz."""
    inner = Inner()
    layouts = {name: laid_out(scene, inner) for name, scene in views.items()}
    data = all_visible({"views": layouts, "inner": inner.scenes, "texts": inner.texts})
    dagre = resources.files("tensorgrad.draw").joinpath("dagre.js").read_text("utf-8")
    return filled(
        "tensorgrad.draw", "page.html", data, COLOURS=styles(any(scene.paper for scene in views.values())), DAGRE=dagre
    )


class Inner:
    """The scenes inside boxes, without layout, each once for all views.

    scenes   the scenes, for the page; boxes refer to them by index
    texts    the distinct texts of facts; a fact is the indices of its name and text
    """

    def __init__(self) -> None:
        self.scenes: list[dict[str, Any]] = []
        self.texts: list[str] = []
        self.numbers: dict[str, int] = {}
        self.cached: dict[int, tuple[int, Scene]] = {}  # by id of a scene, which is kept alive

    def add(self, scene: Scene) -> int:
        """The index of a scene."""
        if id(scene) not in self.cached:
            data = described(scene, self)
            for box in data["boxes"]:
                box["facts"] = [self.number(text) for pair in box["facts"].items() for text in pair]
            self.cached[id(scene)] = len(self.scenes), scene
            self.scenes.append(data)
        return self.cached[id(scene)][0]

    def number(self, text: str) -> int:
        if text not in self.numbers:
            self.numbers[text] = len(self.texts)
            self.texts.append(text)
        return self.numbers[text]


def styles(paper: bool) -> str:
    """CSS for the colours of boxes, on white and, in dark mode, on black; print colours are a single set."""
    light, dark = [], []
    for key in (*KINDS, *MARKS):
        look = look_of(key, key if key in MARKS else "", paper)
        more = "; stroke-width: 2" * look.bold + "; stroke-dasharray: 5 3" * look.dashed
        light.append(f".box.{key} rect {{ fill: {look.fill}; stroke: {look.line}{more} }}")
        light.append(f".box.{key} text {{ fill: {look.ink} }}")
        ground = blended(look.line, "#14171a", 0.35)
        dark.append(f".box.{key} rect {{ fill: {ground}; stroke: {look.fill} }} .box.{key} text {{ fill: var(--ink) }}")
    ends = f":root {{ --negative: {NEGATIVE}; --positive: {POSITIVE}; --bad: {BAD}; }}"
    return "\n".join([ends, *light, *(["@media (prefers-color-scheme: dark) {", *dark, "}"] if not paper else [])])


def all_visible(nest: Any) -> Any:
    """Nested data with all texts made visible."""
    if isinstance(nest, dict):
        return {key: all_visible(value) for key, value in nest.items()}
    if isinstance(nest, list) and not all(type(value) is int for value in nest):
        return [all_visible(value) for value in nest]
    return visible(nest) if isinstance(nest, str) else nest


def laid_out(scene: Scene, inner: Inner) -> dict[str, Any]:
    """The scene with Graphviz's coordinates, in points, y downwards."""
    placed = place(scene)
    data = described(scene, inner)
    data |= {"width": placed.width, "height": placed.height}
    for box in data["boxes"]:
        box |= rectangle(placed.boxes[box["id"]])
    data["groups"] = [
        {"key": key, "label": scene.groups[key], "repeat": key in scene.repeats, **rectangle(corners)}
        for key, corners in placed.groups.items()
    ]
    data["edges"] = [
        arrow(edge, *ends_of(edge)) | {"points": points} | ({"at": at} if at else {}) for edge, points, at in placed.edges
    ]
    return data


def described(scene: Scene, inner: Inner) -> dict[str, Any]:
    """The scene without coordinates and default values."""
    groups = [{"key": key, "label": label, "repeat": key in scene.repeats} for key, label in scene.groups.items()]
    boxes = []
    for box in scene.boxes.values():
        lines = [set_as_formula(line, box.has_names(line)) for line in box.text] if scene.paper else box.text
        data: dict[str, Any] = {"id": box.id, "kind": box.kind, "lines": lines, "facts": box.facts}
        defaults = {
            "group": list(box.group), "mark": box.mark, "left": box.left, "round": KINDS[box.kind].round,
            "maps": [[{"caption": m.caption, "cells": percent(m.cells)} for m in pair] for pair in box.maps],
            "heat": "" if box.heat is None else heat_colour(box.heat), "leads": list(box.leads_to or ()),
        }  # fmt: skip
        data |= {key: value for key, value in defaults.items() if value}
        if box.inner is not None:
            data["inner"] = inner.add(box.inner())
        boxes.append(data)
    edges = [arrow(edge, *ends_of(edge)) for edge in scene.edges]
    return {"boxes": boxes, "groups": groups, "edges": edges,
            "title": scene.title, "notes": scene.notes, "legend": [list(pair) for pair in scene.legend()]}  # fmt: skip


def set_as_formula(line: str, has_names: bool) -> str:
    """A line with Greek letters, and subscripts in its names."""
    texts = (
        upright + GREEK.get(letter, letter) + (index.translate(BELOW) if index.isdigit() else f"_{index}" * bool(index))
        for upright, letter, index in pieces(line, has_names)
    )
    return "".join(texts)


def arrow(edge: Edge, source: str, target: str) -> dict[str, Any]:
    data = {"source": source, "target": target}
    return data | {key: text for key, text in (("kind", edge.kind), ("label", edge.label)) if text not in ("", "forward")}


def rectangle(where: Rectangle) -> dict[str, float]:
    return dict(zip("xywh", where, strict=True))

"""Scenes as one HTML page that needs nothing else: zoom and pan, folding, search, facts beside the drawing.

Graphviz lays the boxes out here; page.html, beside this file, draws them and folds them in the reader's browser, where
dagre.js (MIT licence, in its head) lays out what is left.
"""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

from tensorgrad.core.table import visible
from tensorgrad.draw.colours import KINDS, MARKS, blended, heat_colour
from tensorgrad.draw.dot import to_dot
from tensorgrad.draw.render import render
from tensorgrad.draw.scene import Edge, Scene


def to_html(views: dict[str, Scene]) -> str:
    """A page with one view for each scene; its first one is shown first. Raises MissingDependencyError without Graphviz."""
    data = all_visible({name: laid_out(scene) for name, scene in views.items()})
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    # a name must not be able to end the script that it stands in
    safe = text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
    files = resources.files("tensorgrad.draw")
    page = files.joinpath("page.html").read_text("utf-8").replace("/*COLOURS*/", styles())
    page = page.replace("/*DAGRE*/", files.joinpath("dagre.js").read_text("utf-8"))
    return page.replace("/*DATA*/null", safe.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


def styles() -> str:
    """Rules for the colours of boxes, on white and, where the reader's system is dark, on black."""
    light, dark = [], []
    for key, look in {**KINDS, **MARKS}.items():
        more = "; stroke-width: 2" * look.bold + "; stroke-dasharray: 5 3" * look.dashed
        light.append(f".box.{key} rect {{ fill: {look.fill}; stroke: {look.line}{more} }}")
        light.append(f".box.{key} text {{ fill: {look.ink} }}")
        paper = blended(look.line, "#14171a", 0.35)
        dark.append(f".box.{key} rect {{ fill: {paper}; stroke: {look.fill} }} .box.{key} text {{ fill: var(--ink) }}")
    return "\n".join([*light, "@media (prefers-color-scheme: dark) {", *dark, "}"])


def all_visible(nest: Any) -> Any:
    """The same with every text in it as it is shown."""
    if isinstance(nest, dict):
        return {key: all_visible(value) for key, value in nest.items()}
    if isinstance(nest, list):
        return [all_visible(value) for value in nest]
    return visible(nest) if isinstance(nest, str) else nest


def laid_out(scene: Scene) -> dict[str, Any]:
    """The scene with Graphviz's coordinates, in points, y downwards."""
    placed = json.loads(render(to_dot(scene), "json"))
    height = numbers(placed["bb"])[3]
    names = [item["name"] for item in placed.get("objects", [])]
    groups, boxes = [], []
    for item in placed.get("objects", []):
        if "bb" in item:
            left, low, right, high = numbers(item["bb"])
            key = item["name"].removeprefix("cluster_")
            groups.append(
                {
                    "key": key,
                    "label": scene.groups[key],
                    "repeat": key in scene.repeats,
                    "x": left,
                    "y": height - high,
                    "w": right - left,
                    "h": high - low,
                }
            )
        elif item["name"] in scene.boxes:
            box = scene.boxes[item["name"]]
            x, y = numbers(item["pos"])
            w, h = 72 * float(item["width"]), 72 * float(item["height"])
            boxes.append(
                {
                    "id": box.id, "kind": box.kind, "lines": box.text, "group": list(box.group), "facts": box.facts,
                    "mark": box.mark, "left": box.left, "round": KINDS[box.kind].round,
                    "heat": None if box.heat is None else heat_colour(box.heat),
                    "x": x - w / 2, "y": height - y - h / 2, "w": w, "h": h,
                }
            )  # fmt: skip
    edges = []
    kinds: dict[tuple[str, str], list[Edge]] = {}
    for edge in scene.edges:
        ends = (edge.target, edge.source) if edge.kind == "gradient" else (edge.source, edge.target)
        kinds.setdefault(ends, []).append(edge)
    for item in placed.get("edges", []):
        if item.get("style") == "invis":
            continue
        ends = names[item["tail"]], names[item["head"]]
        edge = kinds[ends].pop(0) if len(kinds[ends]) > 1 else kinds[ends][0]
        made: dict[str, Any] = {"source": ends[0], "target": ends[1], "kind": edge.kind, "label": edge.label}
        made["points"] = [[x, height - y] for x, y in spline(item["pos"])]
        if "lp" in item:
            x, y = numbers(item["lp"])
            made["at"] = [x, height - y]
        edges.append(made)
    return {"width": numbers(placed["bb"])[2], "height": height, "boxes": boxes, "groups": groups, "edges": edges,
            "title": scene.title, "notes": scene.notes, "legend": [list(pair) for pair in scene.legend()]}  # fmt: skip


def numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def spline(text: str) -> list[tuple[float, float]]:
    """The points of an edge: where it starts, two control points and an end for each piece, and where its arrow's tip is."""
    start: list[tuple[float, float]] = []
    end: list[tuple[float, float]] = []
    points: list[tuple[float, float]] = []
    for part in text.split():
        mark, _, rest = part.partition(",")
        target = {"s": start, "e": end}.get(mark, points)
        x, y = numbers(rest if mark in "se" else part)
        target.append((x, y))
    return [*points, *start, *end]

"""Graphviz's layout of a scene, for formats that are drawn without Graphviz."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from tensorgrad.draw.dot import to_dot
from tensorgrad.draw.render import render
from tensorgrad.draw.scene import Edge, Scene

Point = tuple[float, float]
Rectangle = tuple[float, float, float, float]  # left, top, width, height


@dataclass
class Placed:
    """Coordinates in points, y downwards.

    boxes, groups  by id and by key
    edges          for each the points of its curve (start, then two control points and an end for each piece, then the tip of
                   its arrow, if any) and the position of its label; gradients run from the later operation's rule upwards,
                   their curves downwards
    """

    width: float
    height: float
    boxes: dict[str, Rectangle] = field(default_factory=dict)
    groups: dict[str, Rectangle] = field(default_factory=dict)
    edges: list[tuple[Edge, list[Point], Point | None]] = field(default_factory=list)


def place(scene: Scene) -> Placed:
    """Lay a scene out. Raises MissingDependencyError without Graphviz."""
    data = json.loads(render(to_dot(scene), "json"))
    _, _, width, height = numbers(data["bb"])
    placed = Placed(width, height)
    names = [item["name"] for item in data.get("objects", [])]
    for item in data.get("objects", []):
        if "bb" in item:
            left, low, right, high = numbers(item["bb"])
            placed.groups[item["name"].removeprefix("cluster_")] = (left, height - high, right - left, high - low)
        elif item["name"] in scene.boxes:
            x, y = numbers(item["pos"])
            w, h = 72 * float(item["width"]), 72 * float(item["height"])
            placed.boxes[item["name"]] = (x - w / 2, height - y - h / 2, w, h)
    waiting: dict[tuple[str, str], list[Edge]] = {}
    for edge in scene.edges:
        waiting.setdefault(ends_of(edge), []).append(edge)
    for item in data.get("edges", []):
        if item.get("style") == "invis":
            continue
        candidates = waiting[names[item["tail"]], names[item["head"]]]
        edge = candidates.pop(0) if len(candidates) > 1 else candidates[0]
        points = [(x, height - y) for x, y in spline(item["pos"])]
        label = None
        if "lp" in item:
            x, y = numbers(item["lp"])
            label = x, height - y
        placed.edges.append((edge, points, label))
    return placed


def ends_of(edge: Edge) -> tuple[str, str]:
    """The boxes of an arrow, the upper one first."""
    return (edge.target, edge.source) if edge.kind == "gradient" else (edge.source, edge.target)


def numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def spline(text: str) -> list[Point]:
    """The points of an edge: start, two control points and an end for each piece, and the tip of the arrow."""
    start: list[Point] = []
    end: list[Point] = []
    points: list[Point] = []
    for part in text.split():
        mark, _, rest = part.partition(",")
        target = {"s": start, "e": end}.get(mark, points)
        x, y = numbers(rest if mark in "se" else part)
        target.append((x, y))
    return [*points, *start, *end]

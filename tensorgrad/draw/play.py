"""An interactive page that steps through a computation and its backward pass, with all numbers."""

from __future__ import annotations

import html
import json
import math
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import graphviz
import numpy as np

from tensorgrad.core.backend import Array
from tensorgrad.core.files import as_path, replacing
from tensorgrad.core.graph import Graph
from tensorgrad.core.node import Node
from tensorgrad.core.state import describe
from tensorgrad.core.table import visible
from tensorgrad.core.tensor import Tensor
from tensorgrad.draw.colours import KINDS
from tensorgrad.draw.dot import FONT
from tensorgrad.draw.letters import backward_formulas, first_part, forward_formula
from tensorgrad.draw.place import numbers, spline
from tensorgrad.draw.render import render
from tensorgrad.draw.steps import Step, steps_of
from tensorgrad.draw.template import filled
from tensorgrad.errors import ArgumentError, GraphError

MOST = 300  # maximum number of operations
WRITTEN = 36  # numbers to write out; larger arrays get a heat map and statistics
WIDEST = 8  # numbers per row
CELL = (56, 14)  # points
MAP = 24  # maximum rows and columns of a heat map


class Playback:
    """A self-contained page that steps through a program, forward and backward.

    html    the page
    steps   its steps, in order
    """

    def __init__(self, page: str, steps: list[Step]) -> None:
        self.html, self.steps = page, steps

    def save(self, path: str | Path) -> Path:
        """Write the page to a .html file; returns its path."""
        path = as_path("Playback.save", path)
        if path.suffix.lower() != ".html":
            raise ArgumentError(f"Playback.save: expected a .html file, got {path.name!r}")
        with replacing(path) as file:
            file.write(self.html.encode())
        return path

    def __repr__(self) -> str:
        forward = sum(step.is_forward for step in self.steps)
        return (
            f"<Playback of {forward} operations and {len(self.steps) - forward} rules; .save('page.html') to step through them>"
        )

    def _repr_html_(self) -> str:
        """For notebooks."""
        return f'<iframe srcdoc="{html.escape(self.html)}" style="width: 100%; height: 720px; border: 1px solid #ccc"></iframe>'


def play(loss: Tensor, *, title: str = "") -> Playback:
    """Create a page that steps through the computation of `loss` and its backward pass, with keys and buttons.

    loss    a computed Tensor with one element that requires a gradient; its graph is not changed
    title   the heading

    Each step is one operation or its rule: its formula with the program's names, the numbers of inputs and results, and how
    gradients of values with several uses add up. Up to 36 numbers are written out; larger arrays are shown as a heat map with
    minimum, maximum and mean. Needs Graphviz, like other drawings.

    Raises GraphError for a Tensor that was not computed, has more than one element, or more than 300 operations.
    """
    if not isinstance(loss, Tensor):
        raise GraphError(f"draw.play: expected a Tensor, got {describe(loss)}")
    if loss.node is None or not loss.requires_grad:
        raise GraphError("draw.play: the Tensor was not computed from anything that requires a gradient")
    if loss.size != 1:
        raise GraphError(
            f"draw.play: the Tensor has shape {loss.shape}, expected a 0-d Tensor; reduce it with .sum() or .mean()"
        )
    count = len(Graph.of(loss).nodes)
    if count > MOST:
        raise GraphError(f"draw.play: {count:,} operations, expected at most {MOST}; play a smaller program")
    program, values, steps = steps_of(loss)
    data = Writer(program, values, steps).data()
    data["title"] = visible(title) or "Forward and backward"
    return Playback(filled("tensorgrad.draw", "play.html", data), steps)


class Writer:
    """The data of the page: boxes with positions, arrows, and steps."""

    def __init__(self, program: Graph, values: dict[Any, Array], steps: list[Step]) -> None:
        self.program, self.values, self.steps = program, values, steps
        self.names: dict[Any, str] = unique_names({leaf: name for leaf, name in program.leaf_names().items()})
        last = program.nodes[-1]
        taken = set(self.names.values())
        for i, node in enumerate(n for n in program.nodes if n is not last):
            self.names[node] = unique_name(f"v{i + 1}", taken)
        self.names[last] = unique_name("L", taken)
        self.ids = {value: f"b{i}" for i, value in enumerate(self.names)}
        self.uses: dict[Any, int] = {}
        for step in steps:
            for part in step.contributions:
                self.uses[part.source] = self.uses.get(part.source, 0) + 1

    def data(self) -> dict[str, Any]:
        boxes = {value: self.box(value) for value in self.names}
        width, height, edges = self.layout(boxes)
        return {
            "loss": self.names[self.program.nodes[-1]],
            "boxes": list(boxes.values()),
            "edges": edges,
            "width": width,
            "height": height,
            "steps": [self.step(step) for step in self.steps],
        }

    def box(self, value: Any) -> dict[str, Any]:
        is_leaf = isinstance(value, Tensor)
        kind = "op" if not is_leaf else "parameter" if value.requires_grad else "input"
        kind = "output" if value is self.program.nodes[-1] else kind
        array = self.values[value]
        rows, columns = rows_and_columns(array.shape)
        is_written = array.size <= WRITTEN and columns <= WIDEST
        cells = (columns * CELL[0], rows * CELL[1]) if is_written else (172, 74)
        name = self.names[value]
        formula = "" if is_leaf else first_part(forward_formula(value, self.operands(value), name).split("    ")[0])
        title = max(len(f"{name}  {sizes(array.shape)}"), 0.9 * len(formula.splitlines()[0]) if formula else 0)
        lines = 1 + len(formula.splitlines())
        parts = 1 + bool(value.requires_grad)
        return {
            "id": self.ids[value], "name": name, "kind": kind, "shape": sizes(array.shape), "formula": formula,
            "needs": bool(value.requires_grad), "value": as_data(array),
            "w": max(cells[0] + 16, 6.6 * title + 16, 84), "h": 15 * lines + parts * (cells[1] + 13) + 10,
        }  # fmt: skip

    def operands(self, node: Node) -> list[str]:
        return [self.names[s] if isinstance(s, (Node, Tensor)) else f"{s:g}" if is_real(s) else str(s) for s in node.inputs]

    def layout(self, boxes: dict[Any, dict[str, Any]]) -> tuple[float, float, list[dict[str, Any]]]:
        """Positions for the boxes, in points, y downwards, and the arrows between them."""
        dot = graphviz.Digraph(graph_attr={"rankdir": "TB", "nodesep": "0.35", "ranksep": "0.45", **FONT})
        for box in boxes.values():
            dot.node(box["id"], label="", shape="box", fixedsize="true", width=f"{box['w'] / 72}", height=f"{box['h'] / 72}")
        for node in self.program.nodes:
            for source in dict.fromkeys(s for s in node.inputs if isinstance(s, (Node, Tensor))):
                dot.edge(self.ids[source], self.ids[node])
        placed = json.loads(render(dot.source, "json"))
        height = numbers(placed["bb"])[3]
        by_id = {box["id"]: box for box in boxes.values()}
        names = [item["name"] for item in placed.get("objects", [])]
        for item in placed["objects"]:
            x, y = numbers(item["pos"])
            box = by_id[item["name"]]
            box["x"], box["y"] = x - box["w"] / 2, height - y - box["h"] / 2
            box["fill"], box["line"] = KINDS[box["kind"]].fill, KINDS[box["kind"]].line
        edges = [
            {
                "source": names[item["tail"]], "target": names[item["head"]],
                "points": [[x, height - y] for x, y in spline(item["pos"])],
            }
            for item in placed.get("edges", [])
        ]  # fmt: skip
        return numbers(placed["bb"])[2], height, edges

    def step(self, step: Step) -> dict[str, Any]:
        node, name = step.node, self.names[step.node]
        common = {
            "box": self.ids[node], "op": node.op.name, "line": node.line, "module": visible(node.scope),
            "formula": forward_formula(node, self.operands(node), name),
            "reads": list(dict.fromkeys(self.ids[s] for s in node.inputs if isinstance(s, (Node, Tensor)))),
        }  # fmt: skip
        if step.value is not None:
            return {**common, "phase": "forward"}
        formulas = backward_formulas(node, self.operands(node), name)
        assert step.gradient is not None
        return {
            **common,
            "phase": "backward",
            "rule": first_part(node.op.formula("backward")),
            "gradient": as_data(step.gradient),
            "adds": [
                {
                    "box": self.ids[part.source], "name": self.names[part.source],
                    "formula": formulas[part.at] if part.at < len(formulas) else "",
                    "reads": self.named_in(formulas[part.at], node) if part.at < len(formulas) else [],
                    "summed": part.summed, "added": as_data(part.added), "total": as_data(part.total),
                    "uses": self.uses[part.source],
                }
                for part in step.contributions
            ],
        }  # fmt: skip

    def named_in(self, formula: str, node: Node) -> list[str]:
        """The inputs and the result whose values a rule's formula uses."""
        values = [*(s for s in node.inputs if isinstance(s, (Node, Tensor))), node]
        plain = re.sub(r"∂\S+/∂\S+", "", formula)
        mentioned = [v for v in values if re.search(rf"(?<![\w.]){re.escape(self.names[v])}(?![A-Za-z0-9_#])", plain)]
        return [self.ids[v] for v in dict.fromkeys(mentioned)]


def unique_names(names: dict[Any, str]) -> dict[Any, str]:
    """Number equal names to make them unique."""
    taken: set[str] = set()
    return {value: unique_name(name, taken) for value, name in names.items()}


def unique_name(name: str, taken: set[str]) -> str:
    """A unique name, numbered if necessary; it is then taken."""
    unique, i = name, 1
    while unique in taken:
        i += 1
        unique = f"{name}#{i}"
    taken.add(unique)
    return unique


def is_real(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, (bool, np.bool_))


def sizes(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))


def rows_and_columns(shape: tuple[int, ...]) -> tuple[int, int]:
    """The rows and columns of an array as shown: the last axis horizontally, the others vertically."""
    return (math.prod(shape[:-1]), shape[-1]) if shape else (1, 1)


def as_data(array: Array) -> dict[str, Any]:
    """An array for the page: its numbers, or for large ones a heat map and statistics."""
    rows, columns = rows_and_columns(array.shape)
    if array.dtype.kind == "b":
        array = array.astype(np.int8)
    if array.size <= WRITTEN and columns <= WIDEST:
        return {"rows": rows, "columns": columns, "numbers": [as_number(x) for x in array.ravel().tolist()]}
    wide = array.astype(np.float64).reshape(rows, columns)
    finite = wide[np.isfinite(wide)]
    statistics = {"min": finite.min(), "max": finite.max(), "mean": finite.mean(), "std": finite.std()} if finite.size else {}
    return {
        "rows": rows,
        "columns": columns,
        "map": [[as_number(x) for x in line] for line in averaged(wide).tolist()],
        "statistics": {key: as_number(float(value)) for key, value in statistics.items()},
        "bad": int(wide.size - finite.size),
        "zeros": int((wide == 0).sum()),
    }


def averaged(array: Array) -> Array:
    """A matrix reduced to at most MAP rows and columns by means of neighbours."""
    for axis in (0, 1):
        n = array.shape[axis]
        edges = np.linspace(0, n, min(n, MAP) + 1).astype(int)
        parts = [array.take(range(a, b), axis).mean(axis, keepdims=True) for a, b in pairwise(edges)]
        array = np.concatenate(parts, axis)
    return array


def as_number(x: float) -> float | str:
    """A number for JSON, which has neither NaN nor infinity."""
    return x if isinstance(x, int) or math.isfinite(x) else "NaN" if math.isnan(x) else "∞" if x > 0 else "-∞"

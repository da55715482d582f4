"""The page of a watched training: the architecture, coloured by measures, over time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tensorgrad.core.graph import Graph
from tensorgrad.core.node import Node
from tensorgrad.core.table import visible
from tensorgrad.core.tensor import Tensor
from tensorgrad.draw.build import Builder
from tensorgrad.draw.colours import KINDS
from tensorgrad.draw.place import ends_of, place
from tensorgrad.draw.program import Options, Program
from tensorgrad.draw.scene import Scene
from tensorgrad.draw.template import filled
from tensorgrad.train.samples import Sample, Spread


@dataclass
class Picture:
    """A model's architecture. layers, weights: for each box, by its id, the names of layers or weights in a Sample."""

    scene: Scene
    layers: dict[str, list[str]] = field(default_factory=dict)
    weights: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, predictions: Sequence[Tensor], results: dict[str, Node], parameters: Mapping[str, Tensor]) -> Picture:
        """The architecture that computed predictions. results: nodes by layer name; parameters: by name."""
        builder = Builder(Program(Graph.of(*predictions), Options()))
        picture = cls(builder.scene)
        for name, node in results.items():
            if builder.program.folds.shown(node) in builder.box_of:
                picture.layers.setdefault(builder.at(node), []).append(name)
        names = {id(p): name for name, p in parameters.items()}
        reads: dict[str, list[str]] = {}
        for node in builder.nodes:
            for s in node.inputs:
                if id(s) in names:
                    names_read = reads.setdefault(builder.at(node), [])
                    names_read += [names[id(s)]] * (names[id(s)] not in names_read)
        picture.weights = reads
        return picture


MEASURES = {
    "gradient": "gradient of the values, root mean square",
    "value": "values, root mean square",
    "mean": "values, mean",
    "std": "values, standard deviation",
    "zeros": "share of values that are 0",
    "dead": "share of dead units",
    "saturated": "share of saturated units",
    "weight": "parameters, root mean square",
    "weight gradient": "gradients of parameters, root mean square",
    "ratio": "update of parameters / parameters",
}


def page(picture: Picture, samples: Sequence[Sample], findings: Sequence[Sequence[tuple[str, list[str]]]]) -> str:
    """The self-contained page of a training; findings: for each sample. MissingDependencyError without Graphviz."""
    sample_data = [
        {
            **numbers(sample),
            "findings": [
                with_box(picture, text) | {"each": [with_box(picture, neighbour) for neighbour in each]} for text, each in texts
            ],
        }
        for sample, texts in zip(samples, findings, strict=True)
    ]
    return filled("tensorgrad.train", "watched.html", {"measures": MEASURES, "picture": drawn(picture), "samples": sample_data})


def drawn(picture: Picture) -> dict[str, Any]:
    """The positions of boxes, frames and arrows, in points."""
    scene = picture.scene
    placed = place(scene)
    boxes = [
        {
            "id": box.id, "lines": [visible(line) for line in box.text], "round": KINDS[box.kind].round,
            "line": visible(box.facts.get("line", "")), "at": placed.boxes[box.id],
            "layers": [visible(name) for name in picture.layers.get(box.id, [])],
            "weights": [visible(name) for name in picture.weights.get(box.id, [])],
        }
        for box in scene.boxes.values()
    ]  # fmt: skip
    groups = [{"label": visible(scene.groups[key]), "at": where} for key, where in placed.groups.items()]
    edges = [{"ends": ends_of(edge), "points": points, "kind": edge.kind} for edge, points, _ in placed.edges]
    return {"width": placed.width, "height": placed.height, "boxes": boxes, "groups": groups, "edges": edges}


def numbers(sample: Sample) -> dict[str, Any]:
    """The numbers of a sample for the page: each measure by the name of the layer or parameter. None if not finite."""
    by_measure: dict[str, dict[str, Any]] = {name: {} for name in MEASURES}
    for name, layer in sample.layers.items():
        measures = {"value": size_of(layer.value), "mean": layer.value.mean, "std": layer.value.std, "zeros": layer.value.zeros}
        measures |= {"dead": layer.dead, "saturated": layer.saturated}
        if layer.gradient is not None:
            measures["gradient"] = size_of(layer.gradient)
        for measure, value in measures.items():
            by_measure[measure][visible(name)] = finite(value)
    for name, w in sample.weights.items():
        by_measure["weight"][visible(name)] = finite(size_of(w.value))
        if w.gradient is not None:
            by_measure["weight gradient"][visible(name)] = finite(size_of(w.gradient))
        if w.update is not None:
            by_measure["ratio"][visible(name)] = finite(w.ratio)
    return {"step": sample.step, "epoch": sample.epoch, "loss": finite(sample.loss), "of": by_measure}


def size_of(spread: Spread) -> float:
    """Root mean square; NaN if some numbers are not finite."""
    return math.nan if spread.bad else spread.rms


def finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def with_box(picture: Picture, text: str) -> dict[str, Any]:
    """A finding with the id of its box."""
    best = ("", "")
    for names in (picture.layers, picture.weights):
        for box, inside in names.items():
            for name in inside:
                if text.startswith((f"{name} (", f"{name}:")) and len(name) > len(best[0]):
                    best = (name, box)
    return {"text": visible(text), "box": best[1]}

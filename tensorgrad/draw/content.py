"""Contents of boxes: title, attributes, formulas, shapes, parameters, values and costs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tensorgrad.core.node import Node
from tensorgrad.core.profiling import Cost
from tensorgrad.core.tensor import Tensor
from tensorgrad.draw.heat import LARGE, SMALL, map_of
from tensorgrad.draw.measure import in_words
from tensorgrad.draw.parts import Part
from tensorgrad.draw.program import Options, Program
from tensorgrad.draw.scene import Box
from tensorgrad.draw.sources import Source
from tensorgrad.draw.words import (
    arguments_of,
    commutes,
    contents_of,
    facts_of,
    formula_lines,
    from_to,
    is_between,
    operands_of,
    packed,
    shape_of,
    title_of,
)

LINES = 3  # parameters of a layer to list; for more, the total number of elements


@dataclass(frozen=True)
class Content:
    """Writes the contents of the boxes of one scene.

    inside    for each box, by its id, the leaves shown in it instead of in boxes of their own
    last_of   for leaves at the same position of repeated blocks, the last one
    framed    the modules whose frames name the repeated blocks
    repeats   the frames that represent several blocks
    within    the module whose inside is drawn
    maps      whether to show arrays as pictures
    formulas  whether fused boxes show the formulas of their gradients
    """

    program: Program
    inside: Mapping[str, list[Source]]
    last_of: Mapping[Source, Source]
    framed: Collection[str]
    repeats: Collection[str]
    within: str
    maps: bool
    formulas: bool

    @property
    def options(self) -> Options:
        return self.program.options

    def fill(self, box: Box, part: Part, count: int) -> None:
        """Write the contents of a box."""
        node = part.nodes[-1]
        ends = any(n in self.program.outputs for n in part.nodes)
        inside = self.inside.get(box.id, [])
        if any(n in self.options.highlight for p in part.nodes for n in (p, *p.members)) or any(
            s.leaf in self.options.highlight for s in inside
        ):
            box.mark = "highlight"
        box.facts = facts_of(node) if node.dtype is not None else {}
        if "module" in box.facts:
            box.facts["module"] = self.program.paths.path(node.scope) or str(node.scope)
        weights = [s for s in inside if s.is_weight]
        if part.kind == "op":
            self.fill_op(box, node, weights)
        elif part.kind == "function":
            box.lines = [part.key.name]
            if detail := arguments_of(part.key):
                box.lines.append(detail)
        elif part.kind == "rule":
            box.kind, box.left = "rule", True
            forward_node = part.key
            name = (
                title_of(forward_node, lambda i, s: "")
                if any(isinstance(s, (int, float)) for s in forward_node.inputs)
                else forward_node.op.name
            )
            box.lines = [f"gradient of {name}", *formula_lines(forward_node.op, "backward")]
        elif part.kind == "region":
            box.kind = "fold"
            box.lines = [
                f"{self.program.label(part, within=self.within)} · {len(part.nodes):,} operations",
                contents_of(part, 3),
            ]
        else:
            box.kind = "layer" if part.is_layer and weights else "op" if part.is_layer else "fold"
            box.lines = [self.program.label(part, self.framed, self.within)]
        if count > 1 and not any(key in self.repeats for key in box.group):
            box.kind = "fold" if box.kind == "op" else box.kind
            box.lines.append(f"× {count}")
        if len(part.nodes) > 1:
            box.facts = {k: box.facts[k] for k in ("shape", "dtype", "bytes", "module", "line") if k in box.facts}
            box.facts["ops"] = contents_of(part)
        if node.dtype is None:
            return
        if ends:
            box.kind = "output"
            if not node.shape and node is self.program.graph.outputs[0] and node.gradient_of is None:
                box.lines.append("loss")
        self.write_shapes(box, part)
        self.write_weights(box, part, weights, count)
        self.measure(box, part, count)

    def fill_op(self, box: Box, node: Node, weights: list[Source]) -> None:
        shown = {id(s.leaf): s for s in self.inside.get(box.id, [])}
        between = is_between(node) and len(node.inputs) == 2
        flows = [s for s in node.inputs if isinstance(s, (Node, Tensor)) and id(s) not in shown]
        letters = len(flows) > 1 and not commutes(node.op)
        names = operands_of(node)

        def operand(i: int, s: Any) -> str:
            if id(s) in shown:
                source = shown[id(s)]
                return source.value or (source.name if between else "")
            return names[i] if letters and between else ""

        box.lines = [title_of(node, operand)]
        if node.members and node.op.formula("forward"):
            box.kind, box.left = "fused", True
            box.lines += formula_lines(node.op, "forward")
            if self.formulas:
                box.lines += formula_lines(node.op, "backward")
        if between and weights:
            box.facts["reads"] = ", ".join(f"{s.name} {shape_of(s)}" for s in weights)

    def write_shapes(self, box: Box, part: Part) -> None:
        """The shapes of a box's results; for a region also of its inputs, and its fraction of the work."""
        results = self.program.results(part)
        out = self.program.shapes(results)
        if len(results) > 1:
            box.facts["shape"] = out
        if part.kind != "region":
            box.lines.append(out)
            return
        inputs = self.program.shapes(self.program.inputs_of(part))
        passes = f"{inputs} → {out}" if inputs else out
        box.facts |= {"goes in": inputs, "comes out": out} if inputs else {"comes out": out}
        if len(part.nodes) > 1:
            numbers = [self.program.place[n] for n in part.nodes]
            box.facts["operations"] = f"{min(numbers):,} … {max(numbers):,}"
        total = sum(self.program.flops.values())
        if total and not self.options.cost:
            copies = {n for m in part.nodes for n in self.program.represented.get(m, [m])}
            passes += f" · {sum(self.program.flops[n] for n in copies) / total:.1%} of FLOPs"
        box.lines.append(passes)

    def write_weights(self, box: Box, part: Part, weights: list[Source], count: int) -> None:
        """The parameters shown inside a box."""
        if not weights:
            return
        total = sum(int(np.prod(s.shape, dtype=int)) for s in weights)
        each = " each" if count > 1 else ""
        if part.is_module:
            path = self.program.paths.path(part.key)
            if part.is_layer and len(weights) <= LINES:
                box.inside = packed([f"{self.program.letter(s, count)} {self.program.described(s)}" for s in weights])
            else:
                box.inside = [f"{total:,} parameters{each}"]
            box.facts["parameters"] = f"{total:,}{each}: " + ", ".join(
                f"{s.name.removeprefix(f'{path}.')} {shape_of(s)}" for s in weights
            )
        elif part.kind == "op" and len(weights) == 1 and is_between(part.nodes[0]):
            name = from_to(weights[0].name, self.last_of.get(weights[0], weights[0]).name)
            box.inside = [f"{name} {self.program.described(weights[0])}"]
        else:
            model = next((f"{name}." for name in self.program.models.values() if weights[0].name.startswith(f"{name}.")), "")
            names = [from_to(s.name, self.last_of.get(s, s).name) for s in weights]
            texts = [f"{n.removeprefix(model)} {self.program.described(s)}" for n, s in zip(names, weights, strict=True)]
            box.inside = packed(texts) if len(texts) <= LINES else [f"{total:,} parameters{each}"]

    def measure(self, box: Box, part: Part, count: int) -> None:
        """Values and costs."""
        arrays = self.options.values
        if arrays is not None:
            last = self.program.folds.shown(part.nodes[-1])
            nodes_shown = self.program.represented[last] if count > 1 else [part.nodes[-1]]
            results = [arrays[n] for n in nodes_shown if n in arrays]
            if results:
                box.lines.append(in_words(results))
                box.facts["values"] = box.lines[-1]
            if self.maps:
                matrices = [s for s in self.inside.get(box.id, []) if s.is_weight and len(s.shape) > 1]
                add_maps(box, [(s.name.rpartition(".")[2] + " of the first" * (count > 1), s.array) for s in matrices[:1]])
                add_maps(box, [("result" if count == 1 else "result of the first", a) for a in results[:1]])
        if self.program.costs:
            nodes = {n for m in part.nodes for n in self.program.represented.get(m, [m])}
            spent = sum((self.program.costs[n] for n in nodes), Cost())
            box.facts |= spent.facts()
            if self.options.cost:
                each = Cost(spent.bytes // count, spent.flops // count, spent.seconds / count)
                box.lines.append(str(spent) if count == 1 else f"{each} each, {spent} in all")
                box.heat = spent.seconds


def add_maps(box: Box, arrays: Sequence[tuple[str, Any]]) -> None:
    """Add pictures of arrays to a box, small and large."""
    for name, array in arrays:
        small, large = (map_of(name, array, most) for most in (SMALL, LARGE))
        if small is not None and large is not None:
            box.maps.append((small, large))

"""Builds a Scene from a program: its boxes, leaves and edges."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

import numpy as np

from tensorgrad.core.node import Node
from tensorgrad.core.profiling import Cost
from tensorgrad.core.scope import ArgumentInfo
from tensorgrad.core.tensor import Tensor
from tensorgrad.draw.content import Content, add_maps
from tensorgrad.draw.failed import misfits
from tensorgrad.draw.measure import in_words
from tensorgrad.draw.parts import Part
from tensorgrad.draw.program import Program
from tensorgrad.draw.scene import Box, Edge, Scene
from tensorgrad.draw.sources import Source
from tensorgrad.draw.words import commutes, operands_of, shape_of

BOXES = 24  # maximum number of boxes before modules are folded
CROWD = 60  # and before models are
NEIGHBOURS = 8  # neighbours of an opened box that are shown, on each side


class Builder:
    """Builds one scene, of a whole program or of the inside of one box.

    box_of   the id of the box for each node
    parts    the part of each box, by id
    reads    every use of a leaf: (source, id of the box, the node, argument index)
    """

    def __init__(
        self,
        program: Program,
        prefix: str = "",
        panel: str = "",
        formulas: bool = True,
        part: Part | None = None,
        around: Builder | None = None,
    ) -> None:
        """formulas: of gradients, in fused boxes; part: the part to draw, around: the builder of the scene with its box."""
        self.program, self.options, self.prefix, self.around = program, program.options, prefix, around
        self.root = program.root if part is None else part
        self.nodes = self.root.nodes
        self.requested_depth = self.options.depth if part is None else None
        self.maps = self.options.maps and part is None
        outer: str = "" if around is None else around.within
        self.within: str = program.paths.path(self.root.key) if self.root.is_module else outer
        self.scene = Scene()
        self.box_of: dict[Node, str] = {}
        self.parts: dict[str, Part] = {}
        self.reads: list[tuple[Source, str, Node, int]] = []
        self.outer: tuple[str, ...] = ()
        if panel:
            self.outer = (f"{prefix}panel",)
            self.scene.groups[self.outer[0]] = panel
        if part is None:
            self.scene.notes += program.folds.notes
        if self.options.fold:
            self.scene.notes += program.folds.regions(self.root)
        self.depth = self.chosen_depth()
        self.drawn: list[tuple[Part, tuple[str, ...], int]] = []
        self.named_frames: set[str] = set()
        self.cut(self.root, self.outer, 0, 1)
        for p, group, count in self.drawn:
            self.place(p, group, count)
        self.draw_leaves()
        content = Content(
            program, self.inside, self.last_of, self.named_frames, self.scene.repeats, self.within, self.maps, formulas
        )
        for p, _, count in self.drawn:
            box = self.scene.boxes[self.box_of[program.folds.shown(p.nodes[0])]]
            content.fill(box, p, count)
            if p.nodes[-1].dtype is None:
                self.fill_failed(box, p.nodes[-1])
            elif self.options.fold and p.kind != "op" and len(p.nodes) > 1:
                box.inner = partial(self.inside_of, p, count)
        self.draw_edges()
        if around is not None:
            self.draw_neighbours()
        self.finish()

    def inside_of(self, part: Part, count: int) -> Scene:
        """The scene inside of a box; for a layer with a single function, the inside of that function."""
        while len(part.parts) == 1 and part.parts[0].kind != "repeat":
            (part,) = part.parts
        if part not in self.program.inner:
            scene = self.program.inner[part] = Builder(self.program, part=part, around=self).scene
            scene.notes[:0] = [f"the first of {count} equal blocks"] * (count > 1)
        return self.program.inner[part]

    # Boxes of parts

    def is_closed(self, part: Part, level: int, depth: float) -> bool:
        """Whether a module is drawn as one box."""
        if self.requested_depth is not None:
            return level >= self.requested_depth and (part.kind == "module" or part.is_layer)
        return self.options.fold and (part.is_layer or (level >= depth and part.kind == "module") or depth < 0)

    def chosen_depth(self) -> float:
        """The depth to which modules are unfolded without too many boxes; -1: not even models."""
        deepest = 12
        if self.requested_depth is not None or not self.options.fold:
            return deepest
        for depth in range(deepest, -1, -1):
            boxes = self.count(self.root, 0, depth)
            if boxes <= BOXES:
                return depth
        return -1 if boxes > CROWD and sum(p.kind == "model" for p in self.root.parts) > 1 else 0

    def count(self, part: Part, level: int, depth: float) -> int:
        total = 0
        for p in part.parts:
            if p.kind in ("repeat", "order"):
                total += self.count(p, level, depth)
            elif p.is_module and not self.is_closed(p, level, depth):
                total += self.count(p, level + (p.kind == "module"), depth)
            else:
                total += 1
        return total

    def cut(self, part: Part, group: tuple[str, ...], level: int, count: int) -> None:
        """Decide which parts of a part are boxes, and in which groups."""
        for p in part.parts:
            if p.kind == "repeat":
                times = count * p.count
                (only,) = p.parts if len(p.parts) == 1 else (None,)
                if only is not None and (not only.is_module or self.is_closed(only, level, self.depth)):
                    self.drawn.append((only, group, times))
                    continue
                key = self.frame(p, f"× {p.count}", "repeat")
                self.cut(p, (*group, key), level, times)
            elif p.is_module and not self.is_closed(p, level, self.depth):
                inner = group
                if p.kind == "module" or self.program.models or self.program.is_framed:
                    inner = (*group, self.frame(p, self.program.label(p, self.named_frames, self.within)))
                if p.scopes:
                    self.named_frames.add(str(p.key))
                self.cut(p, inner, level + (p.kind == "module"), count)
            elif p.kind == "order":
                self.cut(p, (*group, self.frame(p, "∂" + "⁰¹²³⁴⁵⁶⁷⁸⁹"[p.key % 10] * (p.key > 1) + " gradient")), level, count)
            else:
                self.drawn.append((p, group, count))

    def frame(self, part: Part, label: str, kind: str = "") -> str:
        names = {"repeat": f"repeat{part.number}", "order": f"order{part.key}"}
        key = f"{self.prefix}{names.get(part.kind) or str(part.key) or 'model'}"
        while key in self.scene.groups:  # another call, or a module of the same name
            key += "'"
        self.scene.groups[key] = label
        if kind == "repeat":
            self.scene.repeats.add(key)
        return key

    # Contents

    def new(self, kind: str, lines: list[str], **fields: Any) -> Box:
        box = Box(f"{self.prefix}b{len(self.scene.boxes)}", kind, lines, **fields)
        self.scene.boxes[box.id] = box
        return box

    def place(self, part: Part, group: tuple[str, ...], count: int) -> None:
        """Create the box of a part; its contents are written when all boxes exist."""
        box = self.new("op", [], group=group)
        self.parts[box.id] = part
        for node in part.nodes:
            self.box_of[node] = box.id
        box.mark = next((m for n in part.nodes if (m := self.options.marks.get(n.index, ""))), "")

    def at(self, node: Node) -> str:
        """The id of the box for a node."""
        return self.box_of[self.program.folds.shown(node)]

    def draw_leaves(self) -> None:
        """Collect the leaves, and create boxes for those not shown in the boxes that read them."""
        source_of = self.program.sources.source
        for node in self.nodes:
            for i, s in enumerate(node.inputs):
                if isinstance(s, Tensor):
                    self.reads.append((source_of(s, node), self.at(node), node, i))
        outside = {source for source, at, node, _ in self.reads if not self.is_inside(source, at, node)}
        inside: dict[str, dict[Source, None]] = {}
        boxes: dict[Any, list[Source]] = {}
        nodes_of = {at: set(part.nodes) for at, part in self.parts.items()}
        for source, at, node, i in self.reads:
            if source not in outside:
                if node in nodes_of[at]:  # not in another block that this box represents
                    inside.setdefault(at, {})[source] = None
                continue
            drawn = self.program.folds.shown(node)
            key: Any = source if drawn is node and node not in self.program.folds.block else (drawn, i, source.is_weight)
            boxes.setdefault(key, []).append(source)
        at_place: dict[Any, Source] = {}
        self.last_of: dict[Source, Source] = {}  # for leaves at the same position of repeated blocks, the last one
        for source, _, node, i in self.reads:
            self.last_of[at_place.setdefault((self.program.folds.shown(node), i), source)] = source
        merged: dict[Source, Any] = {}
        for key, sources in boxes.items():
            for source in sources:
                merged.setdefault(source, key)
        self.inside = {at: list(sources) for at, sources in inside.items()}
        self.leaf_box: dict[Source, str] = {}
        rows: dict[Any, list[Source]] = {}
        for source, key in merged.items():
            rows.setdefault(key, []).append(source)
        for sources in rows.values():
            first, last = sources[0], sources[-1]
            name = first.name if len(sources) == 1 else f"{first.name} … {last.name}"
            kind = "parameter" if first.is_weight else "constant" if first.is_internal else "input"
            mark = "highlight" if any(s.leaf in self.options.highlight for s in sources) else ""
            facts = {"shape": shape_of(first), "dtype": str(first.dtype)}
            size = int(np.prod(first.shape, dtype=int)) * np.dtype(first.dtype).itemsize
            facts["bytes"] = f"{size:,}"
            box = self.new(kind, [name, self.program.described(first)], group=self.outer, mark=mark, facts=facts)
            readers = {at for source, at, _, _ in self.reads if source in sources}
            if kind != "input" and len(readers) == 1:
                box.group = self.scene.boxes[readers.pop()].group
            if self.options.values is not None:
                box.lines.append(in_words([s.array for s in sources]))
                box.facts["values"] = box.lines[-1]
                if self.maps and first.array.shape == first.shape:
                    add_maps(box, [(first.name, first.array)])
            for source in sources:
                self.leaf_box[source] = box.id

    def is_inside(self, source: Source, at: str, node: Node) -> bool:
        """Whether a leaf is shown in the box that reads it: a module's own parameters, weights applied to data, numbers."""
        part = self.parts[at]
        if not self.options.fold and self.requested_depth is None:
            return False
        if source.value:
            return True
        if part.kind == "region":
            return source.is_weight
        if part.is_module:
            return source.owner is not None or type(source.leaf) is not Tensor or (source.is_internal and not source.is_weight)
        if part.kind == "rule":
            return source.is_internal and not source.is_weight and not source.shape
        if not source.is_weight:
            return source.is_internal and part.kind == "function"
        nodes = set(part.nodes)
        others = {s for n in nodes for s in n.inputs if isinstance(s, (Node, Tensor))} - nodes - {source.leaf}
        return any(isinstance(s, Node) or not (s.requires_grad or type(s) is not Tensor or not s.shape) for s in others)

    def fill_failed(self, box: Box, node: Node) -> None:
        """Describe and mark the mismatch of a failed operation."""
        box.kind = "failed"
        text, places = misfits(node)
        box.lines += ["failed", *([text] if text else [])]
        for i in places:
            s = node.inputs[i]
            if isinstance(s, Node):
                self.scene.boxes[self.at(s)].mark = "misfit"
            elif isinstance(s, Tensor):
                source = self.program.sources.source(s, node)
                if source in self.leaf_box:
                    self.scene.boxes[self.leaf_box[source]].mark = "misfit"
                elif source.is_weight:
                    box.inside.append(f"{source.name} {self.program.described(source)}")

    # Edges

    def draw_edges(self) -> None:
        seen: set[tuple[str, str, str, str]] = set()
        for node in self.nodes:
            target = self.at(node)
            part = self.parts[target]
            flows = [
                s for i, s in enumerate(node.inputs)
                if isinstance(s, Node) or (isinstance(s, Tensor) and self.program.sources.source(s, node) in self.leaf_box)
            ]  # fmt: skip
            marked = part.kind == "op" and len(flows) > 1 and not commutes(node.op) and node.function is None
            labels = operands_of(node) if marked else []
            for i, s in enumerate(node.inputs):
                if isinstance(s, Node):
                    if self.program.folds.shown(s) not in self.box_of:
                        continue  # surrounds it
                    source = self.at(s)
                    kind = self.kind_of(s, node, source, target)
                elif isinstance(s, Tensor):
                    leaf_source = self.program.sources.source(s, node)
                    source, kind = self.leaf_box.get(leaf_source, ""), "forward"
                else:
                    continue
                if not source or not kind:
                    continue
                label = labels[i] if marked else self.argument(s, node) if part.kind in ("function", "op") else ""
                key = (source, target, kind, label if marked else "")
                alone = not self.options.fold and part.kind == "op"
                if alone or key not in seen:
                    self.scene.edges.append(Edge(source, target, label, kind))
                seen.add(key)

    def kind_of(self, s: Node, node: Node, source: str, target: str) -> str:
        """The kind of the arrow between two nodes; "" inside a box."""
        blocks = dict(self.program.folds.block.get(s, ()))
        for repeat, k in self.program.folds.block.get(node, ()):
            is_inside = len(self.parts[target].nodes) >= len(repeat.nodes)
            if repeat in blocks and blocks[repeat] != k and not is_inside:
                return "repeat"
        return "" if source == target else "forward"

    def argument(self, s: Any, node: Node) -> str:
        """The name of the argument that an arrow leads to, if there are several."""
        if node.function is None:
            return ""
        arguments = [(name, value) for name, value, _ in node.function.arguments() if isinstance(value, ArgumentInfo)]
        if len([name for name, _ in arguments if name not in ("weight", "bias")]) < 2:
            return ""
        origin = self.program.sources.source(s, node).leaf if isinstance(s, Tensor) else s
        return next((name for name, value in arguments if value.source is not None and value.source() is origin), "")

    def draw_neighbours(self) -> None:
        """Add stubs of the outer boxes with arrows into and out of this one."""
        inner_nodes, folds = set(self.nodes), self.program.folds
        neighbours: dict[str, dict[tuple[int, str], list[tuple[Node, str]]]] = {"from": {}, "to": {}}
        for node in self.nodes:
            for s in node.inputs:
                if isinstance(s, Node) and s not in inner_nodes:
                    neighbours["from"].setdefault(self.place_around(s), []).append((s, self.at(node)))
            for n in self.program.represented.get(node, ()):
                for reader in self.program.readers.get(n, ()):
                    if reader not in inner_nodes and folds.shown(reader) not in self.box_of:
                        neighbours["to"].setdefault(self.place_around(reader), []).append((node, self.at(node)))
        for direction, by_place in neighbours.items():
            places = list(by_place)
            limit = NEIGHBOURS if len(places) <= NEIGHBOURS else NEIGHBOURS - 1
            rows = [[p] for p in places[:limit]] + [places[limit:]] * (len(places) > limit)
            for row in rows:
                names = [self.name_around(p) for p in row]
                line = names[0] if len(row) == 1 else f"{len(row):,} others"
                ends = [end for p in row for end in by_place[p]]
                box = self.new(
                    "elsewhere", [f"{direction} {line}", self.program.shapes([n for n in dict.fromkeys(n for n, _ in ends)])]
                )
                box.facts = {direction: "\n".join(names)}
                box.leads_to = row[0] if len(row) == 1 else None
                for at in dict.fromkeys(at for _, at in ends):
                    self.scene.edges.append(Edge(box.id, at) if direction == "from" else Edge(at, box.id))

    def place_around(self, node: Node) -> tuple[int, str]:
        """The box of a node in a surrounding scene: the number of levels outwards, and its id."""
        node, builder, steps = self.program.folds.shown(node), self.around, 1
        assert builder is not None
        while node not in builder.box_of:
            assert builder.around is not None
            builder, steps = builder.around, steps + 1
        return steps, builder.box_of[node]

    def name_around(self, place: tuple[int, str]) -> str:
        steps, at = place
        builder = self
        for _ in range(steps):
            assert builder.around is not None
            builder = builder.around
        part = builder.parts[at]
        return self.program.label(part, within=builder.within) if part.kind == "region" else builder.scene.boxes[at].lines[0]

    def finish(self) -> None:
        """Remove frames around single boxes, set the heat, note the dtype."""
        scene = self.scene
        count = Counter(key for box in scene.boxes.values() for key in box.group)
        removed = {key for key, n in count.items() if n < 2 and key not in self.outer and key not in scene.repeats}
        for box in scene.boxes.values():
            box.group = tuple(key for key in box.group if key not in removed)
        used = {key for box in scene.boxes.values() for key in box.group}
        scene.groups = {key: label for key, label in scene.groups.items() if key in used}
        scene.repeats &= used
        limit = max((box.heat for box in scene.boxes.values() if box.heat is not None), default=0.0)
        for box in scene.boxes.values():
            if box.heat is not None:
                box.heat = box.heat / limit if limit else 0.0
        if self.program.dtype != "float32":
            scene.notes.append(f"{self.program.dtype} unless shown otherwise")
        if self.options.cost and self.around is None:
            scene.notes.append(f"in all {sum(self.program.costs.values(), Cost())}")

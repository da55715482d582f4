"""From a Graph to a Scene: which parts of the program are boxes, what stands in them, what leads where."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tensorgrad.core.graph import Graph
from tensorgrad.core.lazy import cached_property
from tensorgrad.core.node import Node
from tensorgrad.core.profiling import Cost
from tensorgrad.core.scope import Given
from tensorgrad.core.table import visible
from tensorgrad.core.tensor import Tensor
from tensorgrad.draw.fold import Folds
from tensorgrad.draw.heat import LARGE, SMALL, map_of
from tensorgrad.draw.measure import costs_of, in_words, known_costs
from tensorgrad.draw.parts import Part, tree
from tensorgrad.draw.scene import Box, Edge, Scene
from tensorgrad.draw.sources import Source, Sources
from tensorgrad.draw.words import (
    arguments_of,
    class_of,
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

BOXES = 24  # as many are drawn before modules are folded
LINES = 3  # parameters of a layer that are listed; of more how many numbers there are


@dataclass(frozen=True)
class Options:
    """What to show; see draw.graph."""

    values: Mapping[Any, Any] | None = None  # of leaves and nodes
    maps: bool = False  # pictures of them, too
    cost: bool = False
    costs: Mapping[Node, Cost] | None = None  # known beforehand
    measured: bool = False  # costs among the facts, whether or not they stand in the boxes
    depth: int | None = None
    fold: bool = True
    modules: bool = True
    formulas: bool = True  # of gradients, in fused boxes; else they stand in boxes of their own
    highlight: frozenset[Any] = frozenset()
    names: Mapping[Any, str] = field(default_factory=dict)  # of models
    letters: Mapping[Any, str] = field(default_factory=dict)  # for parameters of layers, W1, b1, ...
    marks: Mapping[int, str] = field(default_factory=dict)  # index of a node to added, removed or changed


class Builder:
    """Makes one scene.

    box_of   the id of the box that a node is drawn in
    parts    the part that a box stands for, by id
    reads    every leaf that is read: (source, id of the box, the node, which argument)
    """

    def __init__(self, graph: Graph, options: Options, prefix: str = "", panel: str = "") -> None:
        self.graph, self.options, self.prefix = graph, options, prefix
        self.scene = Scene()
        self.box_of: dict[Node, str] = {}
        self.parts: dict[str, Part] = {}
        self.reads: list[tuple[Source, str, Node, int]] = []
        self.outer: tuple[str, ...] = ()
        if panel:
            self.outer = (f"{prefix}panel",)
            self.scene.groups[self.outer[0]] = panel
        self.costs: Mapping[Node, Cost] = {}
        if options.measured:
            self.costs = costs_of(graph) if options.costs is None else known_costs(graph, options.costs)
        dtypes = Counter(str(n.dtype) for n in graph.nodes if n.dtype is not None)
        self.dtype = dtypes.most_common(1)[0][0] if dtypes else "float32"
        self.folds = Folds()
        self.root = tree(list(graph.nodes), functions=options.fold, modules=options.modules)
        self.models = self.named_models()
        if options.fold:
            self.folds.repeats(self.root)
            self.folds.regions(self.root)
        self.outputs = {self.folds.shown(n) for n in graph.outputs}
        self.depth = self.chosen_depth()
        self.drawn: list[tuple[Part, tuple[str, ...], int]] = []
        self.named_frames: set[str] = set()
        self.cut(self.root, self.outer, 0, 1)
        for part, group, count in self.drawn:
            self.place(part, group, count)
        self.sources = Sources(self.models)
        self.draw_leaves()
        for part, _, count in self.drawn:
            self.fill(self.scene.boxes[self.box_of[self.folds.shown(part.nodes[0])]], part, count)
        self.draw_edges()
        self.finish()

    # Which parts are boxes

    def named_models(self) -> dict[int, str]:
        """What each model is called, where there are several, or where names were given for them."""
        called = [p for p in self.root.parts if p.kind == "model"]
        calls = Counter(id(p.key.module) for p in called)
        numbers: Counter[int] = Counter()
        for part in called:
            if calls[id(part.key.module)] > 1:
                numbers[id(part.key.module)] += 1
                part.number = numbers[id(part.key.module)]
        self.is_framed = len(called) > 1
        modules = list(dict.fromkeys(p.key.module for p in called))
        given = {id(module): name for module, name in self.options.names.items()}
        if len(modules) < 2 and not any(id(m) in given for m in modules):
            return {}
        names = [given.get(id(m), type(m).__name__) for m in modules]
        many = Counter(names)
        seen: Counter[str] = Counter()
        found = {}
        for module, name in zip(modules, names, strict=True):
            seen[name] += 1
            found[id(module)] = visible(name if many[name] == 1 else f"{name} {seen[name]}")
        return found

    def is_closed(self, part: Part, level: int, depth: float) -> bool:
        """Whether a module is one box."""
        if self.options.depth is not None:
            return level >= self.options.depth and (part.kind == "module" or part.is_layer)
        return self.options.fold and (part.is_layer or (level >= depth and part.kind == "module"))

    def chosen_depth(self) -> float:
        """How deep modules are unfolded: as far as the boxes are not too many."""
        deepest = 12
        if self.options.depth is not None or not self.options.fold:
            return deepest
        for depth in range(deepest, -1, -1):
            if self.count(self.root, 0, depth) <= BOXES:
                return depth
        return 0

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
        """Say which parts of a part are boxes, and in which groups."""
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
                if p.kind == "module" or self.models or self.is_framed:
                    inner = (*group, self.frame(p, self.label(p)))
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
        while key in self.scene.groups:  # another call, or a module of the name
            key += "'"
        self.scene.groups[key] = label
        if kind == "repeat":
            self.scene.repeats.add(key)
        return key

    def label(self, part: Part) -> str:
        """The name of a module: its path and its class with its arguments."""
        scope, module = part.key, part.key.module
        name = class_of(module)
        if part.kind == "model":
            own = self.models.get(id(module), "")
            call = f", call {part.number}" if part.number else ""
            if own and own.split(" ")[0] != type(module).__name__:
                own = f"{own} · {name}"
            path = f"{visible(str(scope))} · " if str(scope) else ""
            return (own or f"{path}{name}") + call
        path = visible(str(scope))
        if part.scopes:
            if str(scope.outer) in self.named_frames:  # whose label says of which blocks
                path = path.removeprefix(f"{visible(str(scope.outer))}.")
            else:
                path += f" … {visible(part.scopes[-1])}"
        return f"{path} · {name}"

    # Boxes

    def new(self, kind: str, lines: list[str], **fields: Any) -> Box:
        box = Box(f"{self.prefix}b{len(self.scene.boxes)}", kind, lines, **fields)
        self.scene.boxes[box.id] = box
        return box

    def place(self, part: Part, group: tuple[str, ...], count: int) -> None:
        """Make the box of a part; what stands in it comes when all boxes are there."""
        box = self.new("op", [], group=group)
        self.parts[box.id] = part
        for node in part.nodes:
            self.box_of[node] = box.id
        box.mark = next((m for n in part.nodes if (m := self.options.marks.get(n.index, ""))), "")

    def at(self, node: Node) -> str:
        """The id of the box that a node is drawn in."""
        return self.box_of[self.folds.shown(node)]

    def described(self, value: Any) -> str:
        """Shape, and the dtype where it is not that of the program."""
        return shape_of(value) + ("" if str(value.dtype) == self.dtype else f" {value.dtype}")

    def draw_leaves(self) -> None:
        """Find out what is given, and make a box for what is not shown in the boxes that read it."""
        find = self.sources.source
        for node in self.graph.nodes:
            for i, s in enumerate(node.inputs):
                if isinstance(s, Tensor):
                    self.reads.append((find(s, node), self.at(node), node, i))
        outside = {source for source, at, node, _ in self.reads if not self.is_inside(source, at, node)}
        inside: dict[str, dict[Source, None]] = {}
        boxes: dict[Any, list[Source]] = {}
        own = {at: set(part.nodes) for at, part in self.parts.items()}
        for source, at, node, i in self.reads:
            if source not in outside:
                if node in own[at]:  # and not in another block that this box stands for
                    inside.setdefault(at, {})[source] = None
                continue
            shown = self.folds.shown(node)
            key: Any = source if shown is node and node not in self.folds.block else (shown, i, source.is_weight)
            boxes.setdefault(key, []).append(source)
        at_place: dict[Any, Source] = {}
        self.last_of: dict[Source, Source] = {}  # of what equal blocks read at one place, what the last one reads
        for source, _, node, i in self.reads:
            self.last_of[at_place.setdefault((self.folds.shown(node), i), source)] = source
        merged: dict[Source, Any] = {}
        for key, found in boxes.items():
            for source in found:
                merged.setdefault(source, key)
        self.inside = {at: list(found) for at, found in inside.items()}
        self.leaf_box: dict[Source, str] = {}
        rows: dict[Any, list[Source]] = {}
        for source, key in merged.items():
            rows.setdefault(key, []).append(source)
        for found in rows.values():
            first, last = found[0], found[-1]
            name = first.name if len(found) == 1 else f"{first.name} … {last.name}"
            kind = "parameter" if first.is_weight else "constant" if first.is_own else "input"
            mark = "highlight" if any(s.leaf in self.options.highlight for s in found) else ""
            facts = {"shape": shape_of(first), "dtype": str(first.dtype)}
            size = int(np.prod(first.shape, dtype=int)) * np.dtype(first.dtype).itemsize
            facts["bytes"] = f"{size:,}"
            box = self.new(kind, [name, self.described(first)], group=self.outer, mark=mark, facts=facts)
            readers = {at for source, at, _, _ in self.reads if source in found}
            if kind != "input" and len(readers) == 1:
                box.group = self.scene.boxes[readers.pop()].group
            if self.options.values is not None:
                box.lines.append(in_words([s.array for s in found]))
                box.facts["values"] = box.lines[-1]
                if self.options.maps and first.array.shape == first.shape:
                    self.add_maps(box, [(first.name, first.array)])
            for source in found:
                self.leaf_box[source] = box.id

    def is_inside(self, source: Source, at: str, node: Node) -> bool:
        """Whether what a node reads is shown in its box: a module's own parameters, weights that data meet, numbers."""
        part = self.parts[at]
        if not self.options.fold and self.options.depth is None:
            return False
        if source.value:
            return True
        if part.kind == "region":
            return source.is_weight
        if part.is_module:
            return source.owner is not None or type(source.leaf) is not Tensor or (source.is_own and not source.is_weight)
        if part.kind == "rule":
            return source.is_own and not source.is_weight and not source.shape
        if not source.is_weight:
            return source.is_own and part.kind == "function"
        own = set(part.nodes)
        others = {s for n in own for s in n.inputs if isinstance(s, (Node, Tensor))} - own - {source.leaf}
        return any(isinstance(s, Node) or not (s.requires_grad or type(s) is not Tensor or not s.shape) for s in others)

    def fill(self, box: Box, part: Part, count: int) -> None:
        """Write what stands in a box."""
        node = part.nodes[-1]
        ends = any(n in self.outputs for n in part.nodes)
        inside = self.inside.get(box.id, [])
        if any(n in self.options.highlight for p in part.nodes for n in (p, *p.members)) or any(
            s.leaf in self.options.highlight for s in inside
        ):
            box.mark = "highlight"
        box.facts = facts_of(node) if node.dtype is not None else {}
        weights = [s for s in inside if s.is_weight]
        if part.kind == "op":
            self.fill_op(box, node, weights)
        elif part.kind == "function":
            box.lines = [part.key.name]
            if told := arguments_of(part.key):
                box.lines.append(told)
        elif part.kind == "rule":
            box.kind, box.left = "rule", True
            of = part.key
            name = title_of(of, lambda i, s: "") if any(isinstance(s, (int, float)) for s in of.inputs) else of.op.name
            box.lines = [f"gradient of {name}", *formula_lines(of.op, "backward")]
        elif part.kind == "region":
            box.kind = "fold"
            a, b = part.key
            box.lines = [f"region {part.number} · operations {a + 1:,} … {b:,}", contents_of(part)]
        else:
            box.kind = "layer" if part.is_layer and weights else "op" if part.is_layer else "fold"
            box.lines = [self.label(part)]
        if count > 1 and not any(key in self.scene.repeats for key in box.group):
            box.kind = "fold" if box.kind == "op" else box.kind
            box.lines.append(f"× {count}")
        if len(part.nodes) > 1:
            box.facts = {k: box.facts[k] for k in ("shape", "dtype", "bytes", "module", "line") if k in box.facts}
            box.facts["ops"] = contents_of(part)
        if node.dtype is None:
            self.fill_failed(box, node)
            return
        if ends:
            box.kind = "output"
            if not node.shape and node is self.graph.outputs[0] and node.gradient_of is None:
                box.lines.append("loss")
        box.lines.append(self.described(node))
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
            if self.options.formulas:
                box.lines += formula_lines(node.op, "backward")
        if between and weights:
            box.facts["reads"] = ", ".join(f"{s.name} {shape_of(s)}" for s in weights)

    def write_weights(self, box: Box, part: Part, weights: list[Source], count: int) -> None:
        """The parameters that a box has inside of it."""
        if not weights:
            return
        total = sum(int(np.prod(s.shape, dtype=int)) for s in weights)
        each = " each" if count > 1 else ""
        if part.is_module:
            path = str(part.key)
            if part.is_layer and len(weights) <= LINES:
                box.inside = packed([f"{self.letter(s, count)} {self.described(s)}" for s in weights])
            else:
                box.inside = [f"{total:,} parameters{each}"]
            box.facts["parameters"] = f"{total:,}{each}: " + ", ".join(
                f"{s.name.removeprefix(f'{path}.')} {shape_of(s)}" for s in weights
            )
        elif part.kind == "op" and len(weights) == 1 and is_between(part.nodes[0]):
            name = from_to(weights[0].name, self.last_of.get(weights[0], weights[0]).name)
            box.inside = [f"{name} {self.described(weights[0])}"]
        else:
            model = next((f"{name}." for name in self.models.values() if weights[0].name.startswith(f"{name}.")), "")
            names = [from_to(s.name, self.last_of.get(s, s).name) for s in weights]
            texts = [f"{n.removeprefix(model)} {self.described(s)}" for n, s in zip(names, weights, strict=True)]
            box.inside = packed(texts) if len(texts) <= LINES else [f"{total:,} parameters{each}"]

    def letter(self, weight: Source, count: int) -> str:
        """What a layer's box calls a parameter of it; one that stands for several has no number."""
        letter = self.options.letters.get(weight.leaf)
        if letter is None:
            return weight.name.rpartition(".")[2]
        return letter.rstrip("0123456789") if count > 1 else letter

    def fill_failed(self, box: Box, node: Node) -> None:
        """Say of an operation that failed what did not fit, and mark that."""
        from tensorgrad.draw.failed import misfits

        box.kind = "failed"
        text, places = misfits(node)
        box.lines += ["failed", *([text] if text else [])]
        for i in places:
            s = node.inputs[i]
            if isinstance(s, Node):
                self.scene.boxes[self.at(s)].mark = "misfit"
            elif isinstance(s, Tensor):
                source = self.sources.source(s, node)
                if source in self.leaf_box:
                    self.scene.boxes[self.leaf_box[source]].mark = "misfit"
                elif source.is_weight:
                    box.inside.append(f"{source.name} {self.described(source)}")

    def measure(self, box: Box, part: Part, count: int) -> None:
        """Values and costs."""
        arrays = self.options.values
        if arrays is not None:
            last = self.folds.shown(part.nodes[-1])
            same = self.standing[last] if count > 1 else [part.nodes[-1]]
            found = [arrays[n] for n in same if n in arrays]
            if found:
                box.lines.append(in_words(found))
                box.facts["values"] = box.lines[-1]
            if self.options.maps:
                matrices = [s for s in self.inside.get(box.id, []) if s.is_weight and len(s.shape) > 1]
                self.add_maps(box, [(s.name.rpartition(".")[2] + " of the first" * (count > 1), s.array) for s in matrices[:1]])
                self.add_maps(box, [("result" if count == 1 else "result of the first", a) for a in found[:1]])
        if self.costs:
            nodes = {n for m in part.nodes for n in self.standing.get(m, [m])}
            spent = sum((self.costs[n] for n in nodes), Cost())
            box.facts |= spent.facts()
            if self.options.cost:
                each = Cost(spent.bytes // count, spent.flops // count, spent.seconds / count)
                box.lines.append(str(spent) if count == 1 else f"{each} each, {spent} in all")
                box.heat = spent.seconds

    def add_maps(self, box: Box, arrays: list[tuple[str, Any]]) -> None:
        """Pictures of arrays, small and large."""
        for name, array in arrays:
            small, large = (map_of(name, array, most) for most in (SMALL, LARGE))
            if small is not None and large is not None:
                box.maps.append((small, large))

    @cached_property
    def standing(self) -> dict[Node, list[Node]]:
        """For a node that is drawn, itself and those in other blocks that it stands for."""
        found: dict[Node, list[Node]] = {}
        for node in self.graph.nodes:
            found.setdefault(self.folds.shown(node), []).append(node)
        return found

    # Edges

    def draw_edges(self) -> None:
        seen: set[tuple[str, str, str, str]] = set()
        for node in self.graph.nodes:
            target = self.at(node)
            part = self.parts[target]
            flows = [
                s for i, s in enumerate(node.inputs)
                if isinstance(s, Node) or (isinstance(s, Tensor) and self.sources.source(s, node) in self.leaf_box)
            ]  # fmt: skip
            marked = part.kind == "op" and len(flows) > 1 and not commutes(node.op) and node.function is None
            labels = operands_of(node) if marked else []
            for i, s in enumerate(node.inputs):
                if isinstance(s, Node):
                    source = self.at(s)
                    kind = self.kind_of(s, node, source, target)
                elif isinstance(s, Tensor):
                    found = self.sources.source(s, node)
                    source, kind = self.leaf_box.get(found, ""), "forward"
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
        """The kind of the arrow from one node to another; "" where it lies inside of a box."""
        blocks = dict(self.folds.block.get(s, ()))
        for repeat, k in self.folds.block.get(node, ()):
            is_inside = len(self.parts[target].nodes) >= len(repeat.nodes)
            if repeat in blocks and blocks[repeat] != k and not is_inside:
                return "repeat"
        return "" if source == target else "forward"

    def argument(self, s: Any, node: Node) -> str:
        """Which argument of a function an arrow leads to, where several do."""
        if node.function is None:
            return ""
        given = [(name, value) for name, value, _ in node.function.arguments() if isinstance(value, Given)]
        if len([name for name, _ in given if name not in ("weight", "bias")]) < 2:
            return ""
        known = self.sources.source(s, node).leaf if isinstance(s, Tensor) else s
        return next((name for name, value in given if value.source is not None and value.source() is known), "")

    def finish(self) -> None:
        """Drop frames around single boxes, set the heat, say which dtype there is."""
        scene = self.scene
        count = Counter(key for box in scene.boxes.values() for key in box.group)
        gone = {key for key, n in count.items() if n < 2 and key not in self.outer and key not in scene.repeats}
        for box in scene.boxes.values():
            box.group = tuple(key for key in box.group if key not in gone)
        used = {key for box in scene.boxes.values() for key in box.group}
        scene.groups = {key: label for key, label in scene.groups.items() if key in used}
        scene.repeats &= used
        most = max((box.heat for box in scene.boxes.values() if box.heat is not None), default=0.0)
        for box in scene.boxes.values():
            if box.heat is not None:
                box.heat = box.heat / most if most else 0.0
        scene.notes += self.folds.notes
        if self.dtype != "float32":
            scene.notes.append(f"{self.dtype} where nothing is said")
        if self.options.cost:
            scene.notes.append(f"in all {sum(self.costs.values(), Cost())}")

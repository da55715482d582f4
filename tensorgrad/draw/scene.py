"""What a drawing shows, before anybody decides how: boxes, groups of boxes, edges. Built from a Graph; read by the writers.

graph -> units (a node each; a module, a repeat or a chain folded into one) -> boxes and edges -> .dot, Mermaid, page
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tensorgrad.core.graph import Graph
from tensorgrad.core.node import Node
from tensorgrad.core.profiling import Cost
from tensorgrad.core.tensor import Tensor
from tensorgrad.draw.fold import Unit, fold_chains, fold_functions, fold_modules, fold_repeats, fold_segments
from tensorgrad.draw.measure import costs_of, in_words, known_costs

LIMIT = 200  # boxes that a page can hold and a person can follow


@dataclass
class Box:
    """One box.

    kind   parameter, input, constant, op, output, fused, fold, rule, gradients or failed
    lines  what stands in it, the first line being its name
    group  the groups that it lies in, from the outermost
    facts  what a page shows beside it: shape, dtype, bytes, FLOPs, time, formula, line
    heat   its share of the most expensive box's time or work, 0 to 1
    mark   highlight, added, removed or changed
    left   whether its lines start at the left, as formulas do
    """

    id: str
    kind: str
    lines: list[str]
    group: tuple[str, ...] = ()
    facts: dict[str, str] = field(default_factory=dict)
    heat: float | None = None
    mark: str = ""
    left: bool = False


@dataclass
class Edge:
    """An arrow. `kind`: forward, gradient (drawn upwards), rule (from an op to its rule) or repeat (to the next of a fold)."""

    source: str
    target: str
    label: str = ""
    kind: str = "forward"


@dataclass
class Scene:
    """Everything in a drawing.

    groups  key to label, of modules, folds and panels
    notes   what was folded, in words
    """

    boxes: dict[str, Box] = field(default_factory=dict)
    edges: list[Edge] = field(default_factory=list)
    groups: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    title: str = ""
    direction: str = "TB"


@dataclass(frozen=True)
class Options:
    """What to show; see draw.graph."""

    fused: bool = False
    values: bool = False
    cost: bool = False
    measured: bool = False  # costs among the facts, whether or not they stand in the boxes
    costs: dict[Node, Cost] | None = None  # known beforehand; otherwise they are measured
    depth: int | None = None
    fold: bool = True
    functions: bool = True  # a call of a function of several ops as one box
    highlight: frozenset[Any] = frozenset()
    marks: dict[int, str] = field(default_factory=dict)  # index of a node to added, removed or changed


def build(graph: Graph, options: Options, prefix: str = "", panel: str = "") -> Scene:
    """The scene of a graph; `prefix` goes before all ids, `panel` is the outermost group's label."""
    return Builder(graph, options, prefix, panel).scene


class Builder:
    """Makes one scene."""

    def __init__(self, graph: Graph, options: Options, prefix: str, panel: str) -> None:
        self.options, self.prefix = options, prefix
        self.scene = Scene()
        scopes = [scope.split(".") for scope in {node.scope for node in graph.nodes}]
        self.paths = {".".join(parts[: i + 1]) for parts in scopes for i in range(len(parts))}
        self.outer: tuple[str, ...] = ()
        if panel:
            self.outer = (self.group_key("panel"),)
            self.scene.groups[self.outer[0]] = panel
        self.names = graph.leaf_names()
        recorded = [n for n in graph.nodes if n.gradient_of is None]
        backward = [n for n in graph.nodes if n.gradient_of is not None]
        self.has_rules = bool(backward)
        forward = Graph([n for n in graph.outputs if n.gradient_of is None] or recorded[-1:], check=False)
        shown = forward.fused() if options.fused else forward
        self.outputs = set(shown.outputs)
        self.end = shown.outputs[0]
        self.costs: dict[Node, Cost] = {}
        if options.measured:
            self.costs = costs_of(shown) if options.costs is None else known_costs(shown, options.costs)
        self.arrays: dict[Any, Any] = shown.values() if options.values else {}
        self.units = self.folded([Unit([node], node.op.name) for node in shown.nodes])
        self.unit_of = {node: unit for unit in self.units for node in unit.nodes}
        self.by_index = {member.index: unit for node, unit in self.unit_of.items() for member in (node, *node.members)}
        self.ids: dict[Any, str] = {}
        self.rule_of: dict[Node, str] = {}  # id of the box of the rule that made a node of the backward pass
        self.modules()
        for unit in self.units:
            self.draw_unit(unit)
        if options.cost:
            self.scene.notes.append(f"in all {sum(self.costs.values(), Cost())}")
        self.draw_leaves()
        self.draw_edges()
        if backward:
            self.draw_backward(backward)
        self.drop_trivial_groups()

    def folded(self, units: list[Unit]) -> list[Unit]:
        options, notes = self.options, self.scene.notes
        if options.functions:
            units = fold_functions(units)
        if options.depth is not None:
            units = fold_modules(units, options.depth)
        if options.fold:
            units = fold_repeats(units, notes)
            if len(units) > LIMIT:
                units = fold_chains(units, notes)
            if len(units) > LIMIT:
                units = fold_segments(units, LIMIT, notes)
        return units

    # Groups

    def group_key(self, name: str) -> str:
        """The key of a group that is no module, even where a module is called `name`."""
        while name in self.paths:
            name += "'"
        return f"{self.prefix}{name}"

    def modules(self) -> None:
        """A group for every module, and one for every repeat inside the module that it lies in."""
        self.group_of: dict[Unit, tuple[str, ...]] = {}
        for unit in self.units:
            scope = unit.scope
            parts = scope.split(".") if scope else []
            if unit.kind == "module":
                parts = parts[:-1]
            path = [".".join(parts[: i + 1]) for i in range(len(parts))]
            keys = [f"{self.prefix}{p}" for p in path]
            for key, name in zip(keys, path, strict=True):
                self.scene.groups.setdefault(key, name)
            if unit.repeat is not None:
                key = self.group_key(f"repeat{unit.repeat.number}")
                self.scene.groups.setdefault(key, f"× {unit.repeat.count}")
                shared = unit.repeat.scope.split(".") if unit.repeat.scope else []
                keys.insert(min(len(shared), len(keys)), key)
            self.group_of[unit] = (*self.outer, *keys)

    def drop_trivial_groups(self) -> None:
        """A box around a single box says nothing."""
        count = Counter(key for box in self.scene.boxes.values() for key in box.group)
        gone = {
            key for key, n in count.items() if n < 2 and key not in self.outer and not self.scene.groups[key].startswith("×")
        }
        for box in self.scene.boxes.values():
            box.group = tuple(key for key in box.group if key not in gone)
        used = {key for box in self.scene.boxes.values() for key in box.group}
        self.scene.groups = {key: label for key, label in self.scene.groups.items() if key in used}

    # Boxes

    def new(self, what: Any, kind: str, lines: list[str], **fields: Any) -> Box:
        box = Box(f"{self.prefix}b{len(self.scene.boxes)}", kind, lines, **fields)
        self.scene.boxes[box.id] = box
        self.ids[what] = box.id
        return box

    def draw_unit(self, unit: Unit) -> None:
        node = unit.nodes[-1]
        group = self.group_of[unit]
        marks = [self.options.marks.get(n.index, "") for n in unit.nodes]
        mark = next((m for m in marks if m), "")
        if any(n in self.options.highlight for part in unit.nodes for n in (part, *part.members)):
            mark = "highlight"
        if unit.kind != "op":
            ends = any(n in self.outputs for n in unit.nodes)
            kind = "output" if ends else "op" if unit.kind == "function" else "fold"
            lines = unit.lines()
            if unit.kind == "function" and node is self.end and not node.shape:
                lines.insert(1, "loss")
            facts = {"ops": unit.contents()}
            if unit.kind == "function":
                known = facts_of(node)
                facts |= {key: known[key] for key in ("shape", "dtype", "bytes", "module", "line") if key in known}
            box = self.new(unit, kind, lines, group=group, mark=mark, facts=facts)
        elif node.dtype is None:
            box = self.new(unit, "failed", [title_of(node), "failed"], group=group)
        else:
            lines = [title_of(node)]
            if node.members and node.op.formula("forward"):
                lines += formula_lines(node, "forward")
                lines += [] if self.has_rules else formula_lines(node, "backward")  # else it stands in the rule's own box
            if node in self.outputs:
                lines += ["loss"] if not node.shape and node is self.end else []
            lines.append(described(node))
            kind = "output" if node in self.outputs else "fused" if node.members else "op"
            box = self.new(unit, kind, lines, group=group, mark=mark, facts=facts_of(node), left=bool(node.members))
        if self.arrays and unit.kind == "op" and unit.repeat is None:
            box.lines.append(in_words(self.arrays[node]))
            box.facts["values"] = box.lines[-1]
        if self.costs:
            spent = sum((self.costs[n] for n in unit.nodes), Cost())
            box.facts |= spent.facts()
            if self.options.cost:
                box.lines.append(str(spent))
                box.heat = min(spent.seconds / max(c.seconds for c in self.costs.values()), 1.0)

    def draw_leaves(self) -> None:
        """A box for every leaf that is not inside a folded module; leaves of a fold's other instances share one."""
        readers: dict[Tensor, list[Unit]] = {}
        for unit in self.units:
            for node in unit.nodes:
                for source in node.inputs:
                    if isinstance(source, Tensor):
                        readers.setdefault(source, []).append(unit)
        shared: dict[Any, list[Tensor]] = {}
        for leaf, units in readers.items():
            inside = all(u.kind not in ("op", "function") for u in units) and len(set(units)) == 1 and is_parameter(leaf)
            if inside:
                continue
            unit = units[0]
            key: Any = leaf
            if unit.repeat is not None and len(set(units)) == 1:
                key = (unit, unit.place(leaf), leaf.requires_grad)
            shared.setdefault(key, []).append(leaf)
        for key, leaves in shared.items():
            first = leaves[0]
            units = readers[first]
            lines = [self.names[first] if len(leaves) == 1 else f"{self.names[first]} … {self.names[leaves[-1]]}"]
            lines.append(described(first))
            own = is_parameter(first)
            kind = "parameter" if own else "constant" if not first.shape and not first.name else "input"
            group = self.group_of[units[0]] if own and len(set(units)) == 1 else self.outer
            if not own and len(leaves) > 1:
                group = self.group_of[units[0]]
            mark = "highlight" if any(leaf in self.options.highlight for leaf in leaves) else ""
            box = self.new(key, kind, lines, group=group, mark=mark, facts=facts_of(first))
            for leaf in leaves:
                self.ids[leaf] = box.id
            if self.arrays and len(leaves) == 1:
                box.lines.append(in_words(first._data))
                box.facts["values"] = box.lines[-1]

    def draw_edges(self) -> None:
        seen: set[tuple[str, str, str]] = set()
        for unit in self.units:
            for node in unit.nodes:
                for source in node.inputs:
                    if isinstance(source, Tensor):
                        start = self.ids.get(source)
                    elif isinstance(source, Node):
                        start = self.ids[self.unit_of[source]]
                        if self.unit_of[source] is unit and unit.repeat is None:
                            continue  # inside of a folded box
                    else:
                        continue
                    if start is None:
                        continue
                    kind = "forward"
                    if isinstance(source, Node) and unit.repeat is not None:
                        blocks = unit.repeat.blocks
                        if source in blocks and blocks[source] != blocks[node]:
                            kind = "repeat"
                    edge = Edge(start, self.ids[unit], described(source), kind)
                    alone = unit.kind == "op" and unit.repeat is None and len(unit.nodes) == 1
                    key = (start, self.ids[unit], kind)
                    if alone or key not in seen:
                        self.scene.edges.append(edge)
                    seen.add(key)

    def draw_backward(self, nodes: list[Node]) -> None:
        """The backward pass: one box for what one rule made, at the height of the op that the rule belongs to."""
        rule_of = self.rule_of
        drawn: dict[str, str] = {}  # id of the op's box to that of its rule
        for node in nodes:
            use = node.gradient_of
            unit = self.by_index.get(use.index) if use is not None else None
            if use is None or unit is None:
                continue
            op = self.ids[unit]
            if op not in drawn:
                formula = use.op.formula("backward") if unit.kind == "op" or use.members else unit.contents()
                title = use.op.name if unit.kind == "op" or use.members else unit.name
                lines = [f"gradient of {title}", *formula.splitlines()]
                box = self.new(("rule", op), "rule", lines, group=self.outer, left=True, facts={"formula": formula})
                drawn[op] = box.id
                self.scene.edges.append(Edge(op, box.id, kind="rule"))
            rule_of[node] = drawn[op]
        flows = {
            (rule_of[s], rule_of[n]): s
            for n in nodes
            for s in n.inputs
            if isinstance(s, Node) and s in rule_of and n in rule_of and rule_of[s] != rule_of[n]
        }
        for (later, earlier), g in flows.items():
            self.scene.edges.append(Edge(later, earlier, f"g {described(g)}", "gradient"))


def gradient_scene(graph: Graph, options: Options, gradients: dict[str, Tensor], prefix: str = "", panel: str = "") -> Scene:
    """The scene of a graph whose backward pass was recorded; a box beside each rule names the gradients that it made."""
    builder = Builder(graph, options, prefix, panel)
    scene = builder.scene
    by_rule: dict[str, list[str]] = {}
    for name, t in gradients.items():
        if t.node is not None and t.node in builder.rule_of:
            by_rule.setdefault(builder.rule_of[t.node], []).append(f"{name}  {described(t)}")
    for rule, names in by_rule.items():
        if len(names) > 6:
            names = [*names[:3], "…", *names[-2:]]
        box = Box(f"{rule}r", "gradients", ["gradients", *names], scene.boxes[rule].group, left=True)
        scene.boxes[box.id] = box
        scene.edges.append(Edge(rule, box.id, kind="result"))
    return scene


def beside(scenes: Iterable[Scene]) -> Scene:
    """Several scenes in one."""
    whole = Scene()
    for scene in scenes:
        whole.boxes |= scene.boxes
        whole.edges += scene.edges
        whole.groups |= scene.groups
        whole.notes += [note for note in scene.notes if note not in whole.notes]
    return whole


# Words


def is_parameter(leaf: Tensor) -> bool:
    """Whether it is learned, or a Parameter that is frozen."""
    return leaf.requires_grad or type(leaf) is not Tensor


def title_of(node: Node) -> str:
    """The op's symbol or name with the numbers it was given."""
    numbers = [f"{s:g}" for s in node.inputs if not isinstance(s, (Node, Tensor))]
    return " ".join([node.op.symbol or node.op.name, *numbers])


def formula_lines(node: Node, direction: str) -> list[str]:
    """The formula of a fused op without what it says about shapes."""
    return [line.split("    ")[0].rstrip() for line in node.op.formula(direction).splitlines()]


def facts_of(value: Node | Tensor) -> dict[str, str]:
    """What is known about a node or a leaf."""
    size = int(np.prod(value.shape, dtype=int))
    facts = {"shape": shape_of(value), "dtype": str(value.dtype), "bytes": f"{size * np.dtype(value.dtype).itemsize:,}"}
    if isinstance(value, Node):
        facts["op"] = value.op.name
        facts["module"] = value.scope
        facts["formula"] = value.op.formula("forward")
        facts["gradient"] = value.op.formula("backward")
        facts["line"] = value.line
        facts["attributes"] = ", ".join(f"{key}={item}" for key, item in value.attrs.items())
    return {key: text for key, text in facts.items() if text}


def shape_of(value: Any) -> str:
    return "×".join(map(str, value.shape)) or "scalar"


def described(value: Any) -> str:
    """Shape, and the dtype where it is not float32."""
    return shape_of(value) + ("" if value.dtype == np.float32 else f" {value.dtype}")

"""Draws the backward pass: a rule beside each box, the resulting gradients, and the path from the loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tensorgrad.core.graph import Graph
from tensorgrad.core.table import visible
from tensorgrad.core.tensor import Tensor
from tensorgrad.draw.build import Builder
from tensorgrad.draw.measure import in_words
from tensorgrad.draw.parts import Part
from tensorgrad.draw.scene import Box, Edge
from tensorgrad.draw.sources import Source
from tensorgrad.draw.words import equations, formula_lines, formula_of, from_to

MOST = 6  # gradients listed in one box


def add_backward(builder: Builder, gradients: Mapping[Tensor, Tensor], fused: Graph | None) -> None:
    """Draw the backward pass that computed these gradients, by leaf.

    fused   the fused program; its fused ops are drawn with their closed formulas
    """
    scene = builder.scene
    recorded = [g for g in gradients.values() if g.node is not None]  # others are the incoming gradient, or constants
    backward_graph = Graph.of(*recorded) if recorded else None
    forward_nodes = {n.index: n for n in builder.program.graph.nodes} | {
        m.index: n for n in builder.program.graph.nodes for m in n.members
    }
    uses: dict[str, None] = {}
    seeds = [n for n in builder.program.graph.outputs if n.requires_grad]
    for node in backward_graph.nodes if backward_graph is not None else ():
        of = node.gradient_of
        if node not in builder.box_of and of is not None and of.index in forward_nodes:
            uses[builder.at(forward_nodes[of.index])] = None
    for node in seeds:  # rules that return their argument record nothing
        uses[builder.at(node)] = None
    reached = set(uses)
    readers: dict[Source, dict[str, None]] = {}
    for source, at, _, _ in builder.reads:
        if source.leaf in gradients:
            readers.setdefault(source, {})[at] = None
            reached.add(at)
    between = [e for e in scene.edges if e.kind in ("forward", "repeat")]
    grown = True
    while grown:  # such rules may follow each other
        more = {e.target for e in between if e.source in reached and e.target in builder.parts} - reached
        more = {at for at in more if any(n.requires_grad for n in builder.parts[at].nodes)}
        grown = bool(more)
        reached |= more
    closed = {frozenset(m.index for m in n.members): n.op for n in fused.nodes if n.members} if fused is not None else {}
    rule_of: dict[str, str] = {}
    for at in [b for b in builder.parts if b in reached and differentiable(builder.parts[b])]:
        box = scene.boxes[at]
        lines = [f"gradient of {title(builder.parts[at], box)}", *rule(builder.parts[at], closed)]
        rule_box = Box(f"{at}r", "rule", lines, box.group[:1] if builder.outer else (), left=True)
        rule_box.facts = {"formula": "\n".join(lines[1:])} if len(lines) > 1 else {}
        scene.boxes[rule_box.id] = rule_box
        rule_of[at] = rule_box.id
        scene.edges.append(Edge(at, rule_box.id, kind="rule"))
    kinds = {"forward": "gradient", "repeat": "repeat"}
    flows = {(e.target, e.source): kinds[e.kind] for e in reversed(between) if e.source != e.target}
    for (later, earlier), kind in reversed(flows.items()):
        if later in rule_of and earlier in rule_of:
            scene.edges.append(Edge(rule_of[later], rule_of[earlier], kind=kind))
    draw_gradients(builder, gradients, readers, rule_of)


def differentiable(part: Part) -> bool:
    return any(n.requires_grad for n in part.nodes)


def title(part: Part, box: Box) -> str:
    """The title of a rule."""
    if part.is_module:
        return visible(type(part.key.module).__name__)
    return part.nodes[0].op.name if part.kind == "op" else box.lines[0]


def rule(part: Part, closed: Mapping[frozenset[int], Any]) -> list[str]:
    """The closed formula of a box's rule; empty if there is none."""
    if len({n.op.name for n in part.nodes}) == 1 and (part.kind == "op" or len(set(part.nodes)) == part.count):
        return formula_lines(part.nodes[0].op, "backward")
    if part.kind == "function" and (text := formula_of(part.key.fn, "backward")):
        return equations(text)
    calls = {n.function for n in part.nodes}
    call = next(iter(calls))
    if part.is_layer and len(calls) == 1 and call is not None:
        return equations(formula_of(call.fn, "backward"))
    op = closed.get(frozenset(n.index for n in part.nodes))
    return formula_lines(op, "backward") if op is not None else []


def draw_gradients(
    builder: Builder,
    gradients: Mapping[Tensor, Tensor],
    readers: Mapping[Source, Mapping[str, None]],
    rule_of: Mapping[str, str],
) -> None:
    """Name the gradients of each rule in a box beside it; gradients from several rules share a box with a +."""
    scene = builder.scene
    by_rules: dict[tuple[str, ...], list[Source]] = {}
    for source, at in readers.items():
        rules = tuple(rule_of[b] for b in at if b in rule_of)
        if rules:
            by_rules.setdefault(rules, []).append(source)
    for i, (rules, sources) in enumerate(by_rules.items()):
        lines = [line(builder, group, gradients) for group in at_one_place(builder, sources)]
        if len(lines) > MOST:
            lines = [*lines[: MOST // 2], "…", *lines[-2:]]
        uses = {s: sum(s is source for source, _, _, _ in builder.reads) for s in sources}
        first = "+ sum of gradients" if max(uses.values()) > 1 else "gradients"
        name = f"{rules[0]}g" if len(rules) == 1 else f"{builder.prefix}s{i}"
        box = Box(name, "gradients", [first, *lines], scene.boxes[rules[0]].group, left=True)
        scene.boxes[box.id] = box
        scene.edges += [Edge(r, box.id, kind="result") for r in rules]


def at_one_place(builder: Builder, sources: list[Source]) -> list[list[Source]]:
    """Group sources that repeated blocks read at the same position."""
    place = {source: (builder.program.folds.shown(node), i) for source, _, node, i in reversed(builder.reads)}
    groups: dict[Any, list[Source]] = {}
    for source in sources:
        groups.setdefault(place[source], []).append(source)
    return list(groups.values())


def line(builder: Builder, sources: list[Source], gradients: Mapping[Tensor, Tensor]) -> str:
    first, last = sources[0], sources[-1]
    name = first.name if first is last else from_to(first.name, last.name)
    values = f"  {in_words([gradients[s.leaf]._data for s in sources])}" if builder.options.values is not None else ""
    return f"{name}  {builder.program.described(first)}{values}"

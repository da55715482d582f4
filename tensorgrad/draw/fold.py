"""Fewer boxes: modules, repeats, chains and stretches of a program as one box each.

A program is a list of units in the order of execution. Every fold takes units that lie next to each other in that order, so no
arrow can come to point backwards.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np

from tensorgrad.core.node import Node
from tensorgrad.core.tensor import Tensor

REPEATS = 4  # as many equal blocks in a row are drawn as one
LONGEST_BLOCK = 64
CHAIN = 4


@dataclass(eq=False)
class Repeat:
    """Equal blocks in a row, of which the first is drawn.

    scope   the module that all of them lie in
    blocks  for each node the number of its block
    """

    number: int
    count: int
    scope: str
    blocks: dict[Node, int] = field(default_factory=dict)


@dataclass(eq=False)
class Unit:
    """What is drawn as one box.

    nodes    in the order of execution
    name     of the op, or what a fold is called
    kind     op, function, module, chain or segment
    repeat   if it stands for the same place in every block of a repeat
    """

    nodes: list[Node]
    name: str
    kind: str = "op"
    repeat: Repeat | None = None

    @property
    def scope(self) -> str:
        """The module that all of its nodes lie in."""
        if self.kind == "module":
            return self.name
        return common([part.scope for node in self.nodes for part in (node.members or (node,))])

    def place(self, leaf: Tensor) -> int:
        """The number of the argument at which a node of the unit reads a leaf."""
        return next(i for node in self.nodes for i, s in enumerate(node.inputs) if s is leaf)

    def contents(self) -> str:
        """The ops that it stands for, the most frequent first: "50 linear, 50 relu"."""
        count = Counter(node.op.name for node in self.nodes).most_common()
        text = ", ".join(f"{n} {name}" for name, n in count[:4])
        return text + (f" and {sum(n for _, n in count[4:])} more" if len(count) > 4 else "")

    def lines(self) -> list[str]:
        """What stands in the box of a fold."""
        last = self.nodes[-1]
        shape = "×".join(map(str, last.shape)) or "scalar"
        if self.kind == "module":
            leaves = {s for node in self.nodes for s in node.inputs if isinstance(s, Tensor) and s.requires_grad}
            numbers = sum(leaf.size for leaf in leaves)
            inside = [f"{numbers:,} parameters"] if leaves else []
            return [self.name, self.contents(), *inside, shape]
        if self.kind == "function":
            return [self.name, shape + ("" if last.dtype == np.float32 else f" {last.dtype}")]
        if self.kind == "chain":
            steps = [node.op.symbol or node.op.name for node in self.nodes]
            shown = steps if len(steps) <= 6 else [*steps[:3], "…", *steps[-2:]]
            return [f"chain of {len(steps)}", " → ".join(shown), shape]
        return [f"{len(self.nodes):,} operations", self.contents(), shape]


def common(scopes: list[str]) -> str:
    """The longest module path that all of some paths begin with."""
    parts = [scope.split(".") if scope else [] for scope in scopes]
    shared = []
    for step in zip(*parts, strict=False):
        if len(set(step)) > 1:
            break
        shared.append(step[0])
    return ".".join(shared)


def fold_modules(units: list[Unit], depth: int) -> list[Unit]:
    """Every call of a module that lies deeper than `depth` levels as one unit; a module that is called twice is two."""

    def key(unit: Unit) -> str:
        parts = unit.nodes[0].scope.split(".") if unit.nodes[0].scope else []
        return ".".join(parts[: depth + 1]) if len(parts) > depth else ""

    folded: list[Unit] = []
    for path, group in groupby(units, key):
        members = list(group)
        if path and (len(members) > 1 or path != members[0].nodes[0].scope):
            folded.append(Unit([node for unit in members for node in unit.nodes], path, "module"))
        else:
            folded += members
    return folded


def fold_functions(units: list[Unit]) -> list[Unit]:
    """Every call of a function of several ops, such as conv2d, as one unit."""
    folded: list[Unit] = []
    for call, group in groupby(units, lambda unit: unit.nodes[-1].function if not unit.nodes[-1].members else None):
        members = list(group)
        if call is not None and len(members) > 1:
            folded.append(Unit([node for unit in members for node in unit.nodes], call[0], "function"))
        else:
            folded += members
    return folded


def fold_repeats(units: list[Unit], notes: list[str]) -> list[Unit]:
    """Equal blocks in a row as one block with a count; blocks of blocks as well, as long as there are any."""
    number = 0
    while True:
        found = find_repeat(units)
        if found is None:
            return units
        start, period, count = found
        number += 1
        block = units[start : start + period]
        scope = common([node.scope for unit in units[start : start + period * count] for node in unit.nodes])
        repeat = Repeat(number, count, scope)
        merged = []
        for i, unit in enumerate(block):
            instances = [units[start + k * period + i] for k in range(count)]
            kind = unit.kind
            whole = Unit([n for instance in instances for n in instance.nodes], unit.name, kind, repeat)
            for k, instance in enumerate(instances):
                repeat.blocks.update((node, k) for node in instance.nodes)
            merged.append(whole)
        names = ", ".join(unit.name for unit in block[:6]) + (", …" if period > 6 else "")
        notes.append(f"{count} × ({names}) drawn once")
        units = [*units[:start], *merged, *units[start + period * count :]]


def find_repeat(units: list[Unit]) -> tuple[int, int, int] | None:
    """(start, period, count) of the repeat with the shortest block, the one that spans most if there are several."""
    n = len(units)
    marks = signatures(units)
    for period in range(1, min(LONGEST_BLOCK, n // REPEATS) + 1):
        same = marks[:-period] == marks[period:]
        edges = np.flatnonzero(np.diff(np.concatenate([[False], same, [False]]).astype(np.int8)))
        runs = [(int(b - a), int(a)) for a, b in zip(edges[::2], edges[1::2], strict=True)]
        length, start = max(runs, default=(0, 0))
        count = length // period + 1
        if length and count >= REPEATS:
            spare = (length + period) - count * period
            # blocks begin where parameters come in, rather than with an activation
            start += max(range(spare + 1), key=lambda k: (leaves_of(units[start + k]), -k))
            return start, period, count
    return None


def leaves_of(unit: Unit) -> int:
    return sum(isinstance(s, Tensor) for s in unit.nodes[0].inputs)


def signatures(units: list[Unit]) -> Any:
    """A number for each unit, equal for those that do the same with what lies at the same distance before them."""
    place = {node: i for i, unit in enumerate(units) for node in unit.nodes}
    readers = Counter(s for unit in units for node in unit.nodes for s in node.inputs if isinstance(s, Tensor))
    known: dict[Any, int] = {}
    marks = []
    for i, unit in enumerate(units):
        if unit.repeat is not None:
            marks.append(-i - 1)  # not folded again
            continue
        parts: list[Any] = []
        for node in unit.nodes:
            sources: list[Any] = []
            for s in node.inputs:
                if isinstance(s, Node):
                    sources.append(("node", i - place[s]))
                elif isinstance(s, Tensor) and readers[s] > 1:
                    sources.append(("leaf", id(s)))
                elif isinstance(s, Tensor):
                    sources.append((s.shape, str(s.dtype), s.requires_grad))
                else:
                    sources.append(s)
            parts.append((node.op.name, repr(node.attrs), node.shape, str(node.dtype), tuple(sources)))
        marks.append(known.setdefault((unit.kind, tuple(parts)), len(known)))
    return np.array(marks)


def fold_chains(units: list[Unit], notes: list[str]) -> list[Unit]:
    """Stretches in which each unit reads the one before it, which nobody else reads, as one unit each."""
    readers = Counter(s for unit in units for node in unit.nodes for s in node.inputs if isinstance(s, Node))
    chains: list[list[Unit]] = []
    for unit in units:
        last = chains[-1][-1] if chains else None
        sources = [s for s in unit.nodes[0].inputs if isinstance(s, Node)]
        linked = last is not None and sources == [last.nodes[-1]] and readers[last.nodes[-1]] == 1
        if linked and unit.kind == "op" and unit.repeat is None and chains[-1][0].kind == "op" and chains[-1][0].repeat is None:
            chains[-1].append(unit)
        else:
            chains.append([unit])
    folded = []
    count = 0
    for chain in chains:
        if len(chain) >= CHAIN:
            folded.append(Unit([node for unit in chain for node in unit.nodes], "chain", "chain"))
            count += 1
        else:
            folded += chain
    if count:
        notes.append(f"{count} chain{'s' * (count > 1)} of operations drawn as one box each")
    return folded


def fold_segments(units: list[Unit], limit: int, notes: list[str]) -> list[Unit]:
    """At most `limit` units, each a stretch of the program."""
    length = -(-len(units) // limit)
    folded = []
    for i in range(0, len(units), length):
        part = units[i : i + length]
        whole = len(part) > 1 or part[0].kind != "op"
        folded.append(Unit([n for unit in part for n in unit.nodes], "segment", "segment") if whole else part[0])
    notes.append(f"{len(units):,} boxes drawn as {len(folded)}, {length} consecutive ones in each")
    return folded

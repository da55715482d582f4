"""Reduces the number of boxes: repeated blocks become one, and long programs regions, each within one part."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np

from tensorgrad.core.node import Node
from tensorgrad.core.tensor import Tensor
from tensorgrad.draw.parts import Part

REPEATS = 4  # minimum number of equal consecutive blocks to fold
LONGEST_BLOCK = 64
MOST = 40  # maximum number of neighbours that are drawn singly
REGIONS = 30  # maximum number of regions; fewer if they would contain fewer items than there are regions


class Folds:
    """The repeats and regions of a program.

    representative  for a node of a folded block, the corresponding node of the first block
    block           for each node of a repeat, by innermost repeat, the index of its block
    notes           descriptions of the repeats
    descriptions    the description of each part that was divided into regions
    """

    def __init__(self) -> None:
        self.representative: dict[Node, Node] = {}
        self.block: dict[Node, list[tuple[Part, int]]] = {}
        self.notes: list[str] = []
        self.descriptions: dict[Part, list[str]] = {}
        self.number = 0

    def shown(self, node: Node) -> Node:
        """The node that is drawn in place of this one."""
        while node in self.representative:
            node = self.representative[node]
        return node

    def repeats(self, part: Part) -> None:
        """Fold equal consecutive blocks, in this part and all its parts."""
        while (found := find_repeat(part.parts)) is not None:
            start, period, count = found
            self.number += 1
            rows = [part.parts[start + k * period : start + (k + 1) * period] for k in range(count)]
            repeat = Part("repeat", None, rows[0], [n for row in rows for p in row for n in p.nodes], count, self.number)
            for k, row in enumerate(rows):
                for first, other in zip(rows[0], row, strict=True):
                    self.match(first, other)
                    for node in other.nodes:
                        self.block.setdefault(node, []).append((repeat, k))
            part.parts[start : start + period * count] = [repeat]
            self.notes.append(f"{count} × ({names_of(rows[0])}) drawn once")
        for inner in part.parts:
            if inner.kind in ("model", "module", "repeat", "order", "program"):
                if inner.kind == "repeat":
                    for block in inner.parts:
                        self.repeats(block)
                else:
                    self.repeats(inner)

    def match(self, first: Part, other: Part) -> None:
        """Let a part of the first block represent one of another."""
        if first is other:
            return
        for a, b in zip(first.nodes, other.nodes, strict=True):
            self.representative[b] = a
        self.scopes(first, other)

    def scopes(self, first: Part, other: Part) -> None:
        if first.is_module:
            first.scopes.append(str(other.key))
        for a, b in zip(first.parts, other.parts, strict=True):
            self.scopes(a, b)

    def regions(self, part: Part) -> list[str]:
        """Group neighbours in a part into regions if there are too many; returns descriptions.

        Regions that are still too large are divided when their inside is drawn.
        """
        if part in self.descriptions or len(part.parts) <= MOST:
            opened = [p for p in part.parts if p.kind in ("model", "module", "repeat", "order")]
            return self.descriptions.get(part, []) + [note for p in opened for note in self.regions(p)]
        before = len(part.parts)
        ends = cuts(part.parts, min(REGIONS, math.ceil(math.sqrt(before))))
        outer = f"{part.key}." if part.kind == "region" else ""
        parts = []
        for i, (a, b) in enumerate(zip([0, *ends[:-1]], ends, strict=True), 1):
            inside = part.parts[a:b]
            nodes = [n for p in inside for n in p.nodes]
            parts.append(inside[0] if len(inside) == 1 else Part("region", f"{outer}{i}", inside, nodes))
        part.parts = parts
        description = f"{len(part.nodes):,} operations drawn as {len(parts)} regions, cut where the fewest values pass"
        self.descriptions[part] = [description]
        return [description]


def names_of(parts: list[Part]) -> str:
    """The contents of a block, for a note."""
    names = [
        type(p.key.module).__name__ if p.is_module else p.key.name if p.kind == "function" else p.nodes[-1].op.name
        for p in parts
    ]
    return ", ".join(names[:6]) + (", …" if len(names) > 6 else "")


# Repeats


def find_repeat(parts: list[Part]) -> tuple[int, int, int] | None:
    """(start, period, count) of the repeat with the shortest block, and the longest if there are several.

    The first block may read anything where each later one reads the block before it.
    """
    n = len(parts)
    if n < REPEATS:
        return None
    strict, loose = signatures(parts)
    for period in range(1, min(LONGEST_BLOCK, n // REPEATS) + 1):
        same = strict[:-period] == strict[period:]
        edges = np.flatnonzero(np.diff(np.concatenate([[False], same, [False]]).astype(np.int8)))
        runs = [(int(b - a), int(a)) for a, b in zip(edges[::2], edges[1::2], strict=True)]
        for length, start in sorted(runs, reverse=True)[:3]:
            count = length // period + 1
            if count < REPEATS - 1:
                break
            spare = (length + period) - count * period
            # start blocks at parameters rather than at an activation

            def is_more(at: int) -> bool:
                """Whether the block before is the first one, which reads something else."""
                before = at - period  # noqa: B023
                if before < 0 or (loose[before:at] != loose[at : at + period]).any():  # noqa: B023
                    return False
                return reads_like_next(parts, before, period)  # noqa: B023

            best = start + max(range(spare + 1), key=lambda k: (is_more(start + k), leaves_of(parts[start + k]), -k))
            if is_more(best):
                best, count = best - period, count + 1
            if count >= REPEATS:
                return best, period, count
    return None


def leaves_of(part: Part) -> int:
    return sum(isinstance(s, Tensor) and s.requires_grad for s in part.nodes[0].inputs)


def reads_like_next(parts: list[Part], start: int, period: int) -> bool:
    """Whether a block reads its own values where the next one does."""

    def inner(a: int) -> list[tuple[int, ...]]:
        nodes = [n for p in parts[a : a + period] for n in p.nodes]
        place = {n: i for i, n in enumerate(nodes)}
        return [tuple(place.get(s, -1) if isinstance(s, Node) else -1 for s in n.inputs) for n in nodes]

    return inner(start) == inner(start + period)


def signatures(parts: list[Part]) -> tuple[Any, Any]:
    """Signatures of the parts, equal for equal parts: including the relative positions of inputs, and ignoring them."""
    place = {node: (i, k) for i, part in enumerate(parts) for k, node in enumerate(part.nodes)}
    readers = Counter(s for part in parts for node in part.nodes for s in node.inputs if isinstance(s, Tensor))
    inside: Counter[Any] = Counter()
    for part in parts:
        inside.update({s for node in part.nodes for s in node.inputs if isinstance(s, Tensor)})
    strict_ids: dict[Any, int] = {}
    loose_ids: dict[Any, int] = {}
    strict, loose = [], []
    for i, part in enumerate(parts):
        if part.kind == "repeat":
            strict.append(-i - 1)  # not folded again
            loose.append(-i - 1)
            continue
        rows: list[Any] = []
        kinds: list[Any] = []
        for node in part.nodes:
            sources: list[Any] = []
            loose_sources: list[Any] = []
            for s in node.inputs:
                if isinstance(s, Node):
                    at = place.get(s)
                    sources.append(("outside", s.index) if at is None else (i - at[0], at[1]))
                    loose_sources.append(("node", s.shape))
                elif isinstance(s, Tensor):
                    shared = readers[s] > 1 and inside[s] > 1
                    description = (s.shape, str(s.dtype), s.requires_grad)
                    sources.append(("leaf", id(s)) if shared else description)
                    loose_sources.append(
                        ("node", s.shape) if not s.requires_grad else ("leaf", id(s)) if shared else description
                    )
                else:
                    sources.append(s)
                    loose_sources.append(s)
            operation = (node.op.name, repr(node.attrs), node.shape, str(node.dtype))
            rows.append((*operation, tuple(sources)))
            kinds.append((*operation, tuple(loose_sources)))
        part_key = (part.kind, type(part.key.module).__name__ if part.is_module else "", shape_of(part))
        strict.append(strict_ids.setdefault((part_key, tuple(rows)), len(strict_ids)))
        loose.append(loose_ids.setdefault((part_key, tuple(kinds)), len(loose_ids)))
    return np.array(strict), np.array(loose)


def shape_of(part: Part) -> Any:
    """The kinds in a part, as a tree; equal blocks have equal trees."""
    return (part.kind, tuple(shape_of(p) for p in part.parts)) if part.kind != "op" else "op"


# Regions


def cuts(parts: list[Part], count: int) -> list[int]:
    """Where to end each of about `count` regions: near an even division, where the fewest values cross; preferably before the
    same kind of part as the last region started with, which keeps iterations of a loop whole.
    """
    n = len(parts)
    place = {node: i for i, part in enumerate(parts) for node in part.nodes}
    passing = np.zeros(n + 2, int)  # values computed before i and read from i on
    last = {s: i for i, part in enumerate(parts) for node in part.nodes for s in node.inputs if isinstance(s, Node)}
    for source, i in last.items():
        if source in place:
            passing[place[source] + 1] += 1
            passing[i + 1] -= 1
    width = np.cumsum(passing)
    length = math.ceil(n / count)
    ends: list[int] = []
    at = 0
    while n - at > length * 3 // 2:
        low, high = at + max(1, length // 2), min(n - 1, at + length * 3 // 2)
        first = parts[at].nodes[0].op
        at = min(range(low, high + 1), key=lambda i: (width[i], parts[i].nodes[0].op is not first, abs(i - at - length)))
        ends.append(at)
    return [*ends, n]

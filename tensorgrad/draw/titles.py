"""Names in a derivation: given names of leaves, and numbered letters for everything else, without gaps."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from tensorgrad import ops
from tensorgrad.core.graph import Graph
from tensorgrad.core.table import visible
from tensorgrad.core.tensor import Tensor
from tensorgrad.draw.expression import Expr, Symbol, Term

LOSSES = (ops.softmax_cross_entropy, ops.nll_loss, ops.sigmoid_cross_entropy)
NUMBERED = {"v", "t", "C"}  # numbered even if there is only one


class Titles:
    """The names of one derivation."""

    def __init__(self, recorded: Graph, graph: Graph, loss: str) -> None:
        self.loss = loss
        names = recorded.leaf_names()  # a fused node only has the position of its last op
        leaf_names = {leaf: names[leaf] for leaf in graph.leaves}
        self.taken = {name for leaf, name in leaf_names.items() if leaf.name}
        self.paths: dict[Symbol, str] = {}
        self.leaves: dict[Tensor, Symbol] = {}
        targets = labels_in(graph)
        short = short_names(graph, leaf_names)
        self.short = {leaf: title for leaf, title in short.items() if title not in self.taken}
        for leaf, name in leaf_names.items():
            if not leaf.name and not leaf.shape and not leaf.requires_grad and leaf.dtype.kind == "f":
                continue  # a number
            if not leaf.name and leaf in targets:
                self.leaves[leaf] = Symbol("given", leaf.shape, self.free("t"), leaf._data)
            elif leaf in self.short:
                symbol = self.leaves[leaf] = Symbol("leaf", leaf.shape, self.free(self.short[leaf]))
                self.paths[symbol] = name
            else:
                title = name if leaf.name else expression_of(leaf) or self.free(name)
                self.leaves[leaf] = Symbol("leaf", leaf.shape, title)

    def leaf_of(self, e: Expr) -> Tensor | None:
        if e.head is not Term.NAME:
            return None
        return next((leaf for leaf, symbol in self.leaves.items() if symbol is e.args[0]), None)

    def free(self, title: str) -> str:
        """`title`, with primes until it is unique."""
        while title in self.taken:
            title += "'"
        self.taken.add(title)
        return title

    def assign(
        self, forward: list[Symbol], backward: list[Symbol], counts: list[Symbol], constants: list[Symbol], needed: set[Symbol]
    ) -> None:
        """Assign titles to all other symbols: h1 for the first layer's activation, z2 for the second layer's linear part, v1
        for anything else.
        """
        self.constants = [s for s in (*self.leaves.values(), *counts, *constants) if s in needed and s.value is not None]
        loss = next(s for s in forward if s.kind == "L")
        loss.title = self.free(self.loss)
        letters = iter("mnk")
        for symbol in (s for s in counts if s in needed):
            symbol.title = self.free(next(letters, "m" + str(counts.index(symbol) + 1)))
        layers, last = 0, ""
        placed: list[tuple[Symbol, int]] = []
        for symbol in forward:
            if symbol.kind in ("z", "h", "h*"):
                layers += not (symbol.kind == "h" and last == "z")
                last = symbol.kind
                placed.append((symbol, layers))
        for symbol, layer in placed:
            symbol.title = self.free(symbol.kind[0] + (str(layer) if layers > 1 else ""))
        for kind in dict.fromkeys(s.kind for s in (*forward, *backward, *constants)):
            if kind in ("z", "h", "h*", "L", "gradient", "m"):
                continue
            symbols = [s for s in (*forward, *backward, *constants) if s.kind == kind and s in needed]
            for i, symbol in enumerate(symbols, 1):
                symbol.title = self.free(f"{kind}{i}" if len(symbols) > 1 or kind in NUMBERED else kind)
        for symbol in backward:
            if symbol.kind == "gradient":
                assert symbol.base is not None
                symbol.title = self.free(f"d{loss.title}/d{symbol.base.title}")

    def legend(self, needed: set[Symbol]) -> tuple[dict[str, Any], dict[str, str]]:
        names = {symbol.title: path for symbol, path in self.paths.items() if symbol in needed}
        return {s.title: s.value for s in self.constants}, names


def expression_of(leaf: Tensor) -> str:
    """The expression that made a leaf, if it is more than a name: "2 x + 1"; for a function's part of x only x is known."""
    text = visible(leaf.made_of)
    return text if re.search(r"\W", text) and not text.startswith("…") else ""


def labels_in(graph: Graph) -> set[Tensor]:
    """The leaves that a loss uses as labels."""
    labels = set()
    for node in graph.nodes:
        for i, source in enumerate(node.inputs):
            if i == 1 and isinstance(source, Tensor) and node.op in LOSSES:
                labels.add(source)
    return labels


def short_names(graph: Graph, names: dict[Tensor, str]) -> dict[Tensor, str]:
    """W1, b1, ... for the weights and biases of modules, in order of use."""
    kinds: dict[str, dict[str, list[Tensor]]] = {}
    for leaf, name in names.items():
        if type(leaf) is Tensor or "." not in name:
            continue
        module, _, last = name.rpartition(".")
        if last in ("weight", "bias"):
            kinds.setdefault(module, {}).setdefault(last, []).append(leaf)
    entries: list[tuple[Tensor, str, str, int]] = []
    count: Counter[str] = Counter()
    for parts in kinds.values():
        weights, biases = parts.get("weight", []), parts.get("bias", [])
        if len(weights) > 1 or len(biases) > 1:
            continue  # two modules with the same name
        is_norm = any(len(w.shape) == 1 for w in weights)
        pair = ("gamma", "beta") if is_norm else ("W", "b")
        count[pair[0]] += 1
        entries += [
            (leaf, letter, pair[0], count[pair[0]])
            for leaves, letter in zip((weights, biases), pair, strict=True)
            for leaf in leaves
        ]
    return {leaf: f"{letter}{i}" if count[first] > 1 else letter for leaf, letter, first, i in entries}

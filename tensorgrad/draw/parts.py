"""A program as a tree of calls: modules contain functions, and these operations. Every folding is a cut of this tree.

The nodes of a call are consecutive in the order of execution, so that arrows between parts never point backwards, and parts
never overlap.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tensorgrad.core.node import Node
from tensorgrad.core.scope import calls_of


@dataclass(eq=False)
class Part:
    """A node of the tree, drawn as one box, or as a frame around its parts.

    kind      program, model, module, function, order (of derivatives), rule (of a recorded backward pass), repeat, region or op
    key       identifies the call: a Scope, a Called, an order, the node of a rule
    parts     its parts in the order of execution; for a repeat those of the first block
    nodes     all its operations; for a repeat those of all blocks
    count     number of equal blocks
    number    the index among regions, repeats, or calls of a model
    scopes    inside a repeat, the corresponding scopes of the other blocks
    """

    kind: str
    key: Any = None
    parts: list[Part] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    count: int = 1
    number: int = 0
    scopes: list[str] = field(default_factory=list)

    @property
    def is_module(self) -> bool:
        return self.kind in ("model", "module")

    @property
    def is_layer(self) -> bool:
        """Whether it is a module without submodules."""
        return self.is_module and not self.key.module._modules


def tree(nodes: list[Node], functions: bool = True, modules: bool = True) -> Part:
    """The tree of nodes given in the order of execution."""
    order: dict[Node, int] = {}
    for node in nodes:
        of = node.gradient_of
        above = max((order.get(s, 0) for s in node.inputs if isinstance(s, Node)), default=0)
        order[node] = 0 if of is None else max(1 + order.get(of, max((order.get(m, 0) for m in of.members), default=0)), above)
    chains = [chain_of(node, order[node], functions, modules) for node in nodes]
    settle(chains)
    root = Part("program", nodes=list(nodes))
    parts: dict[tuple[Any, ...], Part] = {}
    for node, chain in zip(nodes, chains, strict=True):
        inside = root
        for i, (kind, key) in enumerate(chain):
            at = tuple(id(k) if not isinstance(k, int) else k for _, k in chain[: i + 1])
            if at not in parts:
                parts[at] = Part(kind, key)
                inside.parts.append(parts[at])
            inside = parts[at]
            inside.nodes.append(node)
        inside.parts.append(Part("op", node, nodes=[node]))
    return root


def chain_of(node: Node, order: int, functions: bool, modules: bool) -> list[tuple[str, Any]]:
    """The calls that contain a node, outermost first."""
    if order:
        return [("order", order), ("rule", node.gradient_of)] if functions else [("order", order)]
    chain: list[tuple[str, Any]] = []
    if modules:
        shared = [calls_of(m.scope) for m in node.members or (node,)]
        for calls in zip(*shared, strict=False):
            if any(call is not calls[0] for call in calls):
                break
            chain.append(("module" if chain else "model", calls[0]))
    if functions and node.function is not None and not node.members:
        chain.append(("function", node.function))
    return chain


def settle(chains: list[list[tuple[str, Any]]]) -> None:
    """Make the nodes of each call consecutive: an operation fused from parts of two calls may lie between the nodes of one,
    which then includes it.
    """
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for i, chain in enumerate(chains):
        for _, key in chain:
            first.setdefault(id(key), i)
            last[id(key)] = i
    for i in range(1, len(chains)):
        before, chain = chains[i - 1], chains[i]
        while len(chain) < len(before) and before[: len(chain)] == chain and before[len(chain)][0] in ("model", "module"):
            if last[id(before[len(chain)][1])] <= i:
                break
            chain.append(before[len(chain)])

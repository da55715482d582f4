"""Paths of modules in their model; a module with several names has the path of the first."""

from __future__ import annotations

from tensorgrad.core.graph import Graph
from tensorgrad.core.scope import Scope, calls_of
from tensorgrad.nn.module import Module


class Paths:
    """The paths of the modules in a graph."""

    def __init__(self, graph: Graph) -> None:
        self.inside: dict[Module, dict[Module, list[str]]] = {}
        self.calls: dict[Module, dict[int, int]] = {}  # for each module, call numbers by id of the scope
        for scope in {id(node.scope): node.scope for node in graph.nodes}.values():
            for call in calls_of(scope):
                numbers = self.calls.setdefault(call.module, {})
                numbers.setdefault(id(call), len(numbers) + 1)

    def names(self, scope: Scope) -> list[str]:
        """The names of the module in its caller."""
        outer = scope.outer
        if not isinstance(outer, Scope):
            return []
        if outer.module not in self.inside:
            names = self.inside[outer.module] = {}
            for name, module in outer.module._modules.items():
                names.setdefault(module, []).append(name)
        return self.inside[outer.module].get(scope.module, [])

    def path(self, scope: str) -> str:
        """The path of the innermost call in a scope."""
        path, before = "", ""
        for call in calls_of(scope):
            names = self.names(call)
            last = names[0] if names else str(call).removeprefix(before).removeprefix(".")
            path, before = (f"{path}.{last}" if path and last else path or last), str(call)
        return path

    def uses(self, scope: Scope) -> str:
        """A remark about a shared module: its other names, and the number of the call; else ""."""
        numbers = self.calls.get(scope.module, {})
        outer = scope.outer
        outer_calls = len(self.calls[outer.module]) if isinstance(outer, Scope) and outer.module in self.calls else 1
        remarks = [f"also {name}" for name in self.names(scope)[1:3]]
        if len(self.names(scope)) > 3:
            remarks.append("…")
        if len(numbers) > outer_calls and id(scope) in numbers:
            remarks.append(f"call {numbers[id(scope)]} of {len(numbers)}")
        return ", ".join(remarks)

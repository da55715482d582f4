"""Leaves of a program: their names, and which of them belong to the same value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tensorgrad.core.backend import Array, move
from tensorgrad.core.graph import Graph
from tensorgrad.core.node import Node
from tensorgrad.core.scope import ArgumentInfo, Called, calls_of
from tensorgrad.core.table import visible
from tensorgrad.core.tensor import Tensor
from tensorgrad.draw.paths import Paths
from tensorgrad.draw.words import number
from tensorgrad.nn.recurrent import Recurrent


@dataclass(eq=False)
class Source:
    """A given value: a parameter, data, a constant.

    leaf    the Tensor; for data rearranged by a function, a part of them
    shape, dtype   as given by the user
    owner   the path of the module that has it as a parameter, or None
    """

    leaf: Tensor
    name: str
    shape: tuple[int, ...]
    dtype: Any
    owner: str | None = None
    is_internal: bool = False  # created by the function that reads it, or a module, not given by the user
    original: Tensor | None = None  # the user's Tensor, if the leaf is a part of it

    @property
    def is_weight(self) -> bool:
        """Whether it is trained, or a frozen Parameter."""
        return self.leaf.requires_grad or type(self.leaf) is not Tensor

    @property
    def array(self) -> Array:
        """Its numbers; those of the leaf if the user's array is no longer known."""
        return (self.leaf if self.original is None else self.original)._data

    @property
    def value(self) -> str:
        """The number, for an unnamed number without gradient; else ""."""
        if self.shape or self.is_weight or self.leaf.name or self.leaf.made_of:
            return ""
        return number(np.asarray(move(self.leaf._data, "cpu"))[()])


class Sources:
    """The sources of a program, by leaf and reader."""

    def __init__(self, models: dict[int, str], paths: Paths) -> None:
        self.paths = paths
        self.models = models  # id of a module to its model's name, if there are several
        self.by_key: dict[Any, Source] = {}
        self.by_reader: dict[tuple[Tensor, Any], Source] = {}
        self.name_counts: dict[str, int] = {}

    def source(self, leaf: Tensor, node: Node) -> Source:
        """The source that a node reads with a leaf."""
        call = node.function
        key = (leaf, call)
        if key not in self.by_reader:
            self.by_reader[key] = self.find(leaf, node, call)
        return self.by_reader[key]

    def find(self, leaf: Tensor, node: Node, call: Called | None) -> Source:
        owner, full_name = self.owner_of(leaf, node)
        if owner is None and call is not None:
            arguments = dict((name, value) for name, value, _ in call.arguments() if isinstance(value, ArgumentInfo))
            values = {name: value.source() if value.source is not None else None for name, value in arguments.items()}
            if not any(tensor is leaf for tensor in values.values()):
                return self.from_function(leaf, call, arguments, values)
        name = visible(leaf.name or leaf.made_of)
        if leaf not in self.by_key and owner is None and not name and is_initial(leaf, node):
            self.by_key[leaf] = Source(leaf, "zeros", leaf.shape, leaf.dtype, is_internal=True)
        if leaf not in self.by_key:
            if owner is None and not name and call is not None:
                name = next((n for n, tensor in values.items() if tensor is leaf), "")
            self.by_key[leaf] = Source(leaf, self.unique(full_name or name or "input"), leaf.shape, leaf.dtype, owner)
        return self.by_key[leaf]

    def from_function(self, leaf: Tensor, call: Called, arguments: dict[str, ArgumentInfo], values: dict[str, Any]) -> Source:
        """The source of a leaf that a function made from its arguments, or of an array argument."""
        name = leaf.name or leaf.made_of
        match = next((n for n, argument in arguments.items() if name and argument.name == name), None)
        if match is None and not name:
            free = [n for n, argument in arguments.items() if not isinstance(values[n], (Node, Tensor)) and argument.shape]
            same = [n for n in free if arguments[n].shape == leaf.shape]
            match = next(iter([*same, *free]), None)
        if match is None:
            if leaf not in self.by_key:
                self.by_key[leaf] = Source(leaf, visible(name) or "constant", leaf.shape, leaf.dtype, is_internal=not name)
            return self.by_key[leaf]
        argument, value = arguments[match], values[match]
        key = value if isinstance(value, Tensor) else (argument.name, argument.shape) if argument.name else (call, match)
        if key not in self.by_key:
            original = value if isinstance(value, Tensor) else None
            self.by_key[key] = Source(
                leaf, self.unique(visible(argument.name) or match), argument.shape, argument.dtype, original=original
            )
        return self.by_key[key]

    def owner_of(self, leaf: Tensor, node: Node) -> tuple[str | None, str]:
        """The path of the module that owns a Parameter, and the resulting name."""
        if type(leaf) is Tensor:
            return None, ""
        for member in node.members or (node,):
            calls = calls_of(member.scope)
            for call in calls[::-1]:
                for name, parameter in getattr(call.module, "_parameters", {}).items():
                    if parameter is leaf:
                        path = [self.models.get(id(calls[0].module), ""), self.paths.path(call), name]
                        return str(call), visible(".".join(p for p in path if p))
        scope = next((str(m.scope) for m in node.members or (node,) if m.scope), "")
        return (scope, visible(f"{scope}.{leaf.name}")) if scope and leaf.name else (None, "")

    def unique(self, name: str) -> str:
        """A unique name."""
        n = self.name_counts[name] = self.name_counts.get(name, 0) + 1
        if name == "input":
            return f"input{n - 1}"
        return name if n == 1 else f"{name} ({n})"


def is_initial(leaf: Tensor, node: Node) -> bool:
    """Whether a leaf is the initial zero state of a recurrent module."""
    calls = calls_of(node.scope)
    if not calls or not isinstance(calls[-1].module, Recurrent) or type(leaf) is not Tensor or leaf.requires_grad:
        return False
    return node.inputs[0] is not leaf and not np.any(move(leaf._data, "cpu"))


def arguments_in(program: Graph) -> list[Any]:
    """The arguments of the functions in a program, which keep only weak references to them."""
    calls = {node.function for node in program.nodes if node.function is not None}
    arguments = [value for call in calls for _, value, _ in call.arguments() if isinstance(value, ArgumentInfo)]
    return [value.source() for value in arguments if value.source is not None]

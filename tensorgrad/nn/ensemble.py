"""Several modules of the same form, computed as one."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import numpy as np

from tensorgrad.autograd.batching import vmap
from tensorgrad.core.backend import namespace, on
from tensorgrad.core.state import describe
from tensorgrad.core.tensor import Tensor
from tensorgrad.errors import ArgumentError
from tensorgrad.nn.calls import copy_with
from tensorgrad.nn.module import Module

__all__ = ["Ensemble"]


class Ensemble(Module):
    """k modules of the same form, computed and trained as one: each parameter has a leading axis of size k.

        ensemble = nn.Ensemble(nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)) for _ in range(50))
        z = ensemble(x)                                          # (50, n, 10) for x (n, 64)

    modules   the initial members; their parameters are copied and stacked
    each      True if x has the leading axis too, one input for each member: (k, n, ...); by default all members get the same x

    `members` is a module of the same form with the stacked parameters, `member(i)` returns one of them. Sum the loss over
    members (the mean times k): no parameter is shared, so each member gets the gradient that it would get alone. Each is then
    trained as if alone, up to rounding, by elementwise optimisers (not by LAMB or with clipping by a global norm). Dropout
    draws a mask per member only where the members' values differ, that is after the first layer with parameters.

    Raises ArgumentError for no modules, no parameters, modules of different form, and buffers: batch norm would need running
    statistics per member.
    """

    members: Module

    def __init__(self, modules: Iterable[Module], each: bool = False) -> None:
        super().__init__()
        if isinstance(modules, Module) or not isinstance(modules, Iterable):
            raise ArgumentError(f"Ensemble: expected several modules, such as a list of them, got {describe(modules)}")
        members = list(modules)
        if not members:
            raise ArgumentError("Ensemble: expected at least one module")
        for i, module in enumerate(members):
            if not isinstance(module, Module):
                raise ArgumentError(f"Ensemble: module {i} must be a Module, got {describe(module)}")
            if form_of(module) != form_of(members[0]):
                raise ArgumentError(f"Ensemble: module {i} has a different structure than module 0:\n{module}\n{members[0]}")
            if names := [name for name, _ in module.named_buffers()]:
                raise ArgumentError(f"Ensemble: module {i} has the buffers {', '.join(names)}, which all members would share")
        if next(members[0].parameters(), None) is None:
            raise ArgumentError(f"Ensemble: the modules have no parameters:\n{members[0]}")
        self.each = bool(each)
        self.members = copy.deepcopy(members[0])
        parts = [dict(module.named_parameters()) for module in members]
        for name, parameter in self.members.named_parameters():
            arrays = [part[name]._data for part in parts]
            with on(arrays[0]):
                parameter._replace(namespace(arrays).stack(arrays))

    def __len__(self) -> int:
        """The number of members."""
        return int(next(self.members.parameters()).shape[0])

    def forward(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        parameters = list(self.members.parameters())

        def call_member(values: list[Tensor], *arguments: Any) -> Any:
            return copy_with(self.members, {id(p): value for p, value in zip(parameters, values, strict=True)}, {})(
                *arguments, **kwargs
            )

        return vmap(call_member, (0, 0 if self.each else None, *[None] * len(args)))(parameters, x, *args)

    def member(self, i: int) -> Module:
        """A module with a copy of the parameters of member i, counted from 0."""
        k = len(self)
        if not -k <= i < k:
            raise ArgumentError(f"Ensemble: member {i} is out of range for {k} members")
        found = copy.deepcopy(self.members)
        for parameter in found.parameters():
            parameter._replace(parameter._data[i].copy())
        return found

    def extra_repr(self) -> str:
        return f"{len(self)} members"


def form_of(module: Module) -> list[Any]:
    """The form of a module: path and class of its submodules, and the shapes of their parameters."""
    parts: list[Any] = [(path, type(part), part.extra_repr()) for path, part in module.named_modules()]
    return [*parts, *((name, p.shape, np.dtype(p.dtype), p.requires_grad) for name, p in module.named_parameters())]

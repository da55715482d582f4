"""Several modules of one form as one."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import numpy as np

from tensorgrad.autograd.batching import vmap
from tensorgrad.core.backend import namespace, on
from tensorgrad.core.state import shown
from tensorgrad.core.tensor import Tensor
from tensorgrad.errors import ArgumentError
from tensorgrad.nn.calls import twin
from tensorgrad.nn.module import Module

__all__ = ["Ensemble"]


class Ensemble(Module):
    """k modules of one form, computed and trained as one: each parameter has an axis of k in front.

        ensemble = nn.Ensemble(nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)) for _ in range(50))
        z = ensemble(x)                                          # (50, n, 10) for x (n, 64)

    modules   what they begin as: their parameters are copied, stacked; each draws its own initial values when it is made
    each      whether x has the k in front, too, one for each member: (k, n, ...); by default all of them get the same

    `members` is a module of their form that has the stacked parameters, `member(i)` gives one of them. Losses that are summed
    over members (the mean times k) give each the gradient that it has alone, as no parameter is shared; each member is then
    trained as by itself, up to rounding, by optimisers that work element by element (not LAMB-like ones, nor clipping by a
    norm of all). Dropout draws a mask for each member only where what it gets differs between them, that is behind the first
    layer that has parameters.

    Raises ArgumentError for no modules or parameters, others than of one form, and for buffers: batch norm has statistics of
    its own in each member, which are written to in training.
    """

    members: Module

    def __init__(self, modules: Iterable[Module], each: bool = False) -> None:
        super().__init__()
        if isinstance(modules, Module) or not isinstance(modules, Iterable):
            raise ArgumentError(f"Ensemble: expected several modules, such as a list of them, got {shown(modules)}")
        found = list(modules)
        if not found:
            raise ArgumentError("Ensemble: there are no modules")
        for i, module in enumerate(found):
            if not isinstance(module, Module):
                raise ArgumentError(f"Ensemble: {i} must be a Module, got {shown(module)}")
            if form_of(module) != form_of(found[0]):
                raise ArgumentError(f"Ensemble: module {i} is of another form than module 0:\n{module}\n{found[0]}")
            if names := [name for name, _ in module.named_buffers()]:
                raise ArgumentError(
                    f"Ensemble: module {i} has the buffers {', '.join(names)}, which would be one for all members"
                )
        if next(found[0].parameters(), None) is None:
            raise ArgumentError(f"Ensemble: there are no parameters in which the modules could differ:\n{found[0]}")
        self.each = bool(each)
        self.members = copy.deepcopy(found[0])
        parts = [dict(module.named_parameters()) for module in found]
        for name, parameter in self.members.named_parameters():
            arrays = [part[name]._data for part in parts]
            with on(arrays[0]):
                parameter._replace(namespace(arrays).stack(arrays))

    def __len__(self) -> int:
        """How many members there are."""
        return int(next(self.members.parameters()).shape[0])

    def forward(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        own = list(self.members.parameters())

        def one(values: list[Tensor], *given: Any) -> Any:
            return twin(self.members, {id(p): value for p, value in zip(own, values, strict=True)}, {})(*given, **kwargs)

        return vmap(one, (0, 0 if self.each else None, *[None] * len(args)))(own, x, *args)

    def member(self, i: int) -> Module:
        """A module with a copy of the parameters of member i, from 0."""
        k = len(self)
        if not -k <= i < k:
            raise ArgumentError(f"Ensemble: there is no member {i} of {k}")
        found = copy.deepcopy(self.members)
        for parameter in found.parameters():
            parameter._replace(parameter._data[i].copy())
        return found

    def extra_repr(self) -> str:
        return f"{len(self)} members"


def form_of(module: Module) -> list[Any]:
    """What modules of one form have in common: their parts, by path and class, and their parameters' shapes."""
    parts: list[Any] = [(path, type(part), part.extra_repr()) for path, part in module.named_modules()]
    return [*parts, *((name, p.shape, np.dtype(p.dtype), p.requires_grad) for name, p in module.named_parameters())]

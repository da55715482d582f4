"""Accumulation of gradients in a reverse walk."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from tensorgrad.core.backend import asarray, copy, namespace, on
from tensorgrad.core.memory import private
from tensorgrad.core.node import Node
from tensorgrad.core.state import state, switched
from tensorgrad.core.tensor import Tensor, wrap
from tensorgrad.errors import ShapeError
from tensorgrad.ops import astype, where

Source: TypeAlias = Node | Tensor  # the owner of a gradient: a node, for its result, or a leaf


class Sums:
    """The gradients so far, each a sum over the readers of a value.

    gradients node or leaf to gradient: an array, or a Tensor if the pass is recorded
    zero      inputs of ops whose derivative is 0, such as sign: their gradient is 0 unless there are other readers
    owned     sources whose gradient was allocated here, so that it can be added to in place
    recorded  whether the pass is recorded
    """

    __slots__ = ("gradients", "owned", "recorded", "zero")

    def __init__(self, recorded: bool) -> None:
        self.gradients: dict[Source, Any] = {}
        self.zero: set[Source] = set()
        self.owned: set[Source] = set()
        self.recorded = recorded

    def add(self, source: Source, g: Any) -> None:
        gradients = self.gradients
        if source not in gradients:
            gradients[source] = g
        elif source in self.owned:
            gradients[source] += g
        else:
            gradients[source] = gradients[source] + g
            if not self.recorded and source.shape:
                self.owned.add(source)


def hooked(hooks: list[Any], g: Any, record: bool) -> Any:
    """`g` after all hooks, each of which may replace it."""
    for hook in list(hooks):
        tensor = g if record else wrap(np.array(g) if isinstance(g, np.generic) else copy(g), None)  # hooks may keep it
        new = hook(tensor)
        if new is None:
            continue
        new = new if isinstance(new, Tensor) else user_gradient(new, "hook", record)
        if new.shape != tensor.shape:
            raise ShapeError(f"hook: returned a gradient of shape {new.shape}, expected {tensor.shape}")
        g = new if record else copy(new._data)
    return g


def add_zeros(sources: list[tuple[Source, Tensor]], sums: Sums) -> None:
    """Add gradients of 0 for inputs without any gradient from rules: those of sign, or of ReLU's mask."""
    for source, t in sources:
        if source in sums.gradients:
            continue
        if state.tracing:  # computed, so that each replay allocates its own
            with switched(recording=False):
                sums.gradients[source] = where(False, t, 0.0)
            continue
        with on(t._data):
            zeros = namespace([t._data]).zeros(t.shape, t.dtype)
        sums.gradients[source] = wrap(zeros, None) if sums.recorded else zeros


def paired(sources: list[tuple[Source, Tensor]], sums: Sums, seeds: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Pair each Tensor with its gradient, copied if the array may be shared. Runs the hooks of leaves first."""
    for source, tensor in sources:
        if (g := sums.gradients[source]).dtype != tensor._data.dtype:  # half precision: its gradients are computed in float32
            sums.gradients[source] = astype(g, tensor.dtype)
            sums.owned.discard(source)
        if isinstance(source, Tensor) and source.hooks is not None:
            sums.gradients[source] = hooked(source.hooks, sums.gradients[source], sums.recorded)
            sums.owned.discard(source)
    if sums.recorded:
        return [(tensor, sums.gradients[source]) for source, tensor in sources]
    in_use = {id(seed._data) for seed in seeds}
    result = []
    for source, tensor in sources:
        g = sums.gradients[source]
        if isinstance(g, np.generic):
            g = np.asarray(g)
        elif id(g) in in_use or (g.base is not None and source not in sums.owned):
            g = copy(g)
        in_use.add(id(g))
        result.append((tensor, wrap(g, None)))
    return result


def user_gradient(value: Any, where: str, recorded: bool) -> Tensor:
    """A user's array as a Tensor; copied if the pass is recorded, because the graph may keep it."""
    array = asarray(value, where=where)
    return wrap(private(array) if recorded and state.trace is None else array, None)

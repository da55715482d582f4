"""The gradients of a reverse walk: what has come in so far, and how it is handed out."""

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

Source: TypeAlias = Node | Tensor  # what a gradient belongs to: a node's result, or a leaf


class Sums:
    """The gradients that have come in so far, each the sum over those that read the value.

    of        node or leaf to gradient: an array, or a Tensor where the pass is recorded
    zero      what an op reads whose derivative with respect to it is 0, such as sign: its gradient is 0 if none comes in
    own       whose gradient is a sum made here, so that more can be added in place
    recorded  whether the pass is
    """

    __slots__ = ("of", "own", "recorded", "zero")

    def __init__(self, recorded: bool) -> None:
        self.of: dict[Source, Any] = {}
        self.zero: set[Source] = set()
        self.own: set[Source] = set()
        self.recorded = recorded

    def add(self, source: Source, g: Any) -> None:
        of = self.of
        if source not in of:
            of[source] = g
        elif source in self.own:
            of[source] += g
        else:
            of[source] = of[source] + g
            if not self.recorded and source.shape:
                self.own.add(source)


def hooked(hooks: list[Any], g: Any, record: bool) -> Any:
    """`g` after every hook has seen it, and perhaps given another in its place."""
    for hook in list(hooks):
        tensor = g if record else wrap(np.array(g) if isinstance(g, np.generic) else copy(g), None)  # which it may keep
        new = hook(tensor)
        if new is None:
            continue
        new = new if isinstance(new, Tensor) else given(new, "hook", record)
        if new.shape != tensor.shape:
            raise ShapeError(f"hook: returned a gradient of shape {new.shape}, expected {tensor.shape}")
        g = new if record else copy(new._data)
    return g


def add_zeros(sources: list[tuple[Source, Tensor]], sums: Sums) -> None:
    """The gradient 0 for what the graph reads, but no rule has a gradient for: what goes into sign, ReLU's mask."""
    for source, t in sources:
        if source in sums.of:
            continue
        if state.tracing:  # computed, so that each replay has an array of its own
            with switched(recording=False):
                sums.of[source] = where(False, t, 0.0)
            continue
        with on(t._data):
            zeros = namespace([t._data]).zeros(t.shape, t.dtype)
        sums.of[source] = wrap(zeros, None) if sums.recorded else zeros


def handed_out(found: list[tuple[Source, Tensor]], sums: Sums, seeds: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Pair each Tensor with its gradient, copied where the array might be somebody else's too. Hooks of leaves come first."""
    for source, tensor in found:
        if (g := sums.of[source]).dtype != tensor.dtype:  # half precision, whose gradients are float32 on the way
            sums.of[source] = astype(g, tensor.dtype)
            sums.own.discard(source)
        if isinstance(source, Tensor) and source.hooks is not None:
            sums.of[source] = hooked(source.hooks, sums.of[source], sums.recorded)
            sums.own.discard(source)
    if sums.recorded:
        return [(tensor, sums.of[source]) for source, tensor in found]
    taken = {id(seed._data) for seed in seeds}
    result = []
    for source, tensor in found:
        g = sums.of[source]
        if not isinstance(g, np.generic) and (id(g) in taken or (source not in sums.own and g.base is not None)):
            g = copy(g)
        taken.add(id(g))
        result.append((tensor, wrap(np.asarray(g) if isinstance(g, np.generic) else g, None)))
    return result


def given(value: Any, where: str, recorded: bool) -> Tensor:
    """An array of the user's as a Tensor; what is recorded may keep it, and so gets a copy."""
    array = asarray(value, where=where)
    return wrap(private(array) if recorded and state.trace is None else array, None)

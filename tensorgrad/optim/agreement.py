"""Agreement: the gradients of this rank's samples become those of the whole batch, before anything is made of them."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

from tensorgrad import ops
from tensorgrad.core.backend import Array, namespace, on
from tensorgrad.core.ranks import ranks
from tensorgrad.core.state import state, switched
from tensorgrad.core.tensor import Tensor, wrap
from tensorgrad.ops.meeting import mean_over_ranks


def agree(params: Sequence[Tensor]) -> Any:
    """Let the gradient of each parameter be the mean over the ranks, each counting by its share of the batch: in one flat array
    for each dtype, in which the gradients then lie.

    What all ranks have alike stays as it is, so a gradient may come here twice, and an L2 penalty need not know of ranks. Those
    that have been here, and that nothing has been added to since, are left alone.

    Returns the last flat array, a Tensor where a step is traced; None where there is nothing to do.
    """
    if ranks.group is None:
        return None
    alike: dict[Any, list[Tensor]] = {}
    for p in params:
        if p._grad is not None and p._grad not in ranks.agreed:
            alike.setdefault((p._grad.dtype, p._grad.device), []).append(p)
    flat: Any = None
    for some in alike.values():
        if state.trace is not None:
            with switched(recording=False):
                flat = mean_over_ranks(joined(some))
        else:
            flat = wrap(meant(some), None)
        start = 0
        for p in some:
            part = slice(start, start + p.size)
            start += p.size
            if state.trace is not None:
                with switched(recording=False):
                    p._grad = ops.reshape(flat[part], p.shape)
            else:
                p._grad = wrap(flat._data[part].reshape(p.shape), None)
            ranks.agreed.add(p._grad)
    return flat


def meant(params: list[Tensor]) -> Array:
    """The gradients, one after the other, as the mean over the ranks."""
    first, share = given(params[0])._data, ranks.share
    with on(first):
        flat = memory_for(params, first)
        if not share:  # without samples, anything may have come of them
            flat.fill(0)
        start = 0
        for p in params if share else ():
            part = flat[start : start + p.size].reshape(p.shape)
            namespace([first]).multiply(given(p)._data, share, out=part)
            start += p.size
        ranks.add_up(flat)
    return flat


# id of the first parameter to the flat array of the last step, until the parameter is gone
_kept: dict[int, tuple[weakref.ref[Tensor], Array]] = {}


def memory_for(params: list[Tensor], near: Array) -> Array:
    """An array for their gradients: that of the step before, if nobody has any of those. New memory is the larger part of a sum
    of many gradients: the system hands it out page by page. (CuPy keeps what it has on a GPU.)"""
    size = sum(p.size for p in params)
    if not isinstance(near, np.ndarray):
        return namespace([near]).empty(size, near.dtype)
    key = id(params[0])
    _, flat = _kept.get(key, (None, None))
    alone = 3  # references: that of the entry, the one here, and that of the question
    if flat is None or flat.size != size or flat.dtype != near.dtype or sys.getrefcount(flat) > alone:
        flat = np.empty(size, near.dtype)
        _kept[key] = weakref.ref(params[0], lambda _: _kept.pop(key, None)), flat
    return flat


def given(p: Tensor) -> Tensor:
    """The gradient of a parameter that has one."""
    assert p._grad is not None
    return p._grad


def joined(params: Sequence[Tensor]) -> Tensor:
    """Their gradients one after the other."""
    flat: list[Tensor] = [ops.reshape(given(p), (-1,)) for p in params]
    return flat[0] if len(flat) == 1 else ops.concatenate(flat)

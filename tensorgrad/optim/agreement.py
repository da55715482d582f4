"""Agreement: the gradients of this rank's samples become those of the whole batch, before anything is made of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
        flat = namespace([first]).zeros(sum(p.size for p in params), first.dtype)
        start = 0
        for p in params if share else ():  # without samples, anything may have come of them
            part = flat[start : start + p.size].reshape(p.shape)
            part[...] = given(p)._data
            part *= share
            start += p.size
        ranks.add_up(flat)
    return flat


def given(p: Tensor) -> Tensor:
    """The gradient of a parameter that has one."""
    assert p._grad is not None
    return p._grad


def joined(params: Sequence[Tensor]) -> Tensor:
    """Their gradients one after the other."""
    flat: list[Tensor] = [ops.reshape(given(p), (-1,)) for p in params]
    return flat[0] if len(flat) == 1 else ops.concatenate(flat)

"""All-reduce of gradients: averages over the ranks, before gradients are used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tensorgrad import ops
from tensorgrad.core.backend import Array, namespace, on
from tensorgrad.core.memory import new
from tensorgrad.core.ranks import ranks
from tensorgrad.core.state import state, switched
from tensorgrad.core.tensor import Tensor, wrap
from tensorgrad.ops.meeting import mean_over_ranks


def agree(params: Sequence[Tensor]) -> Any:
    """Replace each gradient by its mean over the ranks, weighted by their shares of the batch. The gradients of one dtype
    become views of one flat array.

    Gradients that are equal on all ranks are unchanged, so averaging twice is harmless, and an L2 penalty works as usual.
    Gradients that have been averaged, and not added to since, are skipped.

    Returns the last flat array, a Tensor while a step is traced; None if there is nothing to do.
    """
    if ranks.group is None:
        return None
    by_kind: dict[Any, list[Tensor]] = {}
    for p in params:
        if p._grad is not None and p._grad not in ranks.averaged:
            by_kind.setdefault((p._grad.dtype, p._grad.device), []).append(p)
    flat: Any = None
    for group in by_kind.values():
        if state.trace is not None:
            with switched(recording=False):
                flat = mean_over_ranks(joined(group))
        else:
            flat = wrap(averaged(group), None)
        start = 0
        for p in group:
            part = slice(start, start + p.size)
            start += p.size
            if state.trace is not None:
                with switched(recording=False):
                    p._grad = ops.reshape(flat[part], p.shape)
            else:
                p._grad = wrap(flat._data[part].reshape(p.shape), None)
            ranks.averaged.add(p._grad)
    return flat


def averaged(params: list[Tensor]) -> Array:
    """The concatenated gradients, averaged over the ranks."""
    first, share = gradient_of(params[0])._data, ranks.share
    with on(first):
        flat = memory_for(params, first)
        if not share:  # a mean over no samples may be NaN
            flat.fill(0)
        start = 0
        for p in params if share else ():
            part = flat[start : start + p.size].reshape(p.shape)
            namespace([first]).multiply(gradient_of(p)._data, share, out=part)
            start += p.size
        ranks.all_reduce(flat)
    return flat


def memory_for(params: list[Tensor], like: Array) -> Array:
    """A flat array for the gradients, in reused memory if possible: the system maps fresh memory page by page, which costs
    more than the sum itself. (On a GPU CuPy pools memory.)
    """
    size = sum(p.size for p in params)
    return new((size,), like.dtype) if isinstance(like, np.ndarray) else namespace([like]).empty(size, like.dtype)


def gradient_of(p: Tensor) -> Tensor:
    """The gradient of a parameter; must not be None."""
    assert p._grad is not None
    return p._grad


def joined(params: Sequence[Tensor]) -> Tensor:
    """The concatenated gradients."""
    flat: list[Tensor] = [ops.reshape(gradient_of(p), (-1,)) for p in params]
    return flat[0] if len(flat) == 1 else ops.concatenate(flat)

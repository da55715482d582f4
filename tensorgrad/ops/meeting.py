"""Sums over ranks (core.ranks) as operations, for programs that several processes run together."""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorgrad.core.backend import Array, Xp
from tensorgrad.core.op import Op, Rules, Value
from tensorgrad.core.ranks import ranks
from tensorgrad.core.state import state
from tensorgrad.core.tensor import raw
from tensorgrad.ops.elementwise import where

__all__: list[str] = []


class AllReduce(Op):
    """y = sum of x over the ranks: x has the same shape on all of them, and all get the same y.

    forward    y  = sum over ranks of x
    backward   gx = sum over ranks of (share g) / share

    The total loss is the sum of the ranks' losses, weighted by their shares of the batch. Gradients in the backward pass belong
    to the loss of the rank, which is why the rule has the shares. For a single process both are 1.
    """

    name, signature = "all_reduce", "()->()"
    linear = "x"
    meets = True

    def forward(self, xp: Xp, x: Array) -> Array:
        y = xp.empty(np.shape(x), x.dtype)  # C-contiguous
        y[...] = x
        ranks.all_reduce(y)
        return y

    def backward(self, g: Value, y: Value, x: Value) -> Rules:
        return (lambda: divided(self.apply(weighted(g)), share_of(g)),)


all_reduce = AllReduce()


def share_of(like: Value) -> Value:
    """This rank's share of the batch, on the device of `like`; replays read the current value."""
    if state.trace is None:
        return ranks.share
    return state.trace.recomputed(lambda: {"share": ranks.share}, raw(like))["share"]


def weighted(g: Value) -> Value:
    """g times this rank's share; 0 without samples, where g may be NaN."""
    if state.trace is None:
        share = ranks.share
        return g * share if share else where(True, 0.0, g)
    share = share_of(g)
    return where(share > 0, g * share, 0)


def divided(a: Value, share: Value) -> Value:
    """a / share, and 0 for 0: without samples nothing depends on it."""
    if state.trace is None:
        return a / share if share else a * 0.0
    return where(share > 0, a / where(share > 0, share, 1), 0)


def mean_over_ranks(g: Any) -> Any:
    """The mean over the ranks, weighted by their shares of the batch."""
    return all_reduce(weighted(g))

"""The forward and backward recursions of connectionist temporal classification (see ops.ctc), over all samples at once."""

from __future__ import annotations

from tensorgrad.core.backend import Array, Xp

LEAST = -1e15  # the logarithm of 0, such that sums, differences and squares of it are numbers in float32, too


def may_skip(xp: Xp, states: Array) -> Array:
    """Whether a path may skip the blank before a state: for a label that differs from the previous one. (n,k)"""
    skips = xp.zeros(states.shape, bool)
    skips[:, 3::2] = states[:, 3::2] != states[:, 1:-2:2]
    return skips


def forward_variables(xp: Xp, e: Array, skips: Array, steps: Array) -> Array:
    """a_{-1}, a_0, ... (t+1,n,k); after a sample's last step, its value is repeated. e (t,n,k), skips (n,k), steps (n)."""
    t, n, k = e.shape
    a = xp.full((t + 1, n, k + 2), LEAST, e.dtype)  # padded with two states before the first
    a[0, :, 2] = 0
    passing = xp.where(skips, xp.zeros((), e.dtype), xp.asarray(LEAST, e.dtype))
    for j in range(t):
        new = log_sum(xp, a[j], passing)
        new += e[j]
        a[j + 1, :, 2:] = xp.where((j < steps)[:, None], new, a[j, :, 2:])
    return a[:, :, 2:]


def backward_variables(xp: Xp, e: Array, skips: Array, steps: Array, ends: Array) -> Array:
    """b_0, b_1, ... (t,n,k): the same recursion, backwards in time and over the following states. ends (n,k)."""
    t, n, k = e.shape
    b = xp.empty((t, n, k), e.dtype)
    c = xp.full((n, k + 2), LEAST, e.dtype)  # b + e, with states reversed
    passing = xp.full((n, k), LEAST, e.dtype)
    passing[:, 2:] = xp.where(skips[:, :1:-1], xp.zeros((), e.dtype), passing[:, 2:])
    last = xp.where(ends, xp.zeros((), e.dtype), xp.asarray(LEAST, e.dtype))
    for j in reversed(range(t)):
        xp.copyto(b[j], log_sum(xp, c, passing)[:, ::-1])
        is_last_step = j + 1 == steps
        b[j] = xp.where(is_last_step[:, None], last, b[j])
        b[j] = xp.where((j + 1 > steps)[:, None], xp.asarray(LEAST, e.dtype), b[j])
        c[:, 2:] = (b[j] + e[j])[:, ::-1]
    return b


def log_sum(xp: Xp, a: Array, passing: Array) -> Array:
    """log of the sum of e^a over each state, the previous one, and the one before, to which `passing` is added."""
    stay, go, skip = a[:, 2:], a[:, 1:-1], a[:, :-2] + passing
    top = xp.maximum(stay, go)
    xp.maximum(top, skip, out=top)
    skip -= top
    total = xp.exp(skip, out=skip)
    for part in (stay, go):
        shifted = part - top
        total += xp.exp(shifted, out=shifted)
    xp.log(total, out=total)
    total += top
    return total

"""Connectionist temporal classification: the probability of a label sequence over all its alignments with the steps.

The labels l_1 .. l_m of a sample are states in a row, with blanks between and around them, (blank, l_1, blank, ..., l_m,
blank). In each step a path stays, moves on by one state, or by two if it skips a blank between different labels. It starts in
one of the first two states and ends in one of the last two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tensorgrad.core.backend import Array, Xp, check, namespace
from tensorgrad.core.op import Op, Rules, Sample, Tangents, Value
from tensorgrad.core.operand import Operand, T
from tensorgrad.core.state import scoped, state
from tensorgrad.core.tensor import Tensor, raw
from tensorgrad.kernels import ctc as kernels
from tensorgrad.kernels.ctc import LEAST
from tensorgrad.ops.compare import equal, greater, less, not_equal
from tensorgrad.ops.elementwise import as_wide, maximum, where
from tensorgrad.ops.exponential import exp
from tensorgrad.ops.index import AT, getitem, scatter
from tensorgrad.ops.pad import pad
from tensorgrad.ops.rearrange import expand_dims, stack
from tensorgrad.ops.shape import reshape
from tensorgrad.ops.statistics import logsumexp

__all__: list[str] = []


class CTCStates(Op):
    """The states of each sample: its labels with blanks between and around them. No gradient.

    forward    y[i] = blank, l_1, blank, l_2, ..., blank     targets (n,m), of sample i the first sizes[i], to y (n,2m+1)
    """

    name, signature, public = "ctc_states", "(m),()->(k)", "ctc_loss"

    def __call__(self, targets: Operand[T], sizes: Operand[T], *, blank: int, classes: int) -> T | Array:
        return self.apply(targets, sizes, blank=blank, classes=classes)

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        n, m = (int(s) for s in rng.choice(sizes, 2))
        return (rng.integers(0, 3, (n, m)), rng.integers(0, m + 1, n)), {"blank": 3, "classes": 4}

    def forward(self, xp: Xp, targets: Array, sizes: Array, *, blank: int, classes: int) -> Array:
        m = targets.shape[-1]
        check((sizes < 0) | (sizes > m), f"{scoped(self.public)}: a target length is out of range, expected 0 to {m}")
        in_target = xp.arange(m) < sizes[..., None]
        wrong = in_target & ((targets < 0) | (targets >= classes) | (targets == blank))
        check(wrong, f"{scoped(self.public)}: a target is out of range, expected 0 to {classes - 1} without the blank, {blank}")
        y = xp.full((*np.broadcast_shapes(in_target.shape, targets.shape)[:-1], 2 * m + 1), blank, targets.dtype)
        y[..., 1::2] = xp.where(in_target, targets, xp.asarray(blank, targets.dtype))
        return y


class CTC(Op):
    """The negative log-probability of the labels of each sample (Graves et al. 2006), infinite if there is no path.

    x (t,n,c) log-probabilities, states (n,k) from `ctc_states`, steps (n) the number of steps of each sample, at most t, sizes
    (n) the number of its labels, to y (n). With e_j(s) = x[j, i, states[i,s]] for sample i:

    forward    a_j(s) = e_j(s) + log(exp a_{j-1}(s) + exp a_{j-1}(s-1) + exp a_{j-1}(s-2) where it may be),   a_{-1}(0) = 0
               y  = -log(exp a(2 size) + exp a(2 size - 1)) at the last step
    backward   b_j(s) = log(sum of exp(b_{j+1}(s') + e_{j+1}(s')) over the states s' that follow s),   0 at the ends
               gx[j,i,l] = -g_i sum of exp(a_j(s) + b_j(s) + y_i) over s with states[i,s] = l;   0 where y is infinite
    tangent    ty_i = sum over j, l of gx[j,i,l] tx[j,i,l] with g = 1
    """

    name, signature, reads, public = "ctc", "(t,n,c),(n,k),(n),(n)->(...)", "x states steps sizes", "ctc_loss"
    data = "states steps sizes"
    real = True

    def __call__(self, x: Operand[T], states: Operand[T], steps: Operand[T], sizes: Operand[T]) -> T | Array:
        return self.apply(x, states, steps, sizes)

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        n, m, extra = (min(int(s), most) for s, most in zip(rng.choice(sizes, 3), (2, 2, 1), strict=True))
        t, lengths = 2 * m + extra, rng.integers(0, m + 1, n)  # enough steps for equal labels
        states = ctc_states(rng.integers(1, 3, (n, m)), lengths, blank=0, classes=3)
        return (self.values(rng, (t, n, 3)), states, rng.integers(2 * m, t + 1, n), lengths), {}

    def forward(self, xp: Xp, x: Array, states: Array, steps: Array, sizes: Array) -> Array:
        t = x.shape[0]
        if self.parsed.mismatch([a.shape for a in (x, states, steps, sizes)]):
            raise ValueError("shapes are incompatible")  # the signature has a better message
        check((steps < 0) | (steps > t), f"{scoped(self.public)}: an input length is out of range, expected 0 to {t}")
        e, skips = xp.maximum(x.reshape(-1)[flat_indices(x, states)], LEAST), kernels.may_skip(xp, states)
        y, _ = likelihood(kernels.forward_variables(xp, e, skips, steps)[-1], sizes)
        return xp.where(y > LEAST / 2, -y, xp.asarray(xp.inf, y.dtype))

    def backward(self, g: Value, y: Value, x: Value, states: Value, steps: Value, sizes: Value) -> Rules:
        return lambda: gradient_of(g, x, states, steps, sizes), None, None, None

    def jvp(self, y: Value, x: Value, states: Value, steps: Value, sizes: Value) -> Tangents:
        def tangent(t: Value) -> Value:
            unit = x[:1].sum((0, 2)) * 0 + 1 if x.shape[0] else sizes * 0 + 1
            return (gradient_of(unit, x, states, steps, sizes) * t).sum((0, 2))

        return tangent, None, None, None


class CTCGrad(Op):
    """The gradient of `ctc` with respect to x.

    forward    y  = gx of `ctc`
    """

    name, signature, public = "ctc_grad", "(n),(t,n,c),(n,k),(n),(n)->(...)", "ctc_loss"

    def is_data(self, i: int) -> bool:
        return i > 1

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        args, _ = ctc.sample(rng, sizes)
        return (self.values(rng, args[1].shape[:1]), *args), {}

    def forward(self, xp: Xp, g: Array, x: Array, states: Array, steps: Array, sizes: Array) -> Array:
        if not x.size:
            return x * 0
        e, skips = xp.maximum(x.reshape(-1)[flat_indices(x, states)], LEAST), kernels.may_skip(xp, states)
        a = kernels.forward_variables(xp, e, skips, steps)[1:]
        y, ends = likelihood(a[-1], sizes)
        return gradient_from_paths(g, a + kernels.backward_variables(xp, e, skips, steps, ends), y, x, states)


def gradient_of(g: Value, *args: Value) -> Value:
    """The gradient, by its own op or, to be differentiated again, by formulas."""
    is_recorded = state.recording and any(isinstance(a, Tensor) for a in (g, *args))
    return gradient_by_formulas(g, *args) if is_recorded else ctc_grad.apply(g, *args)


def gradient_by_formulas(g: Value, x: Value, states: Value, steps: Value, sizes: Value) -> Value:
    """The rule of `ctc` as plain operations, step by step."""
    if not x.size:
        return x * 0
    wide: Any = as_wide(x)
    e = maximum(getitem(reshape(wide, (x.size,)), flat_indices(x, states)), LEAST)
    is_label = namespace([raw(x)]).arange(states.shape[1]) % 2 == 1
    skips = where(is_label, not_equal(states, shifted(states, 2, -1)), False)
    a = where(namespace([raw(x)]).arange(states.shape[1]) == 0, e[0] * 0, LEAST)
    before: list[Value] = []
    after: list[Value] = []
    for j in range(x.shape[0]):
        new = log_sum(a, shifted(a, 1), where(skips, shifted(a, 2), LEAST)) + e[j]
        a = where(expand_dims(less(j, steps), 1), new, a)
        before.append(a)
    y, ends = likelihood(a, sizes)
    b = a * 0 + LEAST
    for j in reversed(range(x.shape[0])):
        if after:
            c = b + e[j + 1]
            b = log_sum(c, shifted(c, -1), where(shifted(skips, -2, False), shifted(c, -2), LEAST))
        b = where(expand_dims(equal(steps, j + 1), 1), where(ends, 0.0, LEAST), b)
        after.append(b)
    return gradient_from_paths(g, stack(before) + stack(after[::-1]), y, x, states)


def gradient_from_paths(g: Value, paths: Value, y: Value, x: Value, states: Value) -> Value:
    """The gradient of x from a + b, the log-probabilities of all paths through a state at a step, (t,n,k)."""
    is_possible = greater(y, LEAST / 2)
    p = where(expand_dims(is_possible, 1), exp(paths - expand_dims(where(is_possible, y, 0), 1)), 0) * expand_dims(-g, 1)
    at = reshape(flat_indices(x, states), (p.size,))
    return reshape(scatter(reshape(p, (p.size,)), at, index=AT, shape=(x.size,)), x.shape)


def flat_indices(x: Value, states: Value) -> Value:
    """The flat index into x of each e_j(s), (t,n,k)."""
    t, n, c = x.shape
    return states + namespace([raw(x)]).arange(t * n).reshape((t, n, 1)) * c


def likelihood(a: Value, sizes: Value) -> tuple[Value, Value]:
    """The log-probability of all paths, (n), and the final states, (n,k)."""
    at, last = namespace([raw(a)]).arange(a.shape[1]), expand_dims(sizes, 1) * 2
    ends = equal(at, last) + equal(at, last - 1)
    return logsumexp(where(ends, a, LEAST), 1), ends


def log_sum(*parts: Value) -> Value:
    """log of the sum of e^part."""
    return logsumexp(stack(parts), 0)


def shifted(x: Value, by: int, value: float = LEAST) -> Value:
    """x (n,k) shifted to the right or left, with a number in the vacant places."""
    k = x.shape[1]
    by = min(max(by, -k), k)
    return pad(x[:, : k - by], ((0, 0), (by, 0)), value) if by > 0 else pad(x[:, -by:], ((0, 0), (0, -by)), value)


ctc_states, ctc, ctc_grad = CTCStates(), CTC(), CTCGrad()

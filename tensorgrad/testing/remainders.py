"""The convergence of Taylor remainders, and what it says about a derivative.

For a function of one number, f(h) near h = 0, and given terms of its expansion:

    R0 = |f(h) - f(0)|,   R1 = |f(h) - f(0) - h s|,   R2 = |f(h) - f(0) - h s - h² c / 2|

Rp falls as h^(p+1) if its terms are right, and as h^p if the last one is wrong: 2 against 1 for a gradient, 3 against 2 for a
Hessian. This holds between steps so long that further terms matter and steps so short that rounding does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np

from tensorgrad.core.backend import Array
from tensorgrad.testing.report import table

Rate: TypeAlias = Literal["ok", "wrong", "precision"]

RATIO = 4.0
STEPS = RATIO ** -np.arange(1.0, 24.0)  # 0.25 down to 1.4e-14
SEEN = 30.0  # ratio of remainder to rounding error at which its rate is accurate to a few per cent
SURE = 10.0  # ratio above which a value is not due to rounding
LEVELS = 3  # neighbouring steps that must agree
STEADY = 0.2  # relative tolerance between them
LEAST = {1: 1e-8, 2: 1e-6}  # relative error, by order of the term, that counts as none
FEW = 5  # an otherwise constant function may change over so many of the longest steps
COARSE = 1e-3  # a relative error bound above this confirms nothing


@dataclass(frozen=True)
class Remainders:
    """The remainders of one output along a random direction of one input, or of all.

    name         of the moved input; output: index of the output, 0 if there is one
    order        of the tested derivative, the last term of the expansion
    verdict      "ok", "kink" (both pass), "wrong", "precision", "non-finite" or "nondeterministic"
    term         the recorded derivative of that order along the direction;  error: its error, judged by values
    steps        h;  remainders: for each order from 0 on the remainders at these steps;  noise: their rounding error
    """

    name: str
    output: int
    order: int
    verdict: str
    term: float
    error: float
    steps: Array = field(default_factory=lambda: np.zeros(0), compare=False)  # == of arrays is not a boolean
    remainders: tuple[Array, ...] = field(default=(), compare=False)
    noise: Array = field(default_factory=lambda: np.zeros(0), compare=False)

    def rates(self, order: int) -> Array:
        """The rate of a remainder between neighbouring steps; NaN where it is due to rounding."""
        return rates(self.remainders[order], self.noise)

    def __str__(self) -> str:
        words = [("|f(x+hv) - f|", "rate"), ("- h g·v", "rate"), ("- h²/2 v·Hv", "rate")][: len(self.remainders)]
        lines: list[tuple[str, ...]] = [("h", *[w for pair in words for w in pair])]
        falls = [np.concatenate([[np.nan], self.rates(k)]) for k in range(len(self.remainders))]
        for i, h in enumerate(self.steps):
            cells = []
            for r, rate in zip(self.remainders, falls, strict=True):
                below = "~" if r[i] <= SEEN * self.noise[i] else ""
                cells += [f"{r[i]:.1e}{below}", "" if np.isnan(rate[i]) else f"{rate[i]:.2f}"]
            lines.append((f"{h:.1e}", *cells))
        return "\n".join([f"{self.name}{f', output {self.output}' if self.output else ''} (~: within rounding)", *table(lines)])


@dataclass(frozen=True)
class Scale:
    """Scales for the error of a term.

    term     the term itself
    rounding its error from summation
    visible  an error that is negligible beside other terms
    """

    term: float
    rounding: float
    visible: float


@dataclass(frozen=True)
class Judgement:
    """The conclusion from the remainders of one order.

    verdict  "wrong": they fall with the rate of a wrong term, down to the shortest usable step. "ok": they fall faster, or are
             rounding errors beside the term. "precision": neither can be seen
    error    the difference between the term estimated from values and the recorded one
    level    the index of the decisive step
    errors   the error by each step
    """

    verdict: Rate
    error: float
    level: int
    errors: Array


def rates(remainders: Array, noise: Array) -> Array:
    """The rate from each step to the next, NaN if one of the two remainders is due to rounding."""
    with np.errstate(all="ignore"):
        rate = np.log(remainders[:-1] / remainders[1:]) / np.log(RATIO)
        visible = (remainders > SEEN * noise) & np.isfinite(remainders)
    return np.where(visible[:-1] & visible[1:], rate, np.nan)


def without_next(q: Array) -> Array:
    """a of q(h) = a + b h + ..., from neighbouring steps, eliminating the next term b."""
    return (RATIO * q[1:] - q[:-1]) / (RATIO - 1)


def judge(series: Sequence[Array], noise: Array, scale: Scale) -> Judgement:
    """Judge the last of the signed remainders of every order at all steps, given their rounding errors."""
    order, signed = len(series) - 1, series[-1]
    with np.errstate(all="ignore"):
        power = STEPS**order / order
        errors, doubt = without_next(signed / power), (RATIO * (noise / power)[1:] + (noise / power)[:-1]) / (RATIO - 1)
        size = np.maximum(abs(scale.term), np.abs(scale.term + errors))
        doubt = SURE * doubt + LEAST[order] * size + scale.rounding
        known = np.isfinite(errors) & np.isfinite(doubt)
        clear = known & (np.abs(errors) > doubt)
        bound = np.where(known, np.abs(errors) + doubt, np.inf)
    if clear.any():
        last = int(np.flatnonzero(clear)[-1])
        tail = slice(max(last + 1 - LEVELS, 0), last + 1)
        agrees = np.abs(errors[tail] - errors[last]) <= STEADY * abs(errors[last])
        steady = len(agrees) == LEVELS and bool((agrees & clear[tail]).all())
        # a remainder that suddenly vanishes, above rounding, belonged to a coarser scale: the far side of a kink nearby
        hidden = last + 1 == len(errors) or not known[last + 1] or doubt[last + 1] >= 0.5 * abs(errors[last])
        if steady and hidden:
            # most accurate in the middle of the decisive steps: further terms matter at one end, rounding at the other
            other = np.flatnonzero(~(clear & (np.abs(errors - errors[last]) <= STEADY * abs(errors[last])))[:last])
            middle = ((int(other[-1]) + 1 if other.size else 0) + last) // 2
            return Judgement("wrong", float(errors[middle]), middle, errors)
    pair_bound = np.maximum(bound[:-1], bound[1:])
    best = int(pair_bound.argmin())
    judgement = Judgement("ok", float(errors[best]) if known[best] else np.nan, best, errors)
    if pair_bound[best] <= max(COARSE * size[best], scale.visible):
        return judgement
    visible = rates(np.abs(signed), noise)
    visible = visible[np.isfinite(visible)][-LEVELS:]
    if len(visible) == LEVELS and (visible >= order + 0.2).all():
        return judgement
    changes = np.nan_to_num(series[0]) != 0
    if scale.term == 0 and not changes[FEW:].any():
        return judgement  # no term is given, and nothing changes
    return Judgement("precision", judgement.error, best, errors)


def quantum(changes: Array) -> Array:
    """For each column the power of two that divides all its numbers: large if they are differences of larger numbers.

    0 for a column with fewer than three non-zero numbers, from which nothing follows.
    """
    with np.errstate(all="ignore"):
        usable = np.isfinite(changes) & (changes != 0)
        mantissa, exponent = np.frexp(np.where(usable, changes, 1.0))
        digits = np.ldexp(np.abs(mantissa), 53).astype(np.int64)
        trailing = np.log2((digits & -digits).astype(float))
        lowest = np.where(usable, exponent - 53 + trailing, np.inf).min(axis=0, initial=np.inf)
        return np.where(usable.sum(axis=0) >= 3, np.exp2(np.minimum(lowest, 1000.0)), 0.0)


def scatter(values: Array) -> Array:
    """The rounding errors of a smooth function, from its values (7, m) at neighbouring, equally spaced points.

    Uses fourth differences, in which nothing smooth is left at this distance (Moré and Wild, Estimating computational noise,
    SIAM Journal on Scientific Computing 33, 2011).
    """
    with np.errstate(all="ignore"):
        noise = np.abs(np.diff(values, 4, axis=0)).max(axis=0) / np.sqrt(70.0)
    return np.where(np.isfinite(noise), noise, 0.0)

"""How Taylor remainders fall as the step does, and what that says of the derivative that they were taken with.

For a function of one number, f(h) near h = 0, and the terms that are claimed for it:

    R0 = |f(h) - f(0)|,   R1 = |f(h) - f(0) - h s|,   R2 = |f(h) - f(0) - h s - h² c / 2|

Rp falls as h^(p+1) if its terms are right, and as h^p if the last one is wrong: 2 against 1 for a gradient, 3 against 2 for a
Hessian. That is so between steps so long that further terms count and steps so short that rounding does.
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
SEEN = 30.0  # a remainder this many times its rounding error has a rate that is known to some per cent
SURE = 10.0  # so many times its rounding error nothing is taken for rounding
LEVELS = 3  # neighbouring steps that have to tell the same
STEADY = 0.2  # how much of it what they tell may differ
LEAST = {1: 1e-8, 2: 1e-6}  # an error of the term of this order below that share of it counts as none
FEW = 5  # longest steps over which a function may change that is constant at all others
COARSE = 1e-3  # a bound on the error above that share of the term confirms nothing


@dataclass(frozen=True)
class Remainders:
    """The remainders of one output along one random direction of one input, or of all.

    name         of what was moved; output: which output was looked at, 0 if there is one
    order        of the last term of the expansion, and of the derivative that is tried
    verdict      "ok", "kink" (both pass), "wrong", "precision", "non-finite" or "nondeterministic"
    term         the derivative of that order along the direction, as recorded;  error: how far it is off, by the values
    steps        h;  remainders: for each order from 0 on the remainders at these steps;  noise: their rounding error
    """

    name: str
    output: int
    order: int
    verdict: str
    term: float
    error: float
    steps: Array = field(default_factory=lambda: np.zeros(0), compare=False)  # arrays have no one answer to ==
    remainders: tuple[Array, ...] = field(default=(), compare=False)
    noise: Array = field(default_factory=lambda: np.zeros(0), compare=False)

    def rates(self, order: int) -> Array:
        """Between each two steps, of the remainder of an order; NaN where it is rounding."""
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
    """What an error of a term is measured by.

    term     the term itself, as it is claimed
    rounding an error that it has because it was added up
    visible  an error that is none beside other terms
    """

    term: float
    rounding: float
    visible: float


@dataclass(frozen=True)
class Fall:
    """What the remainders of one order say.

    verdict  "wrong": they fall with the rate of a wrong term, down to the shortest step that is above rounding. "ok": they fall
             faster, or are rounding beside the term. "precision": neither can be seen
    error    how far the term is off, by the values: what they have, less what was claimed
    level    the step, by its place, that says so
    errors   what each step says
    """

    verdict: Rate
    error: float
    level: int
    errors: Array


def rates(remainders: Array, noise: Array) -> Array:
    """The rate from each step to the next, NaN where one of the two remainders is rounding."""
    with np.errstate(all="ignore"):
        found = np.log(remainders[:-1] / remainders[1:]) / np.log(RATIO)
        seen = (remainders > SEEN * noise) & np.isfinite(remainders)
    return np.where(seen[:-1] & seen[1:], found, np.nan)


def without_next(q: Array) -> Array:
    """a of q(h) = a + b h + ..., from each two neighbouring steps: the term b, of the next order, is eliminated."""
    return (RATIO * q[1:] - q[:-1]) / (RATIO - 1)


def fall(series: Sequence[Array], noise: Array, scale: Scale) -> Fall:
    """From the signed remainders of every order at all steps, the last of which is judged, and their rounding errors."""
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
        told = slice(max(last + 1 - LEVELS, 0), last + 1)
        alike = np.abs(errors[told] - errors[last]) <= STEADY * abs(errors[last])
        steady = len(alike) == LEVELS and bool((alike & clear[told]).all())
        # a remainder that is suddenly gone, above rounding, was one of a coarser scale: the other side of a kink close by
        hidden = last + 1 == len(errors) or not known[last + 1] or doubt[last + 1] >= 0.5 * abs(errors[last])
        if steady and hidden:
            # best known in the middle of the steps that tell it: further terms count at one end, rounding at the other
            other = np.flatnonzero(~(clear & (np.abs(errors - errors[last]) <= STEADY * abs(errors[last])))[:last])
            middle = ((int(other[-1]) + 1 if other.size else 0) + last) // 2
            return Fall("wrong", float(errors[middle]), middle, errors)
    both = np.maximum(bound[:-1], bound[1:])
    best = int(both.argmin())
    found = Fall("ok", float(errors[best]) if known[best] else np.nan, best, errors)
    if both[best] <= max(COARSE * size[best], scale.visible):
        return found
    seen = rates(np.abs(signed), noise)
    seen = seen[np.isfinite(seen)][-LEVELS:]
    if len(seen) == LEVELS and (seen >= order + 0.2).all():
        return found
    changes = np.nan_to_num(series[0]) != 0
    if scale.term == 0 and not changes[FEW:].any():
        return found  # nothing is claimed, and nothing changes
    return Fall("precision", found.error, best, errors)


def quantum(changes: Array) -> Array:
    """For each column the power of two that all its numbers are multiples of: large where they come of larger ones' difference.

    0 for a column in which fewer than three numbers are not 0, which says nothing.
    """
    with np.errstate(all="ignore"):
        usable = np.isfinite(changes) & (changes != 0)
        mantissa, exponent = np.frexp(np.where(usable, changes, 1.0))
        whole = np.ldexp(np.abs(mantissa), 53).astype(np.int64)
        trailing = np.log2((whole & -whole).astype(float))
        lowest = np.where(usable, exponent - 53 + trailing, np.inf).min(axis=0, initial=np.inf)
        return np.where(usable.sum(axis=0) >= 3, np.exp2(np.minimum(lowest, 1000.0)), 0.0)


def scatter(values: Array) -> Array:
    """The size of the rounding errors of a smooth function, from its values (7, m) at neighbouring, equally spaced points.

    Their fourth differences, in which nothing smooth is left over such a distance (Moré and Wild, Estimating computational
    noise, SIAM Journal on Scientific Computing 33, 2011).
    """
    with np.errstate(all="ignore"):
        found = np.abs(np.diff(values, 4, axis=0)).max(axis=0) / np.sqrt(70.0)
    return np.where(np.isfinite(found), found, 0.0)

"""Slopes along a line, from values alone, and whether a recorded slope is one that the values allow.

A line is a function e -> values near e = 0, scaled so that e = 1 moves the inputs by about their own size. Everything here is
done for all values (outputs) at once. This is the judge where a function cannot be differentiated by what it has recorded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from tensorgrad.core.backend import Array
from tensorgrad.testing.verdicts import CODES

OK, KINK, PRECISION, WRONG, NON_FINITE = (CODES[v] for v in ("ok", "kink", "precision", "wrong", "non-finite"))

Line: TypeAlias = Callable[[float], Array]

EPS = float(np.finfo(np.float64).eps)
FIRST_STEP = 1e-3  # truncation error (4th order) about 1e-12, rounding as much
LADDER = (0.1, 0.03, 0.01, 0.003, *(10.0**-k for k in range(3, 12)))
DECADES = [4, 5, 6]  # levels of the ladder, each a tenth of the one before
KNOWN = 0.3  # what rounding may take of the tolerance where a slope counts as known to that
ROUGHLY = 0.1  # what it may take of the slope where one is known at all


def judge(line: Line, recorded: Array, size: Array, rtol: float, eps: float = EPS) -> tuple[Array, Array]:
    """A verdict on each recorded slope, and the slope that the values give.

    recorded  (m) slopes by the gradient under test
    size      (m) how large the numbers are that the values are computed from, for their rounding error
    eps       of the arithmetic of the values; where it is less than float64's, steps are rounded more than values

    A slope is "ok" where differences are known to rtol of it, and within rtol of it. First come central differences at two
    steps, with Richardson extrapolation, which settle most; then a ladder of steps, where the finest counts that rounding
    leaves known. It is a kink only where the slopes at the two sides differ at two step sizes by more than rounding explains.
    Returns (verdicts, numerical slopes), both (m).
    """
    with np.errstate(all="ignore"):
        numerical, noise, still = richardson(line, size, eps)
        most = np.maximum(np.abs(recorded), np.abs(numerical))
        good = (noise <= KNOWN * rtol * most) & (np.abs(recorded - numerical) <= rtol * most)
        if (still & (recorded == 0)).any():
            good |= still & (recorded == 0) & (line(0.0) == line(FIRST_STEP))
        verdicts = np.where(good, OK, np.where(np.isfinite(recorded), WRONG, NON_FINITE)).astype(np.uint8)
        if (open_ := verdicts == WRONG).any():
            verdicts[open_], numerical[open_] = climb(line, recorded[open_], size[open_], rtol, open_, eps)
    return verdicts, numerical


def richardson(line: Line, size: Array, eps: float, h: float = FIRST_STEP) -> tuple[Array, Array, Array]:
    """(4 D(h/2) - D(h)) / 3 with D(h) = (f(h) - f(-h)) / 2h, its rounding error, and where nothing has moved at all."""
    up, down, near, below = line(h), line(-h), line(h / 2), line(-h / 2)
    numerical = (4 * (near - below) / h - (up - down) / (2 * h)) / 3
    noise = 8 * eps * np.maximum(size, np.maximum(np.abs(up), np.abs(down))) / h + misplaced(numerical, h, eps)
    return numerical, noise, (up == down) & (near == below) & (up == near)


def climb(line: Line, j: Array, size: Array, rtol: float, open_: Array, eps: float) -> tuple[Array, Array]:
    """Verdicts and slopes by a ladder of steps, for the values that `open_` marks."""
    here = line(0.0)[open_]
    values = np.stack([np.stack([line(e)[open_] for e in (h, -h, 2 * h, -2 * h)]) for h in LADDER])
    up, down, up2, down2 = values.transpose(1, 0, 2)
    h = np.array(LADDER)[:, None]
    noise = 8 * eps * np.maximum(np.where(np.isfinite(values), np.abs(values), 0).max(axis=1), size) / h
    # 4th order from both sides; 2nd order from one where the other is out of the domain
    slopes = (8 * (up - down) - (up2 - down2)) / (12 * h)
    ahead, behind = (4 * up - up2 - 3 * here) / (2 * h), (3 * here - 4 * down + down2) / (2 * h)
    slopes = np.where(np.isfinite(slopes), slopes, np.where(np.isfinite(ahead), ahead, behind))
    noise = noise + misplaced(slopes, h, eps)
    # the point itself is left out, so that a function that jumps there has a slope on either side too
    right, left = (up2 - up) / h, (down - down2) / h
    right, left = np.where(np.isfinite(right), right, left), np.where(np.isfinite(left), left, right)
    verdicts, found = np.zeros(j.shape, np.uint8), np.zeros(j.shape)
    for i in range(len(j)):
        verdicts[i], found[i] = settle(j[i], slopes[:, i], noise[:, i], right[:, i], left[:, i], rtol)
    return verdicts, found


def misplaced(slopes: Array, h: Any, eps: float) -> Array:
    """What a slope is off by because the inputs, in float64, do not move by exactly h; of no account beside values in it."""
    return np.asarray(2 * EPS / h * np.nan_to_num(np.abs(slopes)) if eps < EPS else np.zeros(()))


def settle(j: float, slopes: Array, noise: Array, right: Array, left: Array, rtol: float) -> tuple[int, float]:
    """The verdict on one recorded slope j, from slopes by levels of a ladder, and the slope that counts."""
    most = np.maximum(np.abs(slopes), abs(j))
    finite = np.isfinite(slopes)
    jump = at_jump(slopes, noise, right, left)
    if jump is not None and jump[0] - jump[2] <= j <= jump[1] + jump[2]:
        return KINK, j  # else it may be steep, and smooth, between the finest steps
    kink = sides(noise, right, left, abs(j))
    if kink is not None:
        low, high, slack = kink
        slack += rtol * max(abs(low), abs(high))
        return (KINK if low - slack <= j <= high + slack else WRONG), min(max(j, low), high)
    gap = np.abs(slopes - j)
    near = gap[finite & (noise <= gap)][-3:]
    if len(near) == 3 and near[1] < near[0] / 2 and near[2] < near[1] / 2:
        return OK, j  # the slopes tend to it, as they do where a function begins
    change = np.abs(np.diff(slopes, prepend=np.nan))
    known = finite & (noise <= KNOWN * rtol * most) & (change <= 100 * rtol * most)
    if known.any():
        best = int(np.flatnonzero(known)[-1])
        return (OK if abs(j - slopes[best]) <= rtol * most[best] else WRONG), float(slopes[best])
    if j == 0 and (np.abs(slopes[2:]) <= noise[2:])[finite[2:]].all() and finite[2:].any():
        return OK, 0.0  # nothing that is more than a rounding error of the value
    roughly = finite & (noise <= ROUGHLY * most) & (change <= 0.3 * most)
    if not roughly.any():
        return PRECISION, float(slopes[finite][0]) if finite.any() else float("nan")
    best = int(np.flatnonzero(roughly)[-1])
    doubt = noise[roughly].min() + float(np.nan_to_num(change[best]))
    return (WRONG if abs(j - slopes[best]) > 10 * doubt + rtol * most[best] else PRECISION), float(slopes[best])


def sides(noise: Array, right: Array, left: Array, recorded: float) -> tuple[float, float, float] | None:
    """The slopes at both sides and their rounding error, if they differ beyond that at the two finest levels that show it."""
    width = np.abs(right - left)
    most = np.maximum(np.maximum(np.abs(right), np.abs(left)), recorded)  # differences across a jump have no limit
    tell = np.flatnonzero(np.isfinite(width) & (30 * noise <= 1e-2 * most))
    if len(tell) < 2:
        return None
    coarse, fine = tell[-2], tell[-1]
    if width[fine] <= 30 * noise[fine] or width[fine] < width[coarse] / 2 or width[fine] <= 1e-3 * most[fine]:
        return None
    return min(left[fine], right[fine]), max(left[fine], right[fine]), 10 * noise[fine]


def at_jump(slopes: Array, noise: Array, right: Array, left: Array) -> tuple[float, float, float] | None:
    """The slopes at both sides of a jump, which may be one and the same, and how far they are known; None if there is none.

    Differences across a jump grow as the steps get smaller, by as much.
    """
    wide, step = slopes[DECADES], np.abs(noise[DECADES])
    if not np.isfinite([*wide, *right[DECADES], *left[DECADES]]).all() or (np.abs(wide) <= 1e3 * step).any():
        return None
    if (np.abs(wide[1:] / wide[:-1] - 10) > 1e-2).any() or (
        np.abs([right[DECADES], left[DECADES]]) > 1e-2 * np.abs(wide)
    ).any():
        return None
    coarse, fine = DECADES[-2:]
    slack = 10 * noise[fine] + abs(right[fine] - right[coarse]) + abs(left[fine] - left[coarse])
    return min(left[fine], right[fine]), max(left[fine], right[fine]), float(slack)


def units(x: Array) -> Array:
    """For each entry of x, how large it is: what a relative step is relative to. For a 0, what is usual among the others."""
    size = np.abs(x)
    if (size > 0).all():
        return size
    usual = size[size > 0]
    return np.where(size > 0, size, float(np.median(usual)) if usual.size else 1.0)

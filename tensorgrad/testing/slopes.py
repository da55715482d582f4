"""Numerical slopes along a line, from values only, and verdicts on recorded slopes.

A line is a function e -> values near e = 0, scaled so that e = 1 moves the inputs by about their own size. All values (outputs)
are processed at once. Used if a function cannot be differentiated by its recording.
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
FIRST_STEP = 1e-3  # truncation error (4th order) about 1e-12, rounding error about the same
LADDER = (0.1, 0.03, 0.01, 0.003, *(10.0**-k for k in range(3, 12)))
DECADES = [4, 5, 6]  # levels of the ladder of steps, in tenths
KNOWN = 0.3  # rounding error as a fraction of the tolerance, at which a slope counts as known
ROUGHLY = 0.1  # rounding error as a fraction of the slope, at which it counts as roughly known


def judge(line: Line, recorded: Array, size: Array, rtol: float, eps: float = EPS) -> tuple[Array, Array]:
    """A verdict on each recorded slope, and the numerical slope.

    recorded  (m) slopes by the gradient under test
    size      (m) magnitude of the numbers that the values are computed from, for their rounding error
    eps       of the values' arithmetic; if it is less than float64's, steps are rounded more than values

    A slope is "ok" if the numerical slope is accurate to rtol, and within rtol of it. First come central differences with two
    steps and Richardson extrapolation, which decide most cases; then a ladder of steps, of which the finest that rounding
    permits counts. It is a kink only if the one-sided slopes differ at two step sizes by more than rounding explains. Returns
    (verdicts, numerical slopes), both (m).
    """
    with np.errstate(all="ignore"):
        numerical, noise, unchanged = richardson(line, size, eps)
        magnitude = np.maximum(np.abs(recorded), np.abs(numerical))
        good = (noise <= KNOWN * rtol * magnitude) & (np.abs(recorded - numerical) <= rtol * magnitude)
        if (unchanged & (recorded == 0)).any():
            good |= unchanged & (recorded == 0) & (line(0.0) == line(FIRST_STEP))
        verdicts = np.where(good, OK, np.where(np.isfinite(recorded), WRONG, NON_FINITE)).astype(np.uint8)
        if (open_ := verdicts == WRONG).any():
            verdicts[open_], numerical[open_] = climb(line, recorded[open_], size[open_], rtol, open_, eps)
    return verdicts, numerical


def richardson(line: Line, size: Array, eps: float, h: float = FIRST_STEP) -> tuple[Array, Array, Array]:
    """(4 D(h/2) - D(h)) / 3 with D(h) = (f(h) - f(-h)) / 2h, its rounding error, and where nothing has changed."""
    up, down, half_up, half_down = line(h), line(-h), line(h / 2), line(-h / 2)
    numerical = (4 * (half_up - half_down) / h - (up - down) / (2 * h)) / 3
    noise = 8 * eps * np.maximum(size, np.maximum(np.abs(up), np.abs(down))) / h + misplaced(numerical, h, eps)
    return numerical, noise, (up == down) & (half_up == half_down) & (up == half_up)


def climb(line: Line, j: Array, size: Array, rtol: float, open_: Array, eps: float) -> tuple[Array, Array]:
    """Verdicts and slopes by a ladder of steps, for the values marked by `open_`."""
    here = line(0.0)[open_]
    values = np.stack([np.stack([line(e)[open_] for e in (h, -h, 2 * h, -2 * h)]) for h in LADDER])
    up, down, up2, down2 = values.transpose(1, 0, 2)
    h = np.array(LADDER)[:, None]
    noise = 8 * eps * np.maximum(np.where(np.isfinite(values), np.abs(values), 0).max(axis=1), size) / h
    # 4th order from both sides; 2nd order from one side if the other is out of the domain
    slopes = (8 * (up - down) - (up2 - down2)) / (12 * h)
    ahead, behind = (4 * up - up2 - 3 * here) / (2 * h), (3 * here - 4 * down + down2) / (2 * h)
    slopes = np.where(np.isfinite(slopes), slopes, np.where(np.isfinite(ahead), ahead, behind))
    noise = noise + misplaced(slopes, h, eps)
    # excludes the point itself, so that a function that jumps there has one-sided slopes too
    right, left = (up2 - up) / h, (down - down2) / h
    right, left = np.where(np.isfinite(right), right, left), np.where(np.isfinite(left), left, right)
    verdicts, result = np.zeros(j.shape, np.uint8), np.zeros(j.shape)
    for i in range(len(j)):
        verdicts[i], result[i] = settle(j[i], slopes[:, i], noise[:, i], right[:, i], left[:, i], rtol)
    return verdicts, result


def misplaced(slopes: Array, h: Any, eps: float) -> Array:
    """The error of a slope because the inputs, in float64, do not move by exactly h; negligible if the values are float64."""
    return np.asarray(2 * EPS / h * np.nan_to_num(np.abs(slopes)) if eps < EPS else np.zeros(()))


def settle(j: float, slopes: Array, noise: Array, right: Array, left: Array, rtol: float) -> tuple[int, float]:
    """The verdict on one recorded slope j, from slopes by level of the ladder, and the decisive slope."""
    magnitude = np.maximum(np.abs(slopes), abs(j))
    finite = np.isfinite(slopes)
    jump = at_jump(slopes, noise, right, left)
    if jump is not None and jump[0] - jump[2] <= j <= jump[1] + jump[2]:
        return KINK, j  # otherwise it may be steep but smooth between the finest steps
    kink = sides(noise, right, left, abs(j))
    if kink is not None:
        low, high, slack = kink
        slack += rtol * max(abs(low), abs(high))
        return (KINK if low - slack <= j <= high + slack else WRONG), min(max(j, low), high)
    gap = np.abs(slopes - j)
    half_up = gap[finite & (noise <= gap)][-3:]
    if len(half_up) == 3 and half_up[1] < half_up[0] / 2 and half_up[2] < half_up[1] / 2:
        return OK, j  # the slopes converge to it, as at the end of a domain
    change = np.abs(np.diff(slopes, prepend=np.nan))
    accurate = finite & (noise <= KNOWN * rtol * magnitude) & (change <= 100 * rtol * magnitude)
    if accurate.any():
        best = int(np.flatnonzero(accurate)[-1])
        return (OK if abs(j - slopes[best]) <= rtol * magnitude[best] else WRONG), float(slopes[best])
    if j == 0 and (np.abs(slopes[2:]) <= noise[2:])[finite[2:]].all() and finite[2:].any():
        return OK, 0.0  # no more than the rounding error of the value
    roughly = finite & (noise <= ROUGHLY * magnitude) & (change <= 0.3 * magnitude)
    if not roughly.any():
        return PRECISION, float(slopes[finite][0]) if finite.any() else float("nan")
    best = int(np.flatnonzero(roughly)[-1])
    doubt = noise[roughly].min() + float(np.nan_to_num(change[best]))
    return (WRONG if abs(j - slopes[best]) > 10 * doubt + rtol * magnitude[best] else PRECISION), float(slopes[best])


def sides(noise: Array, right: Array, left: Array, recorded: float) -> tuple[float, float, float] | None:
    """The one-sided slopes and their rounding error, if they differ by more at the two finest usable levels."""
    width = np.abs(right - left)
    magnitude = np.maximum(np.maximum(np.abs(right), np.abs(left)), recorded)  # differences across a jump are unbounded
    usable = np.flatnonzero(np.isfinite(width) & (30 * noise <= 1e-2 * magnitude))
    if len(usable) < 2:
        return None
    coarse, fine = usable[-2], usable[-1]
    if width[fine] <= 30 * noise[fine] or width[fine] < width[coarse] / 2 or width[fine] <= 1e-3 * magnitude[fine]:
        return None
    return min(left[fine], right[fine]), max(left[fine], right[fine]), 10 * noise[fine]


def at_jump(slopes: Array, noise: Array, right: Array, left: Array) -> tuple[float, float, float] | None:
    """The one-sided slopes at a jump, which may be equal, and their accuracy; None if there is no jump.

    Differences across a jump grow in inverse proportion to the step.
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
    """The magnitude of each entry of x, to which steps are relative. For a 0, the typical one of the others."""
    size = np.abs(x)
    if (size > 0).all():
        return size
    usual = size[size > 0]
    return np.where(size > 0, size, float(np.median(usual)) if usual.size else 1.0)

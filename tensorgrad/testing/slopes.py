"""Slopes along a line, from values alone, and whether a recorded slope is one that the values allow.

A line is a function e -> values near e = 0, scaled so that e = 1 moves the inputs by about their own size. Everything here is
done for all values (outputs) at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import numpy as np

from tensorgrad.core.backend import Array

Line: TypeAlias = Callable[[float], Array]
Verdict: TypeAlias = Literal["ok", "kink", "wrong", "precision", "nondeterministic", "non-finite", "differs"]

EPS = float(np.finfo(np.float64).eps)
FIRST_STEP = 1e-3  # truncation error (4th order) about 1e-12, rounding as much
RELIABLE = 2e-4  # how small the rounding error of a slope at one side has to be
LADDER = tuple(10.0**-k for k in range(1, 10))
TOO_COARSE = 1e-3  # a tolerance beyond this share of the gradient could not tell a rule that is wrong by 1 %


def judge(line: Line, recorded: Array, scale: Array, size: Array, rtol: float, unit: float = 1.0) -> tuple[Array, Array]:
    """A verdict on each recorded slope, and the slope that the values give.

    recorded  (m) slopes by the gradient under test
    scale     (m) how large slopes of these outputs are: differences below 1e-9 of it do not count
    size      (m) how large the numbers are that the values are computed from, for the rounding error
    unit      by how much e = 1 moves the inputs; where that is little, steps of 10^-k in the inputs are tried too

    First central differences at two steps, with Richardson extrapolation, which settle most. What they do not confirm is looked
    at along a ladder of steps, where the pair that agrees best counts (as in Ridders' method); what that contradicts is looked
    at from either side. Returns (verdicts, numerical slopes), both (m).
    """
    with np.errstate(all="ignore"):
        numerical, tolerance = central(line, recorded, size, rtol)
        floor = 1e-9 * scale
        nothing = np.abs(recorded) <= 16 * EPS * size  # 0, or as near to it as the values can be known
        trusted = tolerance <= np.maximum(TOO_COARSE * np.maximum(np.abs(recorded), np.abs(numerical)), 1e3 * floor)
        trusted |= nothing
        good = trusted & (np.abs(recorded - numerical) <= tolerance + floor)
        verdicts = np.where(good, "ok", "wrong").astype("U16")
        bad = ~np.isfinite(recorded)
        verdicts[bad] = "non-finite"
        if not (good | bad).all():
            look_closer(line, recorded, floor, size, rtol, unit, ~(good | bad), verdicts, numerical)
    return verdicts, numerical


def central(line: Line, recorded: Array, size: Array, rtol: float) -> tuple[Array, Array]:
    """(4 D(h/2) - D(h)) / 3 with D(h) = (f(h) - f(-h)) / 2h, and how far from it a right slope may be."""
    h = FIRST_STEP
    up, down, near, below = line(h), line(-h), line(h / 2), line(-h / 2)
    numerical = (4 * (near - below) / h - (up - down) / (2 * h)) / 3
    noise = 8 * EPS * np.maximum(size, np.maximum(np.abs(up), np.abs(down))) / h
    return numerical, rtol * np.maximum(np.abs(recorded), np.abs(numerical)) + 10 * noise


def look_closer(
    line: Line,
    recorded: Array,
    floor: Array,
    size: Array,
    rtol: float,
    unit: float,
    open_: Array,
    verdicts: Array,
    numerical: Array,
) -> None:
    """Settle the slopes that `open_` marks, in place."""
    steps = np.array(sorted({*LADDER, *([k / unit for k in LADDER[1:8]] if unit < 1e-3 else [])}, reverse=True))
    values = np.stack([np.stack([line(e) for e in (h, -h, 2 * h, -2 * h)]) for h in steps])[:, :, open_]
    j, zero = recorded[open_], floor[open_]
    up, down, up2, down2 = values.transpose(1, 0, 2)
    h = steps[:, None]
    largest = np.maximum(np.abs(values).max(axis=1), size[open_])
    noise = 8 * EPS * largest / h

    # both sides at once: 4th order differences at every step; of two neighbouring steps that agree the finer one counts
    slopes = (8 * (up - down) - (up2 - down2)) / (12 * h)
    doubt = np.abs(slopes[1:] - slopes[:-1]) + noise[1:]
    doubt = np.where(np.isfinite(doubt), doubt, np.inf)
    at = doubt.argmin(axis=0)
    columns = np.arange(len(j))
    found, doubt = slopes[1:][at, columns], doubt[at, columns]
    known = np.isfinite(doubt)
    tolerance = rtol * np.maximum(np.abs(j), np.abs(found)) + 3 * doubt
    close = known & (np.abs(j - found) <= tolerance + zero)
    telling = tolerance <= np.maximum(TOO_COARSE * np.maximum(np.abs(j), np.abs(found)), 1e3 * zero)
    telling |= np.abs(j) <= 16 * EPS * largest.max(axis=0)
    result = np.where(close, np.where(telling, "ok", "precision"), "wrong").astype("U16")

    # one side at a time, at the finest steps whose rounding error does not hide a difference of 0.1 %. The point itself is left
    # out, so that a function that jumps there has a slope on either side too.
    right, left = (up2 - up) / h, (down - down2) / h
    right, left = np.where(np.isfinite(right), right, left), np.where(np.isfinite(left), left, right)
    low, high = np.minimum(left, right), np.maximum(left, right)
    most = np.maximum(np.abs(low), np.abs(high))
    typical = np.quantile(np.where(np.isfinite(most), most, 0.0), 0.7, axis=0)  # fine steps may lie where the slope is 0
    most = np.maximum(most, np.maximum(typical, np.abs(j)))
    reliable = np.isfinite(low) & (10 * noise <= RELIABLE * most)
    for i in np.flatnonzero(result != "ok"):
        levels = np.flatnonzero(reliable[:, i])
        if len(levels) < 2:
            result[i] = "precision" if known[i] and result[i] == "precision" else "non-finite" if not known[i] else "wrong"
            if result[i] == "wrong" and abs(j[i] - found[i]) <= 10 * noise[:, i].min() + 10 * doubt[i]:
                result[i] = "precision"
            continue
        fine, coarse = levels[-1], levels[-2]
        width, before = high[fine, i] - low[fine, i], high[coarse, i] - low[coarse, i]
        is_kink = width >= before / 5 or width <= 1e-3 * most[fine, i]
        slack = 10 * noise[fine, i] + 1e-5 * most[fine, i]
        if not is_kink:
            continue
        inside = low[fine, i] - slack <= j[i] <= high[fine, i] + slack
        result[i] = "kink" if inside else "wrong"
        if not (known[i] and low[fine, i] - slack <= found[i] <= high[fine, i] + slack and width <= 1e-3 * most[fine, i]):
            # the value nearest to the recorded one that the two sides allow
            found[i] = min(max(j[i], low[fine, i]), high[fine, i])
    verdicts[open_], numerical[open_] = result, found


def units(x: Array) -> Array:
    """For each entry of x, how large it is: what a relative step is relative to. 1 where everything is 0."""
    if not x.size:
        return np.ones(x.shape)
    mean_square = float(np.sqrt(np.mean(x * x)))
    size = np.maximum(np.abs(x), 0.01 * mean_square)
    return np.where(size > 1e-30, size, 1.0)


def worst(verdicts: Any) -> Verdict:
    """The verdict that matters most among several."""
    present = set(np.unique(verdicts))
    for verdict in ("nondeterministic", "non-finite", "differs", "wrong", "precision", "kink"):
        if verdict in present:
            return verdict
    return "ok"

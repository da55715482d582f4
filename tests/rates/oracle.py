"""What the corpus claims, made sure of without the checker: a wrong gradient differs from the right one, a right one is
right.

Slopes are differences of values, computed from the recorded graph in np.longdouble (80 bits where the platform has them),
so that rounding leaves ten digits and more; where the graph is not the whole function, of the function itself in float64.
Every entry is moved by steps relative to itself, each tenth of the one before; of two neighbouring steps that agree best
the finer one counts. At a kink these are slopes of either side. What has a condition is computed in fractions, which have
no rounding at all.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

import tensorgrad
from tensorgrad import Tensor
from tensorgrad.core.graph import Graph
from tensorgrad.core.node import Node

# right op by op, and at some seeds not the slope of the whole: at several kinks in one place a gradient is made of choices that
# do not agree; what has no limit at a point; and a gradient of 0 of which rounding is left
OUT_OF_BRACKET = {
    "badly conditioned: a @ inv(a), a constant",
    "several kinks in one place: a network of dead units on the kink",
    "several kinks in one place: relu of a product with zeros",
    "norms and deviations at 0: norm at 0, order 2",
    "norms and deviations at 0: norm of rows, one at 0, order 2",
}
MOST = 40  # entries of an input that are moved, at most
Values = Callable[[Sequence[np.ndarray]], np.ndarray]


@dataclass
class Point:
    """A problem at its point: arrays of its inputs, the recorded Jacobian of each, and a way to its values."""

    arrays: list[np.ndarray]
    at: np.ndarray
    jacobians: list[np.ndarray]
    values: Values
    eps: float  # of the numbers that they are computed in


def outputs_of(result: Any) -> list[Tensor]:
    return list(result) if isinstance(result, (tuple, list)) else [result]


def flat(outputs: Sequence[Any]) -> np.ndarray:
    return np.concatenate([np.ravel(t.data if isinstance(t, Tensor) else t) for t in outputs])


def point(problem: Any, order: int, seed: int, rows: int = MOST, dtype: Any = np.float64, silent: bool = False) -> Point:
    """What is recorded there. With order 2 the gradient is the function, and the weights of the outputs are inputs too.

    dtype   of the arrays that are given
    silent  whether the first output has weight 0 in the sum
    rows    up to as many outputs are differentiated one by one, more in one weighted sum
    """
    arrays = problem.arrays
    rng = np.random.default_rng(seed)

    def compute(given: Sequence[np.ndarray]) -> tuple[list[Tensor], list[Tensor]]:
        xs = given[: len(arrays)]
        result, leaves = problem.compute([np.array(a, dtype) for a in xs])
        outputs = outputs_of(result)
        if order == 1:
            return outputs, leaves
        gs = [Tensor(np.array(g), True) for g in given[len(arrays) :]]
        pairs = [(t, g) for t, g in zip(outputs, gs, strict=True) if t.requires_grad]
        found = tensorgrad.grad([t for t, _ in pairs], leaves, [g for _, g in pairs], create_graph=True, allow_unused=True)
        return [Tensor(np.zeros(x.shape)) if g is None else g for g, x in zip(found, leaves, strict=True)], [*leaves, *gs]

    given = list(arrays)
    if order == 2:
        given += [rng.normal(size=t.shape) for t in outputs_of(problem.compute([np.array(a) for a in arrays])[0])]
    outputs, leaves = compute(given)
    m = sum(t.size for t in outputs)
    weights = np.eye(m) if m <= rows else rng.normal(size=(1, m))
    jacobians = [np.zeros((len(weights), a.size)) for a in given]
    ends = np.cumsum([t.size for t in outputs])[:-1]
    if silent:
        weights[:, : outputs[0].size] = 0
    for k, row in enumerate(weights):
        parts = [w.reshape(t.shape).copy() for w, t in zip(np.split(row, ends), outputs, strict=True)]
        asked = [(t, w) for t, w in zip(outputs, parts, strict=True) if t.requires_grad and (w.any() or m > rows)]
        if asked:
            found = tensorgrad.grad(
                [t for t, _ in asked], leaves, [w for _, w in asked], retain_graph=True, allow_unused=True
            )  # fmt: skip
            for jacobian, g in zip(jacobians, found, strict=True):
                jacobian[k] = 0 if g is None else np.ravel(g.data)
    at = flat(outputs)
    direct = lambda moved: weights @ flat(compute([np.array(a, np.float64) for a in moved])[0])  # noqa: E731
    replayed = replay(outputs, leaves)
    values, eps = direct, np.finfo(np.float64).eps
    if replayed is not None:
        precise = lambda moved: weights @ replayed(moved)  # noqa: E731
        moved = [a * (1 + 1e-3 * rng.uniform(-1, 1, a.shape)) + 1e-3 * (a == 0) for a in given]
        if np.allclose(np.asarray(precise(moved), np.float64), direct(moved), rtol=1e-6, atol=1e-12, equal_nan=True):
            values, eps = precise, np.finfo(np.longdouble).eps
    return Point([np.asarray(a) for a in given], weights @ at, jacobians, values, float(eps))


def replay(outputs: list[Tensor], leaves: list[Tensor]) -> Values | None:
    """The recorded graph as a function of long doubles; None where an op does not take them."""
    if not all(isinstance(t.node, Node) for t in outputs):
        return None
    graph = Graph([t.node for t in outputs], check=False)

    def values(arrays: Sequence[np.ndarray]) -> np.ndarray:
        known: dict[Any, Any] = {leaf: np.asarray(a, np.longdouble) for leaf, a in zip(leaves, arrays, strict=True)}

        def value(source: Any) -> Any:
            if isinstance(source, Tensor) and source not in known:
                return source.data
            return known[source] if isinstance(source, (Node, Tensor)) else source

        for node in graph.nodes:
            known[node] = node.op.forward(np, *[value(s) for s in node.inputs], **node.attrs)
        return flat([known[t.node] for t in outputs])

    try:
        values([t.data for t in leaves])
    except Exception:  # an op that does not take long doubles: linear algebra, loops in Python
        return None
    return values


STEPS = tuple(10.0**-k for k in range(2, 13))
STEPS_AT_0 = (*STEPS, *[10.0**-k for k in range(15, 61, 5)])


def slopes(p: Point, i: int, j: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The slopes of every output to the left and to the right of p, by entry j of input i, and how uncertain they are."""
    x = p.arrays[i]
    size = abs(float(x.flat[j])) or 1.0
    steps = STEPS if x.flat[j] else STEPS_AT_0

    def moved(e: float) -> np.ndarray:
        y = np.array(x, np.longdouble)
        y.flat[j] += np.longdouble(e) * np.longdouble(size)
        if p.eps > 1e-18:
            y = np.array(y, np.float64)
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                return np.asarray(p.values([y if k == i else a for k, a in enumerate(p.arrays)]))
            except Exception:  # a step out of the domain: no Cholesky factor there
                return np.full(p.at.shape, np.nan)

    here, sides, doubts = moved(0.0), [], []
    for sign in (-1.0, 1.0):
        found = []
        for h in steps:
            one, two, four = (
                sign * (moved(sign * h * k) - here) / (np.longdouble(h * k) * np.longdouble(size)) for k in (1, 2, 4)
            )
            found.append((8 * one - 6 * two + four) / 3)  # errors of h and h² cancelled
        ladder, h = np.array(found), np.array(steps)[:, None]
        with np.errstate(all="ignore"):
            noise = 20 * p.eps * (np.abs(here) + (np.abs(ladder) * size if x.flat[j] else 0)) / (h * size)
            doubt = np.abs(np.diff(ladder, axis=0)) + noise[1:]
        doubt = np.where(np.isfinite(doubt), doubt, np.inf)
        # relative to the slope: steps over many periods agree on next to nothing
        share = doubt / (np.abs(ladder[1:]) + 1e-9 * np.nanmax(np.abs(ladder), axis=0, initial=1e-300))
        best, columns = np.where(np.isfinite(share), share, np.inf).argmin(axis=0), np.arange(ladder.shape[1])
        sides.append(np.asarray(ladder[1:][best, columns], np.float64))
        doubts.append(np.asarray(doubt[best, columns], np.float64))
    (left, right), (before, after) = sides, doubts
    known = [np.where(np.isfinite(d), d, 0) for d in doubts]
    return (
        np.where(np.isfinite(before), left, right), np.where(np.isfinite(after), right, left),
        np.where(np.isfinite(before) | np.isfinite(after), np.maximum(*known), np.inf),
    )  # fmt: skip


@dataclass
class Judgement:
    """error   how far recorded derivatives lie outside of what the two sides allow, relative to them, at worst
    unsure  the largest share of a derivative that is not 0 that the values leave uncertain"""

    error: float = 0.0
    unsure: float = 0.0


def judge(p: Point, seed: int = 0) -> Judgement:
    """The recorded gradient against slopes. Nothing counts below a 1e-13th of the largest that an entry does to the outputs."""
    found = Judgement()
    for i, jacobian in enumerate(p.jacobians):
        for j in np.random.default_rng(seed).permutation(jacobian.shape[1])[:MOST]:
            left, right, doubt = slopes(p, i, int(j))
            low, high, recorded = np.minimum(left, right), np.maximum(left, right), jacobian[:, j]
            size = np.maximum(np.abs(recorded), np.maximum(np.abs(low), np.abs(high)))
            out = np.maximum(np.maximum(low - recorded, recorded - high), 0)
            floor = 1e-13 * max(float(np.abs(jacobian).max(initial=0.0)), float(size.max(initial=0.0)))
            with np.errstate(all="ignore"):
                relative = np.where(out <= floor + doubt, 0.0, out / size)
                unsure = np.where(recorded == 0, 0.0, doubt / size)
            found.error = max(found.error, float(relative.max(initial=0.0)))
            found.unsure = max(found.unsure, float(unsure.max(initial=0.0)))
    return found


def difference(found: Point, expected: Point) -> float:
    """The largest relative difference between two recorded gradients of one problem."""
    worst = 0.0
    for a, b in zip(found.jacobians, expected.jacobians, strict=True):
        with np.errstate(all="ignore"):
            relative = np.where(a == b, 0.0, np.abs(a - b) / np.maximum(np.abs(a), np.abs(b)))
        worst = max(worst, float(relative.max(initial=0.0)))
    return worst


# In fractions


def exactly(a: np.ndarray) -> list[list[Fraction]]:
    return [[Fraction(float(v)) for v in row] for row in a]


def solved(a: list[list[Fraction]], b: list[list[Fraction]]) -> tuple[list[list[Fraction]], Fraction]:
    """a⁻¹ b and the determinant of a, by elimination."""
    rows, det = [[*x, *y] for x, y in zip(a, b, strict=True)], Fraction(1)
    n = len(rows)
    for k in range(n):
        pivot = next(i for i in range(k, n) if rows[i][k])
        if pivot != k:
            rows[k], rows[pivot], det = rows[pivot], rows[k], -det
        det *= rows[k][k]
        rows[k] = [v / rows[k][k] for v in rows[k]]
        for i in range(n):
            if i != k and rows[i][k]:
                rows[i] = [v - rows[i][k] * w for v, w in zip(rows[i], rows[k], strict=True)]
    return [row[n:] for row in rows], det

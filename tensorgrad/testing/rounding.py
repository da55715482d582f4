"""Estimates rounding errors: recomputes a recorded program with every number perturbed.

Two ways of computing the same differ by rounding: in the order of a sum, in a fused formula. Where large terms cancel, only
rounding is left, so no relative tolerance can tell it from a fault. The program itself can: perturb each number by a rounding
error, several times, and the changes of the results are what rounding may do to them (stochastic arithmetic: Vignes, A
stochastic arithmetic for reliable scientific computation, 1993). Compiled plans are verified by the same measure
(compiler/verify.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tensorgrad.compiler.verify import SYSTEMATIC
from tensorgrad.core.backend import Array, asarray, is_floating
from tensorgrad.core.graph import Graph
from tensorgrad.core.location import is_own
from tensorgrad.core.node import Node
from tensorgrad.core.tensor import Tensor

FEW, MANY = 4, 16  # number of runs at first, and before a difference is accepted
ROUNDINGS = 4  # size of perturbations in roundings: large enough to cross a kink nearby
MARGIN = 16  # tolerance as a multiple of the largest change seen: hundreds of entries share a few runs
NEAR = 1e-2  # relative change of arguments, where an op rounds differently but equally much
DIGITS = 64  # differences below so many roundings of an array's largest number are accepted
EPS = float(np.finfo(np.float64).eps)


def close(expected: Array, actual: Array, eps: float, atol: float = 0.0) -> Array:
    """Where two arrays are so close that rounding errors need not be estimated."""
    if np.array_equal(expected, actual):
        return np.ones(expected.shape, bool)
    with np.errstate(all="ignore"):
        size = np.abs(expected)
        if not np.isfinite(largest := size.max(initial=0.0)):
            largest = size.max(initial=0.0, where=np.isfinite(size))
        near = np.abs(actual - expected) <= (DIGITS / 2 * eps) * size + (DIGITS * eps * float(largest) + atol)
    if near.all():
        return np.asarray(near)
    return near | (actual == expected) | (np.isnan(actual) & np.isnan(expected))


class Rounding:
    """The possible rounding errors of recorded Tensors.

    results  Tensors with everything recorded that they depend on (state.tracing), in float64
    eps      of the arithmetic: that of float64, or that of float32, with its range
    """

    def __init__(self, results: Sequence[Tensor], eps: float = EPS) -> None:
        self.eps, self.single = eps, eps > EPS
        nodes = dict.fromkeys(t.node for t in results if t.node is not None)
        self.results, self.graph = results, Graph(list(nodes), check=False)
        self.drawn = {node: node.out for node in self.graph.nodes if node.op.draws}  # random draws stay the same
        # data, such as targets, stay float64 where the rest is float32
        inputs = [(n, i, s) for n in self.graph.nodes if self.single for i, s in enumerate(n.inputs)]
        self.data_leaves = {s for n, i, s in inputs if isinstance(s, Tensor) and n.op.is_data(i) and not s.requires_grad}
        self.rng = np.random.default_rng(0)
        self.lowest, self.highest = math.inf, 0.0  # of all numbers but 0
        self.selects: dict[Node, bool] = {}  # whether a result consists of numbers of its arguments
        self.unperturbed = self.run(lambda a: a)
        # otherwise part of it happens outside of the graph
        self.is_complete = all(close(t._data, a, EPS).all() for t, a in zip(results, self.unperturbed, strict=False))
        self.spread = [np.zeros(t.shape) for t in results]
        self.runs = 0
        # errors of a sequential sum of equal terms add up in proportion to their number
        self.longest = max(
            (
                math.prod(getattr(s, "shape", ())) // max(n.size, 1)
                for n in self.graph.nodes
                if not n.op.moves
                for s in n.inputs
            ),
            default=1,
        )

    def is_within(self, low: float, high: float) -> bool:
        """Whether all intermediate numbers are 0 or between low and high in size.

        Results of cancellation do not count: when perturbed, they are as large as rounding errors.
        """
        self.run_until(FEW)
        return low <= self.lowest and self.highest <= high

    @property
    def range(self) -> str:
        return f"numbers from {self.lowest:.1e} to {self.highest:.1e} are computed on the way"

    def perturbed(self, a: Array) -> Array:
        if not is_floating(a.dtype) or not a.size:
            return a
        a = np.asarray(a * (1 + ROUNDINGS * self.eps * self.rng.uniform(-1, 1, a.shape)))
        size = np.abs(a)
        self.lowest = min(self.lowest, float(size.min(initial=math.inf, where=size > 0)))
        self.highest = max(self.highest, float(np.where(np.isnan(size), np.inf, size).max()))
        return np.asarray(a.astype(np.float32).astype(np.float64) if self.single else a)

    def run(self, change: Callable[[Array], Array]) -> list[Array]:
        """The recomputed results; `change` is applied to every leaf, and to every result that is rounded."""
        with np.errstate(all="ignore"):
            values: dict[Any, Array] = {
                leaf: leaf._data if leaf in self.data_leaves else change(leaf._data) for leaf in self.graph.leaves
            }
            for node in self.graph.nodes:
                if node in self.drawn:
                    values[node] = self.drawn[node]
                    continue
                arrays = [values[s] if isinstance(s, (Node, Tensor)) else s for s in node.inputs]
                value = asarray(node.op(*arrays, **node.attrs))
                if change == self.perturbed and is_own(type(node.op).__module__) and is_floating(value.dtype):
                    value = value + self.internal_error(node, arrays)
                if node not in self.selects:
                    self.selects[node] = node.op.moves or selected(value, [*arrays, *node.attrs.values()])
                values[node] = value if self.selects[node] else change(value)
        return [values.get(t.node or t, t._data) for t in self.results]

    def internal_error(self, node: Node, arrays: list[Any]) -> Array:
        """The internal rounding error of an op of the package: at its arguments and at nearby ones, because it may be exact
        here by chance.

        In float32 if that is measured; otherwise against long double, if the op supports it.
        """
        is_moved = [isinstance(s, (Node, Tensor)) and s not in self.data_leaves for s in node.inputs]
        is_moved = [m and is_floating(a.dtype) for m, a in zip(is_moved, arrays, strict=True)]
        nearby = [a * (1 + NEAR * self.rng.uniform(-1, 1, a.shape)) if m else a for m, a in zip(is_moved, arrays, strict=True)]
        return self.precision_error(node, arrays, is_moved) + self.precision_error(node, nearby, is_moved)

    def precision_error(self, node: Node, arrays: list[Any], is_moved: list[bool]) -> Array:
        """The value of an op minus that in higher precision; 0 if there is none."""
        short, long = (np.float32, np.float64) if self.single else (np.float64, np.longdouble)
        arrays = [a.astype(short) if m else a for a, m in zip(arrays, is_moved, strict=True)]
        try:
            value = asarray(node.op(*arrays, **(in_single(node.attrs) if self.single else node.attrs)))
            better = asarray(
                node.op(*[a.astype(long) if m else a for a, m in zip(arrays, is_moved, strict=True)], **node.attrs)
            )
        except Exception:  # LAPACK has no long double, and nearby arguments may be invalid
            return np.zeros(node.shape)
        if not is_floating(value.dtype) or value.shape != node.shape or better.shape != node.shape:
            return np.zeros(node.shape)
        return np.asarray(np.nan_to_num(value - better, nan=0.0, posinf=0.0, neginf=0.0), np.float64)

    def run_until(self, runs: int) -> None:
        """Run the perturbed program until `runs` runs are done."""
        while self.runs < runs:
            self.runs += 1
            try:
                results = self.run(self.perturbed)
            except (ArithmeticError, ValueError):  # nearby arguments may be invalid, such as a singular matrix
                results = [np.full(a.shape, np.nan) for a in self.unperturbed]
            for i, a in enumerate(results):
                with np.errstate(all="ignore"):
                    change = np.fmax(self.spread[i], np.abs(a - self.unperturbed[i]))
                # infinite if the program itself is undetermined
                self.spread[i] = np.where(np.isfinite(a) | ~np.isfinite(self.unperturbed[i]), change, np.inf)

    def tolerance(self, i: int) -> Array:
        """The tolerance of result i, entry by entry."""
        value = np.abs(self.unperturbed[i])
        largest = float(value[np.isfinite(value)].max(initial=0.0))
        all_ = max((float(np.abs(a)[np.isfinite(a)].max(initial=0.0)) for a in self.unperturbed), default=0.0)
        if not self.is_complete:
            return np.asarray(1e-6 * value + 1e-9 * largest)  # without an estimate assume some rounding error
        in_sums = min(self.longest * self.eps / 4, SYSTEMATIC) * largest
        # terms that cancel to 0 in each of the few runs may not in others
        return np.asarray(MARGIN * self.spread[i] + DIGITS * self.eps * value + in_sums + 4 * EPS * all_)

    def explains(self, i: int, expected: Array, actual: Array, atol: float = 0.0) -> Array:
        """Where rounding may turn result i, which is `expected`, into `found`."""
        explained = np.zeros(expected.shape, bool)
        for runs in (FEW, MANY):
            if self.is_complete:
                self.run_until(runs)
            tolerance = self.tolerance(i) + atol
            with np.errstate(all="ignore"):
                difference = np.abs(actual - expected)
            # if rounding may cancel all of a number, it may be anything
            explained = (difference <= tolerance) | (tolerance >= np.abs(expected)) & (tolerance > 0) & ~np.isfinite(difference)
            if explained.all():
                break
        return np.asarray(explained)


class FunctionRounding(Rounding):
    """The possible rounding errors of an unrecorded function: its inputs and results are perturbed.

    results  the function: takes a change to apply to each array, and returns its results
    longest  number of terms in the longest sum
    """

    def __init__(self, results: Callable[[Callable[[Array], Array]], list[Array]], longest: int, eps: float = EPS) -> None:
        self.function = results
        super().__init__((), eps)
        self.longest = longest
        self.spread = [np.zeros(a.shape) for a in self.unperturbed]

    def run(self, change: Callable[[Array], Array]) -> list[Array]:
        with np.errstate(all="ignore"):
            return [change(a) for a in self.function(change)]


def selected(value: Array, arguments: Sequence[Any]) -> bool:
    """Whether all numbers of a result occur in its arguments, or are 0: a maximum, a mask. They are not rounded, and rules may
    test them for equality.
    """
    if not is_floating(value.dtype):
        return True
    numbers = [
        np.ravel(a) for a in arguments if isinstance(a, (float, int)) or is_floating(getattr(a, "dtype", np.dtype(bool)))
    ]
    among = np.concatenate([np.zeros(1), *numbers])
    few = value.reshape(-1)[:16]  # enough to recognise arithmetic
    return bool(np.isin(few, among).all()) and bool(np.isin(value, among).all())


def lowered(a: Array) -> Array:
    """Floating values as float32."""
    with np.errstate(all="ignore"):
        return a.astype(np.float32) if is_floating(a.dtype) else a


def in_single(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes with float64 replaced by float32."""
    return {k: np.float32 if is_double(v) else v for k, v in attrs.items()}


def is_double(value: Any) -> bool:
    return isinstance(value, (type, np.dtype)) and value in (np.float64, np.dtype(np.float64), float)

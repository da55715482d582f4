"""Verifying a new plan by a run: its results and writes must equal those of the step, up to rounding.

A fixed tolerance is not enough: where large terms cancel, only rounding errors are left. So if numbers differ by more than the
last digits, the program is computed several times with every number perturbed by as much as rounding does (Graph.values), and
the plan may differ from the step by as much as these runs from each other. A sum that lacks a part differs by more.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tensorgrad.compiler.trace import Source, Trace
from tensorgrad.core.backend import Array, asarray, copy, finfo, is_floating, like, move, on
from tensorgrad.core.location import line_of
from tensorgrad.core.node import Node
from tensorgrad.core.tensor import Tensor
from tensorgrad.errors import CompileError

# Differences that need no closer comparison: units in the last place of an array's largest number, by itemsize
DIGITS = {2: 8, 4: 64, 8: 64}
SYSTEMATIC = 1e-3  # maximum difference of sums of many equal terms, relative to the largest number
RUNS, MARGIN = 3, 32  # number of perturbed runs, and the allowed multiple of the largest deviation


class Outcome(NamedTuple):
    """An outcome of a run of the step: its name, its source in the program, and a copy of its values."""

    text: str
    source: Source
    value: Array


def outcomes(trace: Trace, written: list[tuple[Array, str]]) -> list[Outcome]:
    """What a traced run returned, left in `.grad`, and wrote to outside memory."""
    result = [Outcome(f"result {i}", trace.source(t), copy(t._data)) for i, t in enumerate(trace.results)]
    result += [Outcome(f"{t.name or 'a Tensor'}.grad", trace.source(g), copy(g._data)) for t, g in trace.kept_grads.items()]
    sources = {id(a.target): trace.source(a.value) for a in trace.assignments}
    for array, text in written:
        result.append(Outcome(text, sources[id(array)], copy(array)))
    return result


class Difference(NamedTuple):
    """The first element of an outcome that differs too much: its index, its value, and the expected value."""

    outcome: Outcome
    position: tuple[int, ...]
    actual: Any
    expected: Any

    def __str__(self) -> str:
        index = list(self.position) if self.position else ""
        return f"{self.outcome.text}{index}{origin_text(self.outcome.source)} is {self.actual!r}"


def compare(trace: Trace, expected: list[Outcome], actual: list[Array], initial_arrays: Callable[[], dict[Any, Array]]) -> None:
    """Raise CompileError unless the outcomes of a plan are those of the step."""
    for difference in differences(trace, expected, actual, initial_arrays):
        raise CompileError(
            f"compile: the plan and the step disagree: {difference} in the plan and {difference.expected!r} in the "
            f"step. Part of the step is not recorded, or this is a bug in tensorgrad; run it without compile"
        )


def differences(
    trace: Trace, expected: list[Outcome], actual: list[Array], initial_arrays: Callable[[], dict[Any, Array]]
) -> list[Difference]:
    """The outcomes that differ by more than rounding; shapes and dtypes are equal.

    initial_arrays   restores generators, and returns the arrays of all leaves as they were before the run, for a closer
                     comparison
    """
    suspects = [i for i, (e, f) in enumerate(zip(expected, actual, strict=True)) if not close(e.value, f)]
    if not suspects:
        return []
    result = []
    for i, tolerance in zip(suspects, deviations(trace, [expected[i] for i in suspects], initial_arrays), strict=True):
        a, b = on_cpu(expected[i].value), on_cpu(actual[i])
        with np.errstate(all="ignore"):
            distance = np.abs(b.astype(np.float64) - a.astype(np.float64))
        is_equal = (a == b) | ((a != a) & (b != b))
        is_wrong = ~is_equal & ~(distance <= tolerance)
        if is_wrong.any():
            index = tuple(int(n) for n in np.argwhere(is_wrong)[0])
            result.append(Difference(expected[i], index, b[index], a[index]))
    return result


def origin_text(source: Source) -> str:
    """ ", made by 0.linear at model.py:14,"."""
    if not isinstance(source, Node):
        return ""
    name = f"{source.scope}.{source.op.name}" if source.scope else source.op.name
    line = line_of(source.made)
    return f", made by {name}{f' at {line}' if line else ''},"


def close(a: Array, b: Array) -> bool:
    """Whether two arrays are equal except for the last digits of their largest number."""
    a, b = on_cpu(a), on_cpu(b)
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if not is_floating(a.dtype) or not a.size:
        return bool(np.array_equal(a, b))
    with np.errstate(all="ignore"):
        distance = np.abs(a - b)
        if bool((distance == 0).all()):
            return True
        finite = np.isfinite(a)
        if not bool((finite == np.isfinite(b)).all()):
            return False
        is_comparable = finite | (a == b) | ((a != a) & (b != b))
        largest = float(np.abs(a[finite]).max(initial=0))
        limit = DIGITS.get(a.itemsize, 64) * float(finfo(a.dtype).eps) * largest
        return bool(is_comparable.all()) and float(distance[finite].max(initial=0)) <= limit


def deviations(trace: Trace, outcomes: list[Outcome], initial_arrays: Callable[[], dict[Any, Array]]) -> list[Array]:
    """The tolerance of each value: how much it may differ from the step's, elementwise."""
    graph, rng = trace.program(), np.random.default_rng(0)

    def perturbed(a: Array) -> Array:
        if not is_floating(a.dtype) or not a.size:
            return a
        with on(a), np.errstate(all="ignore"):
            result, change = copy(a), copy(a)  # in place: NumPy turns 0-d arrays into numbers
            change *= like((rng.uniform(-1, 1, a.shape) * float(finfo(a.dtype).eps)).astype(a.dtype), a)
            change[~(abs(a) < np.inf)] = 0  # infinity is not perturbed
            result += change
            return result

    def run(change: Callable[[Array], Array]) -> list[Array]:
        values: dict[Any, Array] = {leaf: change(array) for leaf, array in initial_arrays().items()}
        with np.errstate(all="ignore"):
            for node in graph.nodes:
                inputs = [values[trace.source(s)] if isinstance(s, (Node, Tensor)) else s for s in node.inputs]
                values[node] = change(asarray(node.op(*inputs, **node.attrs)))
        return [on_cpu(values.get(o.source, o.value)).astype(np.float64) for o in outcomes]

    unperturbed = run(lambda a: a)
    runs = [run(perturbed) for _ in range(RUNS)]
    # equal terms added sequentially have equal rounding errors, which grow with their number
    most_terms = max(
        (math.prod(getattr(s, "shape", ())) // max(node.size, 1) for node in graph.nodes for s in node.inputs), default=1
    )
    tolerances = []
    for i, outcome in enumerate(outcomes):
        a = on_cpu(outcome.value).astype(np.float64)
        eps = float(finfo(outcome.value.dtype).eps) if is_floating(outcome.value.dtype) else 0.0
        with np.errstate(all="ignore"):
            deviation = np.array(np.max([np.abs(values[i] - unperturbed[i]) for values in runs], axis=0))
            deviation[np.isnan(deviation) & ~np.isnan(unperturbed[i])] = np.inf  # the program itself has no stable value
            spread = np.maximum(deviation, float(deviation[np.isfinite(deviation)].max(initial=0)))
            largest = float(np.abs(a[np.isfinite(a)]).max(initial=0))
            tolerance = np.array(MARGIN * spread + 4 * eps * np.abs(a) + min(most_terms * eps, SYSTEMATIC) * largest)
            digits = DIGITS.get(outcome.value.dtype.itemsize, 64) * eps * largest
            unexplained = np.isfinite(unperturbed[i]) != np.isfinite(a)
            unexplained |= np.abs(unperturbed[i] - a) > 2 * spread + digits
        # where the program, computed like the step, differs from it, part of the step is not recorded
        tolerance[np.isnan(tolerance) | unexplained] = 0
        tolerances.append(tolerance)
    return tolerances


def same(a: Array, b: Array) -> bool:
    """Whether two arrays have the same elements; NaN equals NaN."""
    a, b = on_cpu(a), on_cpu(b)
    return bool(np.array_equal(a, b, equal_nan=is_floating(a.dtype)))


def on_cpu(array: Array) -> Array:
    return np.asarray(move(array, "cpu"))

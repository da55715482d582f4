"""Verifying a new plan by a run: what it returns and writes has to be what the step did, to rounding.

How far two ways of computing the same may be apart is not a matter of a tolerance alone: where large terms cancel, rounding is
all that is left. So where numbers differ by more than the last digits, the program is computed again several times with every
number in it disturbed by as much as rounding does (Graph.values), and the plan may be as far from the step as those are from
each other. A sum that lacks a part is further.
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

DIGITS = {2: 8, 4: 64, 8: 64}  # units in the last place of the largest number of an array, by the bytes of a number, that are
# not worth a second look
SYSTEMATIC = 1e-3  # of the largest number, at most, is what sums of many equal terms may be apart
RUNS, MARGIN = 3, 32  # how often the program is disturbed, and how many times the largest deviation is allowed


class Outcome(NamedTuple):
    """Something that a run of the step has given: what it is called, its source in the program, and its values, copied."""

    text: str
    source: Source
    value: Array


def outcomes(trace: Trace, written: list[tuple[Array, str]]) -> list[Outcome]:
    """What a traced run has returned, left in `.grad`, and written to memory outside."""
    found = [Outcome(f"result {i}", trace.source(t), copy(t._data)) for i, t in enumerate(trace.results)]
    found += [Outcome(f"{t.name or 'a Tensor'}.grad", trace.source(g), copy(g._data)) for t, g in trace.kept.items()]
    sources = {id(a.target): trace.source(a.value) for a in trace.assignments}
    for array, text in written:
        found.append(Outcome(text, sources[id(array)], copy(array)))
    return found


class Difference(NamedTuple):
    """Of an outcome the first element that is too far away: its index, what it is, and what it is expected to be."""

    outcome: Outcome
    at: tuple[int, ...]
    found: Any
    expected: Any

    def __str__(self) -> str:
        index = list(self.at) if self.at else ""
        return f"{self.outcome.text}{index}{where(self.outcome.source)} is {self.found!r}"


def compare(trace: Trace, expected: list[Outcome], found: list[Array], known: Callable[[], dict[Any, Array]]) -> None:
    """Raise CompileError unless a plan has given what the step did."""
    for difference in differences(trace, expected, found, known):
        raise CompileError(
            f"compile: the plan and the step disagree: {difference} in the plan and {difference.expected!r} in the "
            f"step. Part of the step is not recorded, or this is a bug in tensorgrad; run it without compile"
        )


def differences(
    trace: Trace, expected: list[Outcome], found: list[Array], known: Callable[[], dict[Any, Array]]
) -> list[Difference]:
    """Where what was found is not what was expected, to rounding; all are of the same shapes and dtypes.

    known   puts generators back, and gives the arrays of all leaves as they were before the run, for a second look
    """
    suspects = [i for i, (e, f) in enumerate(zip(expected, found, strict=True)) if not close(e.value, f)]
    if not suspects:
        return []
    result = []
    for i, room in zip(suspects, deviations(trace, [expected[i] for i in suspects], known), strict=True):
        a, b = host(expected[i].value), host(found[i])
        with np.errstate(all="ignore"):
            apart = np.abs(b.astype(np.float64) - a.astype(np.float64))
        same = (a == b) | ((a != a) & (b != b))
        bad = ~same & ~(apart <= room)
        if bad.any():
            at = tuple(int(n) for n in np.argwhere(bad)[0])
            result.append(Difference(expected[i], at, b[at], a[at]))
    return result


def where(source: Source) -> str:
    """ ", made by 0.linear at model.py:14,"."""
    if not isinstance(source, Node):
        return ""
    name = f"{source.scope}.{source.op.name}" if source.scope else source.op.name
    line = line_of(source.made)
    return f", made by {name}{f' at {line}' if line else ''},"


def close(a: Array, b: Array) -> bool:
    """Whether two arrays are the same but for the last digits of their largest number."""
    a, b = host(a), host(b)
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if not is_floating(a.dtype) or not a.size:
        return bool(np.array_equal(a, b))
    with np.errstate(all="ignore"):
        apart = np.abs(a - b)
        if bool((apart == 0).all()):
            return True
        finite = np.isfinite(a)
        if not bool((finite == np.isfinite(b)).all()):
            return False
        same = finite | (a == b) | ((a != a) & (b != b))
        largest = float(np.abs(a[finite]).max(initial=0))
        limit = DIGITS.get(a.itemsize, 64) * float(finfo(a.dtype).eps) * largest
        return bool(same.all()) and float(apart[finite].max(initial=0)) <= limit


def deviations(trace: Trace, outcomes: list[Outcome], known: Callable[[], dict[Any, Array]]) -> list[Array]:
    """How far each value may be away from the step's, element by element or as the whole array deviates."""
    graph, rng = trace.program(), np.random.default_rng(0)

    def disturbed(a: Array) -> Array:
        if not is_floating(a.dtype) or not a.size:
            return a
        with on(a), np.errstate(all="ignore"):
            noisy, change = copy(a), copy(a)  # in place: NumPy makes numbers of arrays without axes
            change *= like((rng.uniform(-1, 1, a.shape) * float(finfo(a.dtype).eps)).astype(a.dtype), a)
            change[~(abs(a) < np.inf)] = 0  # infinity stays what it is
            noisy += change
            return noisy

    def run(change: Callable[[Array], Array]) -> list[Array]:
        values: dict[Any, Array] = {leaf: change(array) for leaf, array in known().items()}
        with np.errstate(all="ignore"):
            for node in graph.nodes:
                inputs = [values[trace.source(s)] if isinstance(s, (Node, Tensor)) else s for s in node.inputs]
                values[node] = change(asarray(node.op(*inputs, **node.attrs)))
        return [host(values.get(o.source, o.value)).astype(np.float64) for o in outcomes]

    calm = run(lambda a: a)
    runs = [run(disturbed) for _ in range(RUNS)]
    # equal terms are rounded alike when they are added up one after the other: the error grows with their number
    longest = max(
        (math.prod(getattr(s, "shape", ())) // max(node.size, 1) for node in graph.nodes for s in node.inputs), default=1
    )
    found = []
    for i, outcome in enumerate(outcomes):
        a = host(outcome.value).astype(np.float64)
        eps = float(finfo(outcome.value.dtype).eps) if is_floating(outcome.value.dtype) else 0.0
        with np.errstate(all="ignore"):
            each = np.array(np.max([np.abs(values[i] - calm[i]) for values in runs], axis=0))
            each[np.isnan(each) & ~np.isnan(calm[i])] = np.inf  # the program itself cannot say what it is
            spread = np.maximum(each, float(each[np.isfinite(each)].max(initial=0)))
            largest = float(np.abs(a[np.isfinite(a)]).max(initial=0))
            room = np.array(MARGIN * spread + 4 * eps * np.abs(a) + min(longest * eps, SYSTEMATIC) * largest)
            digits = DIGITS.get(outcome.value.dtype.itemsize, 64) * eps * largest
            strays = np.isfinite(calm[i]) != np.isfinite(a)
            strays |= np.abs(calm[i] - a) > 2 * spread + digits
        room[np.isnan(room) | strays] = 0  # the program, computed as the step does, is something else: it is not all of it
        found.append(room)
    return found


def same(a: Array, b: Array) -> bool:
    """Whether two arrays have the same elements, a NaN being the same as another."""
    a, b = host(a), host(b)
    return bool(np.array_equal(a, b, equal_nan=is_floating(a.dtype)))


def host(array: Array) -> Array:
    return np.asarray(move(array, "cpu"))

"""Checks that float32 gradients are within the rounding error of float32."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from tensorgrad.core.backend import Array
from tensorgrad.core.node import Node
from tensorgrad.core.state import switched
from tensorgrad.core.tensor import Tensor, wrap
from tensorgrad.errors import DTypeError
from tensorgrad.testing.alone import EPS32, FLOAT32, SQUARED32, by_op
from tensorgrad.testing.paths import Ways, arrays, finding, walked
from tensorgrad.testing.problem import graph_of
from tensorgrad.testing.report import Finding
from tensorgrad.testing.rounding import FunctionRounding, Rounding, close, in_single, lowered

ZERO = 1e-6  # relative to the largest gradient: an input with smaller ones may have none
BLIND = 1e-2  # relative to the largest gradient: undecided if float32 rounding may reach this


def in_float32(ways: Ways) -> list[Finding]:
    """Findings for gradients that are wrong in float32 only.

    The function is called with float32 inputs. If its results are still float64, because of its own numbers, its recorded graph
    is run in float32 instead. The allowed difference from the float64 gradients is estimated (rounding.py). If float32 cannot
    represent the numbers, or the function takes another path, a note is added, and each op's rule is checked alone (alone.py).
    Undecided if the function does not support float32.
    """
    check = ways.check
    inputs = [lowered(a) for a in ways.problem.arrays]
    if not all(is_representable(a, b) for a, b in zip(ways.problem.arrays, inputs, strict=True)):
        return by_op(ways, "not checked in float32: it cannot hold the inputs")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            outputs, actual = gradients(ways)
    except Exception as error:  # as for the other ways
        ways.notes.append(f"not checked in float32: {type(error).__name__}: {str(error).partition(chr(10))[0]}")
        return []
    differs = [
        f.dtype != FLOAT32 or not close(e, f, EPS32, ways.atol).all() for e, f in zip(check.recorded, actual, strict=True)
    ]
    if not any(differs):
        return []
    rounding = ways.measured(eps=EPS32)
    findings: list[Finding] = []
    lost: list[Finding] = []
    for i, (name, e, f) in enumerate(zip(ways.problem.names, check.recorded, actual, strict=True)):
        if f.dtype != FLOAT32:
            description = f"{name} (of float32, its gradient is {f.dtype})"
            findings.append(finding(description, e.shape, check.order, np.array(["wrong"])))
        elif differs[i]:
            good = close(e, f, EPS32, ways.atol) | rounding.explains(i, e, f, ways.atol)
            if not good.all():
                verdicts, f = np.where(good, "ok", "wrong"), f.astype(np.float64)
                result = finding(f"{name} (float32)", e.shape, check.order, verdicts, f, e)
                (lost if is_hopeless(rounding, i, len(actual)) else findings).append(result)
    if lost and not findings:
        return by_op(ways, "not decided in float32: a gradient may be nothing but rounding errors")
    if findings and (doubt := undecided(rounding, outputs, len(actual))):
        return by_op(ways, f"not decided in float32: {doubt}", lambda: coarse(ways, outputs, actual, findings))
    largest = max(float(np.abs(e).max(initial=0.0)) for e in check.recorded)
    blind = sum(int((rounding.tolerance(i) > BLIND * largest).sum()) for i, is_bad in enumerate(differs) if is_bad)
    if blind and not findings:
        return by_op(ways, f"not decided in float32: {blind:,} entries may be nothing but rounding errors")
    return findings


def is_hopeless(rounding: Rounding, i: int, inputs: int) -> bool:
    """Whether float32 rounding may change the gradient by input i arbitrarily; not if it is 0 up to rounding."""
    sizes = [float(np.abs(a).max(initial=0.0)) for a in rounding.unperturbed[:inputs]]
    return sizes[i] > ZERO * max(sizes) and float(rounding.spread[i].max(initial=0.0)) >= sizes[i] / 2


def undecided(rounding: Rounding, outputs: list[Array], first: int) -> str:
    """Why float32 gradients far from the float64 ones may still be right; "" if they may not."""
    if not rounding.is_complete:
        return "part of the function is not in its graph"
    if not rounding.is_within(*SQUARED32):
        return rounding.range
    for i, a in enumerate(outputs, first):
        if not rounding.explains(i, rounding.unperturbed[i], a).all():
            return "the function has other values in float32"
    return ""


def coarse(ways: Ways, outputs: list[Array], actual: list[Array], findings: list[Finding]) -> list[Finding]:
    """The findings, if they are certain although the graph has opaque ops, such as compiled functions.

    Rounding errors can then only be estimated by perturbing the inputs of the whole function. A gradient is wrong if it differs
    by more than that, and by more than BLIND of the largest one, while the outputs do not.
    """

    def function(change: Callable[[Array], Array]) -> list[Array]:
        with ways.evaluated(change) as (results, leaves):
            return [*arrays(walked(ways.upstream(results), leaves, False), leaves), *(t._data for t in results)]

    rounding = FunctionRounding(function, max(a.size for a in ways.problem.arrays), EPS32)
    largest, n = max(float(np.abs(e).max(initial=0.0)) for e in ways.check.recorded), len(actual)
    same_outputs = all(
        rounding.explains(i, rounding.unperturbed[i], a, BLIND * np.abs(a).max(initial=0.0)).all()
        for i, a in enumerate(outputs, n)
    )
    if not same_outputs or not rounding.is_within(*SQUARED32) or not all(np.isfinite(f).all() for f in actual):
        return []
    differs = [not rounding.explains(i, rounding.unperturbed[i], f, BLIND * largest).all() for i, f in enumerate(actual)]
    return findings if any(differs) else []


def gradients(ways: Ways) -> tuple[list[Array], list[Array]]:
    """The outputs and gradients in float32, by the function, or by its graph if the function has float64 numbers."""
    with ways.evaluated(lowered) as (outputs, leaves):
        if all(t.dtype == FLOAT32 for t in outputs if t.requires_grad):
            return outputs_and_gradients(ways, outputs, leaves)
    leaves = ways.check.leaves
    before = [t._data for t in leaves]
    try:
        for t in leaves:  # the leaves themselves, because a checkpoint may read them
            t._data = lowered(t._data)
        return outputs_and_gradients(ways, graph_in_float32(ways.check.outputs, leaves), leaves)
    finally:
        for t, array in zip(leaves, before, strict=True):
            t._data = array


def outputs_and_gradients(ways: Ways, outputs: list[Tensor], leaves: list[Tensor]) -> tuple[list[Array], list[Array]]:
    """The arrays of the outputs, and of their gradients by the leaves."""
    if any(t.dtype != FLOAT32 for t in outputs if t.requires_grad):
        raise DTypeError("the function returns float64 for float32 inputs")
    return [t._data for t in outputs], arrays(walked(ways.upstream(outputs), leaves, False), leaves)


def graph_in_float32(outputs: list[Tensor], leaves: list[Tensor]) -> list[Tensor]:
    """The outputs' graph, recomputed and recorded for the current leaves, with everything else in float32."""
    replayed: dict[Any, Any] = {leaf: leaf for leaf in leaves}
    graph = graph_of(outputs)
    with switched(recording=True), np.errstate(all="ignore"):
        for node in graph.nodes if graph else ():
            args = []
            for s in node.inputs:
                if isinstance(s, Tensor) and s not in replayed:
                    replayed[s] = wrap(lowered(s._data), None)
                args.append(replayed[s] if isinstance(s, (Node, Tensor)) else s)
            with switched(scope=node.scope):
                replayed[node] = node.op(*args, **in_single(node.attrs))
    return [replayed.get(t.node or t, t) for t in outputs]


def is_representable(a: Array, b: Array) -> bool:
    """Whether b represents a in float32: no number has become infinite, or 0."""
    return bool((np.isfinite(b) == np.isfinite(a)).all() and ((b == 0) == (a == 0)).all())

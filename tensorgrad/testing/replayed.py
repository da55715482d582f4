"""Compares the gradients of a check with those of a compiled step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tensorgrad.compiler import compile
from tensorgrad.core.backend import Array
from tensorgrad.core.tensor import Tensor
from tensorgrad.errors import CompileError
from tensorgrad.testing.alone import EPS32, FLOAT32
from tensorgrad.testing.paths import Ways, arrays, finding, walked
from tensorgrad.testing.report import Finding
from tensorgrad.testing.rounding import close, lowered
from tensorgrad.testing.single import is_representable, undecided

CALLS = "in a compiled step", "in the replay of a compiled step"


def in_compiled_step(ways: Ways, caller: str) -> list[Finding]:
    """Findings for gradients that differ in a compiled step: in its first call, a replay, and a replay at other inputs.

    Then the same in float32. Raises CompileError if the function cannot be compiled, or its plan is not replayed.
    """
    problem = ways.problem
    leaves = problem.leaves()
    are_arguments = problem.leaves()[0] is not leaves[0]  # otherwise they are parameters, which the step finds itself
    unused: set[int] = set()

    def step(*arguments: Tensor) -> tuple[Tensor, ...]:
        inputs = list(arguments) if are_arguments else leaves
        gradients = walked(ways.upstream(problem.compute(inputs)), inputs, False)
        unused.update(i for i, g in enumerate(gradients) if g is None)
        return tuple(g for g in gradients if g is not None)

    def gradients(compiled: Callable[..., Any]) -> list[Array]:
        problem.evaluations += 1
        saved = [(array, array.copy()) for array in problem.buffers()]
        try:
            with np.errstate(all="ignore"):
                results = iter(compiled(*([Tensor(x._data, True) for x in leaves] if are_arguments else [])))
        finally:
            for array, values in saved:
                array[...] = values
        return arrays([None if i in unused else next(results) for i in range(len(leaves))], leaves)

    compiled = compile(step)
    try:
        for label in CALLS:
            if findings := ways.compare(label, ways.check.recorded, gradients(compiled), ways.room(True)):
                return findings
        if compiled.why_not:
            raise CompileError(f"nothing was checked, it was not replayed: {compiled.why_not}")
        before = [x._data.copy() for x in leaves]
        with ways.evaluated(moved) as (outputs, inputs):
            expected = arrays(walked(ways.upstream(outputs), inputs, False), inputs)
        try:
            for x in leaves:
                x._data[...] = moved(x._data)
            actual = gradients(compiled)
        finally:
            for x, array in zip(leaves, before, strict=True):
                x._data[...] = array
    except CompileError as error:
        raise CompileError(f"{caller}: compiled=True: the function in a compiled step: {error}") from error
    label = "in a replay of a compiled step with other inputs"
    findings = ways.compare(label, expected, actual, lambda: ways.measured(laid_out=moved))
    single = compile(step)
    return findings or in_float32(ways, leaves, lambda: gradients(single))


def in_float32(ways: Ways, leaves: list[Tensor], gradients: Callable[[], list[Array]]) -> list[Finding]:
    """The same in float32, if that is decisive: the eager function in float32 has been checked before."""
    before, expected = [x._data for x in leaves], ways.check.recorded
    if not all(is_representable(a, lowered(a)) for a in before):
        return []
    try:
        with ways.evaluated(lowered) as (outputs, _):
            if any(t.dtype != FLOAT32 for t in outputs):
                return []
        for x in leaves:
            x._data = lowered(x._data)
        actual = [gradients() for _ in CALLS]
    except Exception as error:  # as in the eager check
        ways.notes.append(f"not checked {CALLS[0]} in float32: {type(error).__name__}: {str(error).partition(chr(10))[0]}")
        return []
    finally:
        for x, array in zip(leaves, before, strict=True):
            x._data = array
    findings, rounding = [], ways.measured(eps=EPS32)
    for label, results in zip(CALLS, actual, strict=True):
        for i, (name, e, f) in enumerate(zip(ways.problem.names, expected, results, strict=True)):
            good = close(e, f, EPS32, ways.atol)
            if not good.all() and not (good := good | rounding.explains(i, e, f, ways.atol)).all():
                verdicts, f = np.where(good, "ok", "wrong"), f.astype(np.float64)
                findings.append(finding(f"{name} (float32 {label})", e.shape, ways.check.order, verdicts, f, e))
        if findings:
            break
    if findings and (doubt := undecided(rounding, [t._data for t in outputs], len(expected))):
        ways.notes.append(f"not decided {CALLS[0]} in float32: {doubt}")
        return []
    return findings


def moved(a: Array) -> Array:
    """An array of slightly different numbers."""
    return np.asarray(a * (1 + np.resize([1, -1, 0.5, -0.25, 0.125], a.shape) / 64))

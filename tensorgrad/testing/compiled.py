"""Compares calls of a compiled step with the eager step, and its gradients with numerical slopes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tensorgrad.core.arguments import integer, seed_of, tolerance, truth
from tensorgrad.core.state import describe
from tensorgrad.errors import CompileError, DTypeError
from tensorgrad.testing.check import RTOL
from tensorgrad.testing.checks import Check
from tensorgrad.testing.report import CompiledError, CompiledReport, GradientError
from tensorgrad.testing.suspects import explain
from tensorgrad.testing.trial import Trial, merged
from tensorgrad.testing.walks import LOW, Walks


def check_compiled(
    step: Callable[..., Any],
    *args: Any,
    calls: int = 6,
    gradients: bool = True,
    rtol: float = RTOL,
    seed: int | None = 0,
    raises: bool = True,
) -> CompiledReport:
    """Compare a compiled step with its eager run, and its gradients with numerical slopes.

    step       a function of arrays or Tensors, as for `tensorgrad.compile`, or its result
    args       the arguments (use functools.partial for keywords). Every third call uses these, the others modified ones:
               the next sample for each, with floating numbers changed
    calls      number of calls to compare: the first runs the Python of the step, the second runs it for the plan, which is
               then replayed
    gradients  whether to check backward() and grad(), up to the first update: parameters and floating arguments are converted
               to float64, and the slope of the differentiated value along a random direction is computed for each parameter. A
               step that uses detach() on purpose fails this check
    rtol       tolerance of gradients, relative to the larger of the two
    seed       of the directions
    raises     False: return the report even if the check failed

    Each call starts, compiled and eager, from the state after the eager call before. Compared are the results, everything that
    the step can reach (parameters, buffers, state and step counts of optimisers, other arrays), `.grad` afterwards (None if the
    step clears it and an optimiser uses it, as `compile` documents), random generators and arguments. The tolerance is the
    rounding error of the program: where more than the last digits differ, it is recomputed with every number perturbed
    (compiler/verify.py). Afterwards everything is restored.

    Returns the report. Raises CompiledError, naming the call, the value and the line; GradientError for a wrong gradient;
    CompileError if the step cannot be compiled, or is never replayed; DTypeError if it computes in less than float64 inside.
    """
    if not callable(step):
        raise DTypeError(f"check_compiled: step must be a function, got {describe(step)}")
    calls, seed = integer("check_compiled", "calls", calls, 2), seed_of("check_compiled", seed)
    gradients, raises = truth("check_compiled", "gradients", gradients), truth("check_compiled", "raises", raises)
    seed = int(np.random.default_rng().integers(2**32)) if seed is None else seed
    rtol = tolerance("check_compiled", "rtol", rtol)
    trial = Trial(step, args)
    report = CompiledReport(mode="directional", caller="check_compiled", calls=calls)
    with trial.put_back():
        for k in range(calls):
            call_report = trial.call(k)
            report.compared = merged(report.compared, call_report.compared)
            report.differences += call_report.differences
    if raises and not report:
        raise CompiledError(f"check_compiled: {report.differences[0]}\n\n{report}", report)
    report.replays = trial.replays
    if not trial.replays:
        raise CompileError(
            f"check_compiled: nothing was checked: in {calls} calls {trial.compiled.name} was never replayed: "
            f"{trial.compiled.why_not}"
        )
    walks = Walks(trial) if gradients else None
    for index in range(walks.count if walks else 0):
        assert walks is not None
        with trial.put_back(), walks.problem(index, seed) as problem:
            check = Check(problem, 1, rtol, np.random.default_rng(seed))
            report.findings += walks.findings(index, check)
            report.evaluations += problem.evaluations
            if raises and not report:
                if all(LOW in f.name + f.where for f in report.failed):
                    raise GradientError(
                        f"{report}\n\nIn float64 the gradients are right, so a kernel of lower precision is wrong.", report
                    )
                raise explain(report, problem, problem)
    return report

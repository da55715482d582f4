"""Is a compiled step the step? Calls of it compared with the step as it is written, and its gradients with slopes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tensorgrad.core.arguments import seed_of, tolerance, truth, whole
from tensorgrad.core.state import shown
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
    """Compare a step, compiled, with itself run as it is written, and the gradients that it takes with slopes.

    step       a function of arrays or Tensors, as for `tensorgrad.compile`, or what that returned
    args       what to call it with (functools.partial takes keywords). Every third call is with these, the others are with
               samples like them: each the next one, floating numbers changed
    calls      how many calls are compared: the first runs the Python of the step, the second runs it for the plan, which is
               replayed from then on
    gradients  whether backward() and grad() are checked, up to the first update: parameters and floating arguments are raised
               to float64, and the slope of what the walk begins at is taken along a random direction for each parameter. A
               step that uses detach() on purpose does not pass this
    rtol       an error of a gradient beyond it, relative to the larger of the two, is wrong
    seed       of the directions
    raises     False: return the report also when it has failed

    Each call starts, both ways, from the state in which the step as it is written has left everything. Compared are the
    results, all that the step can reach (parameters, buffers, state and counts of optimisers, other arrays), what it leaves in
    `.grad` (None where the step has cleared it and an optimiser has used it up, as `compile` says), the generators and the
    arguments. How far numbers may be apart is what rounding makes of the program: where more than the last digits differ, it is
    computed again with every number disturbed (compiler/verify.py). Afterwards everything is as it was.

    Returns the report. Raises CompiledError, naming the call, the value and the line; GradientError for a gradient that is
    wrong; CompileError where the step cannot be compiled, or is never replayed; DTypeError where it goes back to less than
    float64 inside.
    """
    if not callable(step):
        raise DTypeError(f"check_compiled: step must be a function, got {shown(step)}")
    calls, seed = whole("check_compiled", "calls", calls, 2), seed_of("check_compiled", seed)
    gradients, raises = truth("check_compiled", "gradients", gradients), truth("check_compiled", "raises", raises)
    seed = int(np.random.default_rng().integers(2**32)) if seed is None else seed
    rtol = tolerance("check_compiled", "rtol", rtol)
    trial = Trial(step, args)
    report = CompiledReport(mode="directional", caller="check_compiled", calls=calls)
    with trial.put_back():
        for k in range(calls):
            found = trial.call(k)
            report.compared = merged(report.compared, found.compared)
            report.differences += found.differences
    if raises and not report:
        raise CompiledError(f"check_compiled: {report.differences[0]}\n\n{report}", report)
    report.replays = trial.replays
    if not trial.replays:
        raise CompileError(
            f"check_compiled: nothing is proved: in {calls} calls {trial.compiled.name} was never replayed: "
            f"{trial.compiled.why_not}"
        )
    walks = Walks(trial) if gradients else None
    for which in range(walks.count if walks else 0):
        assert walks is not None
        with trial.put_back(), walks.problem(which, seed) as problem:
            check = Check(problem, 1, rtol, np.random.default_rng(seed))
            report.findings += walks.findings(which, check)
            report.evaluations += problem.evaluations
            if raises and not report:
                if all(LOW in f.name + f.where for f in report.failed):
                    raise GradientError(
                        f"{report}\n\nIn float64 the gradients are right, so a kernel for less is wrong.", report
                    )
                raise explain(report, problem, problem)
    return report

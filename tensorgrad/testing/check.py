"""Runs a check from arguments to report: of a function, of its gradient, or of one call of an op."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tensorgrad.autograd import fusion
from tensorgrad.core.arguments import is_integer, seed_of, tolerance, truth
from tensorgrad.core.backend import is_floating
from tensorgrad.core.op import Op
from tensorgrad.core.state import describe
from tensorgrad.errors import ArgumentError
from tensorgrad.testing.checks import Check
from tensorgrad.testing.duality import check_user_ops
from tensorgrad.testing.problem import Problem
from tensorgrad.testing.report import PASSED, Report
from tensorgrad.testing.ways import other_ways

RTOL = 1e-6
STREAM = 0x7E57  # makes the random stream of a check differ from that of a generator with the same seed


def examine(
    caller: str,
    problem: Problem,
    order: int,
    mode: str | None = None,
    rtol: float = RTOL,
    seed: int | None = 0,
    allow_precision: bool = False,
    nondet_tol: float = 0.0,
    compiled: bool = False,
) -> tuple[Report, Problem]:
    """The report on `problem` and, if it passes and order is 2, on its gradient; and the problem that was checked last."""
    if not is_integer(order) or order not in (1, 2):
        raise ArgumentError(f"{caller}: order must be 1 or 2, got {describe(order)}")
    if mode is not None and (not isinstance(mode, str) or mode not in ("full", "directional")):
        raise ArgumentError(f'{caller}: mode must be "full" or "directional", got {describe(mode)}')
    rtol, seed = tolerance(caller, "rtol", rtol), seed_of(caller, seed)
    nondet_tol = tolerance(caller, "nondet_tol", nondet_tol, zero=True)
    compiled = truth(caller, "compiled", compiled)
    allowed = frozenset([*PASSED, "precision"] if truth(caller, "allow_precision", allow_precision) else PASSED)
    rng = np.random.default_rng(None if seed is None else [seed, STREAM])  # differs from the user's generator
    report = Report(caller=caller, allowed=allowed)
    stage = problem
    for at in range(1, order + 1):
        if at == 2:
            stage = problem.second(rng)
        check = Check(stage, at, rtol, rng, nondet_tol)
        chosen = mode or check.default_mode
        report.mode = chosen if at == 1 or chosen == report.mode else f"{report.mode}, order 2 {chosen}"
        report.findings += check.full() if chosen == "full" else check.directional()
        if report and at == 1:  # not for order 2: there are many more ways, and few use them
            report.findings += other_ways(check, compiled=compiled, notes=report.notes, caller=caller)
            report.findings += check_user_ops(check.point.base)
        report.evaluations += stage.evaluations
        if not report:
            break
    return report, stage


def check_op(op: Op, args: Sequence[Any], attrs: Mapping[str, Any], *, order: int = 1, seed: int = 0) -> Report:
    """The report on one call of an op, for every floating argument that is not data."""
    wrt = [i for i, a in enumerate(args) if is_floating(getattr(a, "dtype", np.dtype(bool))) and not op.is_data(i)]
    with fusion.off():
        problem = Problem.of(op.name, lambda *xs: op(*xs, **attrs), tuple(args), wrt)
        return examine(op.name, problem, order, seed=seed)[0]

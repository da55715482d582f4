"""The Taylor test: the remainder of the expansion of f(x + h v) must fall with the right power of h.

The idea is from dolfin-adjoint's `taylor_test` (Farrell, Ham, Funke and Rognes, Automated derivation of the adjoint of
high-level transient finite element programs, SIAM Journal on Scientific Computing 35, 2013). It only uses values, without a
carefully chosen step, and its table can be judged by eye.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tensorgrad.core.arguments import is_integer, seed_of, truth
from tensorgrad.core.state import describe
from tensorgrad.errors import ArgumentError
from tensorgrad.testing.expansion import Expansion
from tensorgrad.testing.problem import Problem
from tensorgrad.testing.remainders import Remainders
from tensorgrad.testing.report import PASSED, GradientError, table

WORST = ("nondeterministic", "non-finite", "wrong", "precision", "kink", "ok")
MEANING = {
    "ok": "",
    "kink": "f has a kink or a jump here, and the recorded gradient lies between the slopes at its two sides",
    "wrong": "the remainders fall with the rate of a wrong derivative, down to where they are rounding",
    "precision": "rounding hides how the remainders fall (there is no range of steps in which they could be seen to), or "
    "several kinks meet in one entry",
    "nondeterministic": "f, or its gradient, is not the same when it is computed again",
    "non-finite": "f, or what was recorded, is NaN or infinite here",
}


@dataclass
class TaylorReport:
    """The result of a Taylor test. It prints as a table with one direction's remainders; its truth value is whether it passed.

    findings     a Remainders for each input (and for all together), output and order
    evaluations  number of calls of the function
    """

    findings: list[Remainders] = field(default_factory=list)
    evaluations: int = 0

    @property
    def ok(self) -> bool:
        """Whether every derivative is right, or valid at a kink."""
        return all(f.verdict in PASSED for f in self.findings)

    def __bool__(self) -> bool:
        return self.ok

    @property
    def verdict(self) -> str:
        """The worst verdict."""
        return min((f.verdict for f in self.findings), key=WORST.index, default="ok")

    def __str__(self) -> str:
        if not self.findings:
            return f"taylor_test: passed (nothing to compare; {self.evaluations} evaluations)"
        head = f"taylor_test: {'passed' if self.ok else 'FAILED'} ({self.evaluations} evaluations)"
        rows: list[tuple[str, ...]] = [("moved", "output", "order", "verdict", "recorded", "off by", "rate")]
        for f in self.findings:
            rates = f.rates(f.order)[np.isfinite(f.rates(f.order))] if f.remainders else np.zeros(0)
            rate = f"{np.median(rates[-3:]):.2f}" if len(rates) else "-"
            rows.append((f.name, str(f.output), str(f.order), f.verdict, f"{f.term:.9g}", f"{f.error:.1e}", rate))
        notes = [f"{v}: {MEANING[v]}" for v in dict.fromkeys(f.verdict for f in self.findings) if MEANING[v]]
        worst = min(self.findings, key=lambda f: (WORST.index(f.verdict), -f.order), default=None)
        ladder = ["", str(worst)] if worst is not None and worst.remainders else []
        return "\n".join([head, *table(rows), *notes, *ladder])


def taylor_test(
    fn: Callable[..., Any],
    inputs: Any,
    *,
    order: int = 1,
    wrt: Sequence[int | str] | None = None,
    seed: int = 0,
    raises: bool = True,
) -> TaylorReport:
    """Test whether the Taylor remainders of `fn` at `inputs` fall as fast as for a right gradient.

    fn      a function of Tensors that returns a floating Tensor, or a tuple of several
    inputs  the arguments, as for gradcheck; floating ones are converted to float64
    order   1: |f(x + h v) - f(x) - h g·v| falls as h², as h if the recorded gradient g is wrong. 2: also that minus h²/2 v·Hv
            as h³, as h² if the recorded gradient of the gradient is wrong
    wrt     positions (or names) of the inputs to move; by default all
    seed    of the directions, in which every entry moves by half to all of its own size, and of the weights that reduce each
            output to a number
    raises  False: return the report even if the test failed

    Each input is moved separately, its zeros apart from its other entries, then all together; each output is tested separately.
    In a well-conditioned function errors of 1e-5 of g·v are detected, usually of 1e-6 (of v·Hv: 1e-3), whatever the scales of x
    and f. If the one-sided slopes at x differ, the recorded slope must lie between them, for few entries at a time, and there
    is no second order. If rounding leaves no usable range of steps the verdict is "precision", which fails; so does a staircase
    with many steps nearby, which looks the same.

    For a model, take a function of its parameters; `check_model` tests every entry instead:

        def loss(w1, b1, w2, b2):
            return F.cross_entropy((x @ w1 + b1).relu() @ w2 + b2, labels)

        print(taylor_test(loss, tuple(model.parameters())))

    Returns the TaylorReport. Raises GradientError, which shows it; for invalid arguments the errors of gradcheck.
    """
    if not is_integer(order) or order not in (1, 2):
        raise ArgumentError(f"taylor_test: order must be 1 or 2, got {describe(order)}")
    problem, raises = Problem.of("taylor_test", fn, inputs, wrt), truth("taylor_test", "raises", raises)
    findings = Expansion(problem, seed_of("taylor_test", seed)).findings(int(order))
    report = TaylorReport(findings, problem.evaluations)
    if raises and not report:
        raise GradientError(str(report), report)
    return report

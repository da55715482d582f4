"""The Taylor test: what is left of f(x + h v) when its expansion is taken off has to fall with the right power of h.

The idea is that of dolfin-adjoint's `taylor_test` (Farrell, Ham, Funke and Rognes, Automated derivation of the adjoint of
high-level transient finite element programs, SIAM Journal on Scientific Computing 35, 2013). It reads nothing but values, at no
step that would have to be chosen well, and its table can be judged by eye.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tensorgrad.core.arguments import is_whole, seed_of, truth
from tensorgrad.core.state import shown
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
    """What a Taylor test found: it prints as a table, with one direction's remainders; as a condition it is whether it passed.

    findings     a Remainders for each input (and for all at once), output and order
    evaluations  how often the function was called
    """

    findings: list[Remainders] = field(default_factory=list)
    evaluations: int = 0

    @property
    def ok(self) -> bool:
        """Whether every derivative is right, or allowed at a kink."""
        return all(f.verdict in PASSED for f in self.findings)

    def __bool__(self) -> bool:
        return self.ok

    @property
    def verdict(self) -> str:
        """The worst one."""
        return min((f.verdict for f in self.findings), key=WORST.index, default="ok")

    def __str__(self) -> str:
        if not self.findings:
            return f"taylor_test: passed (nothing to compare; {self.evaluations} evaluations)"
        head = f"taylor_test: {'passed' if self.ok else 'FAILED'} ({self.evaluations} evaluations)"
        rows: list[tuple[str, ...]] = [("moved", "output", "order", "verdict", "recorded", "off by", "rate")]
        for f in self.findings:
            seen = f.rates(f.order)[np.isfinite(f.rates(f.order))] if f.remainders else np.zeros(0)
            rate = f"{np.median(seen[-3:]):.2f}" if len(seen) else "-"
            rows.append((f.name, str(f.output), str(f.order), f.verdict, f"{f.term:.9g}", f"{f.error:.1e}", rate))
        notes = [f"{v}: {MEANING[v]}" for v in dict.fromkeys(f.verdict for f in self.findings) if MEANING[v]]
        shown_ = min(self.findings, key=lambda f: (WORST.index(f.verdict), -f.order), default=None)
        ladder = ["", str(shown_)] if shown_ is not None and shown_.remainders else []
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
    """Whether the Taylor remainders of `fn` at `inputs` fall as they do for a right gradient.

    fn      a function of Tensors that returns a floating Tensor, or several in a tuple
    inputs  what to call it with, as for gradcheck; floating ones are raised to float64
    order   1: |f(x + h v) - f(x) - h g·v| falls as h², as h if the recorded gradient g is wrong. 2: also that less h²/2 v·Hv
            as h³, as h² if the recorded gradient of the gradient is
    wrt     positions (or names) of the inputs to move, if not all
    seed    of the directions, in which every entry moves by a half to all of its own size, and of the weights that make one
            number of each output
    raises  False: return the report also when it has failed

    Each input is moved by itself, its zeros apart from its other entries, then all at once; each output is looked at by itself.
    An error of 1e-5 of g·v is found in a well-conditioned function, mostly one of 1e-6 (of v·Hv: 1e-3), whatever the scales of
    x and f. Where the two sides of x differ, the recorded slope has to lie between theirs, of few entries at a time, and there
    is no second order. Where rounding leaves no range of steps to tell by, that is "precision", which fails; so does a
    staircase with many steps on the way, which looks the same.

    For a model, take a function of its parameters; `check_model` looks at every entry instead:

        def loss(w1, b1, w2, b2):
            return F.cross_entropy((x @ w1 + b1).relu() @ w2 + b2, labels)

        print(taylor_test(loss, tuple(model.parameters())))

    Returns the TaylorReport. Raises GradientError, which shows it; what gradcheck raises for arguments that do not fit.
    """
    if not is_whole(order) or order not in (1, 2):
        raise ArgumentError(f"taylor_test: order must be 1 or 2, got {shown(order)}")
    problem, raises = Problem.of("taylor_test", fn, inputs, wrt), truth("taylor_test", "raises", raises)
    findings = Expansion(problem, seed_of("taylor_test", seed)).findings(int(order))
    found = TaylorReport(findings, problem.evaluations)
    if raises and not found:
        raise GradientError(str(found), found)
    return found

"""What a gradient check found: a table, and the error that carries it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tensorgrad.core.backend import Array
from tensorgrad.core.table import columns
from tensorgrad.errors import TensorgradError
from tensorgrad.testing.slopes import Verdict, worst

PASSED = ("ok", "kink")
MEANING = {
    "ok": "recorded and numerical gradient agree",
    "kink": "the function has a kink or a jump here, and the recorded gradient lies between the slopes at its two sides",
    "wrong": "recorded and numerical gradient differ",
    "precision": "rounding hides what the gradient is: the function's values are too large beside their changes",
    "nondeterministic": "the function, or its gradient, is not the same when it is computed again: "
    "seed its random numbers inside, or call model.eval() for dropout",
    "non-finite": "a value or a gradient is NaN or infinite",
    "differs": "the compiled step gives another value than the step as it is written",
}


class GradientError(TensorgradError, AssertionError):
    """A gradient check that failed.

    report    the Report
    graph     what was recorded (a tensorgrad.graph.Graph), None if nothing was
    suspects  the nodes of that graph whose rules are wrong on their own; empty if none could be singled out
    script    a few lines of Python that show the fault on the smallest case found; "" if there are none
    """

    def __init__(
        self, message: str, report: Report | None = None, graph: Any = None, suspects: Iterable[Any] = (), script: str = ""
    ) -> None:
        super().__init__(message)
        self.report = report
        self.graph = graph
        self.suspects = tuple(suspects)
        self.script = script


class CompiledError(TensorgradError, AssertionError):
    """A compiled step that is not the step. report: the CompiledReport."""

    def __init__(self, message: str, report: Report | None = None) -> None:
        super().__init__(message)
        self.report = report


@dataclass(frozen=True)
class Finding:
    """What was found for one input.

    name      of the input or parameter
    shape     of it
    order     1 for the gradient, 2 for the gradient of the gradient
    verdicts  how many comparisons came to which verdict
    absolute  largest |recorded - numerical|
    relative  largest |recorded - numerical| / max(|recorded|, |numerical|, a thousandth of the largest gradient of this
              input, 1e-12)
    where     the place of the comparison that `recorded` and `numerical` belong to: of those with the worst verdict the one
              with the largest relative error
    recorded, numerical   the gradient there by the rules and by the values
    """

    name: str
    shape: tuple[int, ...]
    order: int
    verdicts: Counter[str]
    absolute: float
    relative: float
    where: str
    recorded: float
    numerical: float

    @property
    def verdict(self) -> Verdict:
        """The worst one."""
        return worst(list(self.verdicts))

    @classmethod
    def of(
        cls, name: str, shape: tuple[int, ...], order: int, verdicts: Array, recorded: Array, numerical: Array, where: Any
    ) -> Finding:
        """From arrays of equal shape; `where` makes the words for a place out of its index in them."""
        counts = Counter(verdicts.ravel().tolist())
        if not verdicts.size:
            return cls(name, shape, order, counts, 0.0, 0.0, "", 0.0, 0.0)
        with np.errstate(all="ignore"):
            error = np.abs(recorded - numerical)
            largest = np.maximum(np.abs(recorded), np.abs(numerical))
            top = float(np.nanmax(np.where(np.isfinite(largest), largest, np.nan), initial=0.0))
            relative = np.where(error == 0, 0.0, error / np.maximum(largest, max(1e-3 * top, 1e-12)))
        candidates = np.where(verdicts == worst(verdicts), np.where(np.isnan(relative), np.inf, relative), -1.0)
        at = np.unravel_index(int(candidates.argmax()), verdicts.shape)
        return cls(
            name, shape, order, counts, float(error.max()), float(relative.max()), where(at), float(recorded[at]),
            float(numerical[at]),
        )  # fmt: skip


@dataclass
class Report:
    """The findings of a gradient check. It prints as a table; as a condition it is whether everything passed.

    findings     one for each input and order
    mode         "full" or "directional"
    evaluations  how often the function was called
    """

    findings: list[Finding] = field(default_factory=list)
    mode: str = ""
    evaluations: int = 0
    caller: str = "gradcheck"

    @property
    def ok(self) -> bool:
        """Whether every comparison came to "ok" or "kink"."""
        return all(f.verdict in PASSED for f in self.findings)

    def __bool__(self) -> bool:
        return self.ok

    @property
    def verdicts(self) -> Counter[str]:
        """How many comparisons came to which verdict, over all inputs."""
        return sum((f.verdicts for f in self.findings), Counter())

    @property
    def failed(self) -> list[Finding]:
        """The comparisons that came to something else than "ok" or "kink"."""
        return [f for f in self.findings if f.verdict not in PASSED]

    def __str__(self) -> str:
        count = ", ".join(f"{n:,} {verdict}" for verdict, n in self.verdicts.most_common())
        head = f"{self.caller}: {'passed' if self.ok else 'FAILED'} ({self.mode}; {count or 'nothing to compare'})"
        rows: list[tuple[str, ...]] = [
            ("input", "shape", "order", "verdict", "abs error", "rel error", "at", "recorded", "numerical")
        ]
        for f in self.findings:
            shape = "×".join(map(str, f.shape)) or "scalar"
            errors = [number(f.absolute, ".1e"), number(f.relative, ".1e")]
            values = [number(f.recorded, ".9g"), number(f.numerical, ".9g")]
            rows.append((f.name, shape, str(f.order), f.verdict, *errors, f.where, *values))
        notes = [f"{v}: {MEANING[v]}" for v in dict.fromkeys(f.verdict for f in self.findings) if v != "ok"]
        return "\n".join([head, *table(rows), *notes])


@dataclass
class CompiledReport(Report):
    """What `check_compiled` found. It prints as two tables; as a condition it is whether everything passed.

    compared     a Finding for each result, parameter, buffer, state and gradient over all calls, `recorded` being what the
                 compiled step gives, `numerical` what the step as it is written gives
    differences  in words, of all calls, the first element of everything that differs
    findings     one for each parameter that backward() is asked for: its gradient against slopes
    calls        how many were compared;  replays: how many of them ran a plan
    """

    compared: list[Finding] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)
    calls: int = 0
    replays: int = 0

    @property
    def ok(self) -> bool:
        """Whether the calls are the same, and every gradient is right or at a kink."""
        return not self.differences and all(f.verdict in PASSED for f in self.findings)

    def __str__(self) -> str:
        ok = "the same" if not self.differences else "NOT THE SAME"
        head = f"{self.caller}: {self.calls} calls, compiled and as the step is written: {ok}"
        rows: list[tuple[str, ...]] = [("value", "shape", "verdict", "abs error", "rel error", "at", "compiled", "as written")]
        for f in self.compared:
            errors = [number(f.absolute, ".1e"), number(f.relative, ".1e")]
            values = [number(f.recorded, ".9g"), number(f.numerical, ".9g")]
            rows.append((f.name, "×".join(map(str, f.shape)) or "scalar", f.verdict, *errors, f.where, *values))
        text = "\n".join([head, *table(rows)])
        slopes = Report(self.findings, self.mode, self.evaluations, f"{self.caller}, gradients")
        return f"{text}\n\n{slopes}" if self.findings else text


def number(x: float, spec: str) -> str:
    return "-" if math.isnan(x) else format(x, spec)


def table(rows: list[tuple[str, ...]]) -> list[str]:
    """Lines with the columns under each other; numbers to the right."""
    numbers = [all(row[i][:1].isdigit() or row[i][:1] in "-+" for row in rows[1:] if row[i]) for i in range(len(rows[0]))]
    return columns(rows, "".join("<>"[right] for right in numbers))

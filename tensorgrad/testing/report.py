"""The results of a gradient check: a table, and the error that contains it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from tensorgrad.core.backend import Array
from tensorgrad.core.table import columns
from tensorgrad.errors import TensorgradError
from tensorgrad.testing.verdicts import VERDICTS, Verdict, coded, worst

PASSED = ("ok", "kink")
MEANING = {
    "ok": "recorded and numerical gradient agree",
    "kink": "the function has a kink or a jump here, and the recorded gradient lies between the slopes at its two sides",
    "precision": "rounding hides what the gradient is: the values are too large beside their changes, which neither confirm "
    "nor contradict it; if that is in the nature of the function, allow_precision=True lets it pass",
    "wrong": "recorded and numerical gradient differ",
    "differs": "the compiled step gives another value than the step as it is written",
    "non-finite": "a value or a gradient is NaN or infinite",
    "nondeterministic": "the function, or its gradient, is not the same when it is computed again: "
    "seed its random numbers inside, or call model.eval() for dropout",
}
JVP = "(jvp)"  # suffix of a Finding's name if the two rules of an op disagree
VALUE = "value "  # prefix of a Finding's `where` if a value of the function is at fault, not a derivative
BLOCK = 1 << 16  # entries to process at a time, to limit the memory for large matrices


class Explanation(NamedTuple):
    """Why a check failed: in words; the nodes whose rules are wrong on their own; a script that reproduces it."""

    text: str = ""
    suspects: tuple[Any, ...] = ()
    script: str = ""


class GradientError(TensorgradError, AssertionError):
    """A failed gradient check.

    report    the Report, the TaylorReport or the Audit
    graph     the recorded graph (a tensorgrad.graph.Graph), None if nothing was recorded
    suspects  the nodes of that graph whose rules are wrong on their own; empty if none could be identified
    script    Python code that shows the fault on the smallest case found; "" if there is none

    `suspects`, `script` and the text below the table come from a search at the point where the check failed. It runs once, on
    first access. Pickling runs it, and drops graph and suspects.
    """

    def __init__(
        self,
        message: str,
        report: Any = None,
        graph: Any = None,
        suspects: Iterable[Any] = (),
        script: str = "",
        explain: Callable[[], Explanation] | None = None,
    ) -> None:
        super().__init__(message)
        self.report = report
        self.graph = graph
        self._explanation = Explanation("", tuple(suspects), script)
        self._explain = explain

    @property
    def suspects(self) -> tuple[Any, ...]:
        return self.explanation.suspects

    @property
    def script(self) -> str:
        return self.explanation.script

    @property
    def explanation(self) -> Explanation:
        """The result of the search."""
        if self._explain is not None:
            try:
                self._explanation = self._explain()
            except Exception as error:  # better a table without an explanation than none
                self._explanation = Explanation(f"No op could be singled out: {type(error).__name__}: {error}")
            self._explain = None
        return self._explanation

    def __str__(self) -> str:
        text = self.explanation.text
        return f"{self.args[0]}\n\n{text}" if text else str(self.args[0])

    def __reduce__(self) -> tuple[Any, ...]:
        notes = {"__notes__": self.__notes__} if hasattr(self, "__notes__") else None  # added by `add_note`
        return type(self), (str(self), self.report, None, (), self.script), notes

    def __copy__(self) -> GradientError:
        copy = type(self)(*self.args)
        copy.__dict__.update(self.__dict__)
        return copy

    def __deepcopy__(self, memo: Any) -> GradientError:
        return self.__copy__()  # graphs are immutable


class CompiledError(TensorgradError, AssertionError):
    """A compiled step that differs from the eager one. report: the CompiledReport."""

    def __init__(self, message: str, report: Report | None = None) -> None:
        super().__init__(message)
        self.report = report


@dataclass(frozen=True)
class Finding:
    """The result for one input.

    name      of the input or parameter
    shape     of it
    order     1 for the gradient, 2 for the gradient of the gradient
    verdicts  number of comparisons by verdict
    absolute  |recorded - numerical| at `where`
    relative  the same divided by max(|recorded|, |numerical|); except for "wrong", the divisor is at least a thousandth of the
              largest gradient of this input, and 1e-12
    where     the place of the comparison that the numbers describe: among those with the worst verdict, the one with the
              largest error, relative to at least a thousandth of the largest gradient
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
        """The worst verdict."""
        return worst(self.verdicts)

    @classmethod
    def of(
        cls,
        name: str,
        shape: tuple[int, ...],
        order: int,
        verdicts: Array,
        recorded: Array,
        numerical: Array,
        where: Any,
        *,
        largest: float | None = None,
    ) -> Finding:
        """A finding from arrays of equal shape, processed in blocks to limit the memory.

        verdicts  words, or indices into VERDICTS
        where     converts an index to the name of the place
        largest   the largest gradient of this input, if the arrays do not contain all of it
        """
        codes, a, b = np.ravel(coded(verdicts)), np.ravel(recorded), np.ravel(numerical)
        pieces = [slice(start, start + BLOCK) for start in range(0, codes.size, BLOCK)]
        counts = sum((np.bincount(codes[p], minlength=len(VERDICTS)) for p in pieces), np.zeros(len(VERDICTS), int))
        counted: Counter[str] = Counter({verdict: int(n) for verdict, n in zip(VERDICTS, counts, strict=True) if n})
        if not pieces:
            return cls(name, shape, order, counted, 0.0, 0.0, "", 0.0, 0.0)
        if largest is None:
            largest = max(largest_of(x[p]) for p in pieces for x in (a, b))
        floor = max(1e-3 * largest, 1e-12)
        verdict = worst(counted)
        largest_error, at = -1.0, 0
        for p in pieces:
            errors = relative_errors(a[p], b[p], floor)
            errors[codes[p] != VERDICTS.index(verdict)] = -1.0
            k = int(errors.argmax())
            if errors[k] > largest_error:
                largest_error, at = float(errors[k]), p.start + k
        recorded_at, numerical_at = float(a[at]), float(b[at])
        if verdict in ("wrong", "differs"):
            largest_error = float(relative_errors(a[at : at + 1], b[at : at + 1], 0.0)[0])
        largest_error = math.nan if math.isinf(largest_error) else largest_error
        place = where(np.unravel_index(at, np.shape(verdicts)))
        return cls(
            name,
            shape,
            order,
            counted,
            difference(recorded_at, numerical_at),
            largest_error,
            place,
            recorded_at,
            numerical_at,
        )

    @classmethod
    def single(
        cls,
        name: str,
        shape: tuple[int, ...],
        order: int,
        verdict: Verdict,
        where: str = "",
        recorded: float = math.nan,
        numerical: float = math.nan,
    ) -> Finding:
        """A finding from one comparison, or from a fault that prevents comparisons: if a value of the function is at fault,
        `where` starts with "value " and names it: "value y[0, 1] = nan".
        """
        error = float(relative_errors(np.array([recorded]), np.array([numerical]), 0.0)[0])
        error = math.nan if math.isinf(error) else error
        return cls(
            name, shape, order, Counter([str(verdict)]), difference(recorded, numerical), error, where, recorded, numerical
        )

    @classmethod
    def joined(cls, findings: Sequence[Finding]) -> Finding:
        """Combine findings of the same input and order: counts are added, the place is that of the worst."""

        def badness(f: Finding) -> tuple[int, float]:
            return VERDICTS.index(f.verdict), math.inf if math.isnan(f.relative) else f.relative

        worst_finding = max((f for f in findings if f.verdicts), key=badness, default=findings[0])
        return replace(worst_finding, verdicts=sum((f.verdicts for f in findings), Counter()))

    def meaning(self) -> str:
        """The meaning of the verdict, in words; for "non-finite" also which value, and where."""
        if self.verdict == "wrong" and self.name.endswith(JVP):
            return f"wrong, {self.name}: jvp does not belong to backward: <J v, u> (numerical) is not <v, Jᵀ u> (recorded)"
        if self.verdict != "non-finite" or not self.where:
            return f"{self.verdict}: {MEANING[self.verdict]}"
        if self.where.startswith(VALUE):
            return f"non-finite: the function's own value is not finite: {self.where.removeprefix(VALUE)}"
        if not math.isfinite(self.recorded):
            return f"non-finite: the recorded gradient of {self.name} is {self.recorded:g}: {self.where}"
        return (
            f"non-finite: the values a small step away from the point are not finite: {self.name}, {self.where}; at the point "
            f"itself they are, and so is the recorded gradient, {self.recorded:.9g}"
        )


@dataclass
class Report:
    """The findings of a gradient check. It prints as a table; its truth value is whether everything passed.

    findings     one for each input and order
    mode         "full" or "directional"
    evaluations  number of calls of the function
    caller       the name of the function that created it
    allowed      the verdicts that pass: "ok" and "kink", and those that the caller allowed
    notes        further information, printed line by line below the table: what was skipped, and why
    """

    findings: list[Finding] = field(default_factory=list)
    mode: str = ""
    evaluations: int = 0
    caller: str = "gradcheck"
    allowed: frozenset[str] = frozenset(PASSED)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether all verdicts are allowed."""
        return not self.failed

    def __bool__(self) -> bool:
        return self.ok

    @property
    def verdicts(self) -> Counter[str]:
        """The number of comparisons by verdict, over all inputs."""
        return sum((f.verdicts for f in self.findings), Counter())

    @property
    def failed(self) -> list[Finding]:
        """The findings with a verdict that is not allowed."""
        return [f for f in self.findings if f.verdict not in self.allowed]

    def __str__(self) -> str:
        count = ", ".join(f"{n:,} {verdict}" for verdict, n in self.verdicts.most_common())
        head = f"{self.caller}: {'passed' if self.ok else 'FAILED'} ({self.mode}; {count or 'nothing to compare'})"
        rows: list[tuple[str, ...]] = [
            ("input", "shape", "order", "verdict", "abs error", "rel error", "at", "recorded", "numerical")
        ]
        for f in self.findings:
            shape = "×".join(map(str, f.shape)) or "scalar"
            errors = [number(f.absolute, ".1e"), number(f.relative, ".1e")]
            rows.append((f.name, shape, str(f.order), f.verdict, *errors, f.where, *distinct(f.recorded, f.numerical)))
        meanings = dict.fromkeys(f.meaning() for f in self.findings if f.verdict != "ok")
        return "\n".join([head, *table(rows), *meanings, *self.notes])


@dataclass
class CompiledReport(Report):
    """The result of `check_compiled`. It prints as two tables; its truth value is whether everything passed.

    compared     a Finding for each result, parameter, buffer, state and gradient over all calls; `recorded` is the value of the
                 compiled step, `numerical` that of the eager one
    differences  the first differing element of each value, in words, for all calls
    findings     one for each parameter of a backward(): its gradient against numerical slopes
    calls        number of calls compared;  replays: how many of them ran a plan
    """

    compared: list[Finding] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)
    calls: int = 0
    replays: int = 0

    @property
    def ok(self) -> bool:
        """Whether the calls agree, and every gradient is right or at a kink."""
        return not self.differences and not self.failed

    def __str__(self) -> str:
        ok = "the same" if not self.differences else "NOT THE SAME"
        head = f"{self.caller}: {self.calls} calls, compiled and as the step is written: {ok}"
        rows: list[tuple[str, ...]] = [("value", "shape", "verdict", "abs error", "rel error", "at", "compiled", "as written")]
        for f in self.compared:
            errors = [number(f.absolute, ".1e"), number(f.relative, ".1e")]
            shape = "×".join(map(str, f.shape)) or "scalar"
            rows.append((f.name, shape, f.verdict, *errors, f.where, *distinct(f.recorded, f.numerical)))
        text = "\n".join([head, *table(rows)])
        if not self.findings:
            return "\n".join([text, *self.notes])
        slopes = Report(self.findings, self.mode, self.evaluations, f"{self.caller}, gradients", self.allowed, self.notes)
        return f"{text}\n\n{slopes}"


def largest_of(x: Array) -> float:
    """The largest finite absolute value, 0 if there is none."""
    return float(np.abs(x).max(initial=0.0, where=np.isfinite(x)))


def relative_errors(a: Array, b: Array, floor: float) -> Array:
    """|a - b| / max(|a|, |b|, floor): 0 if they are equal, infinity if one is NaN."""
    with np.errstate(all="ignore"):
        errors = np.abs(a - b) / np.maximum(np.maximum(np.abs(a), np.abs(b)), floor)
    errors[np.isnan(errors)] = math.inf
    errors[a == b] = 0.0
    return np.asarray(errors)


def difference(a: float, b: float) -> float:
    return 0.0 if a == b else abs(a - b)


def number(x: float, spec: str) -> str:
    return "-" if math.isnan(x) else format(x, spec)


def distinct(a: float, b: float) -> list[str]:
    """Two numbers with enough digits to tell them apart, at least nine."""
    if number(a, ".9g") == number(b, ".9g") and a != b:
        return [number(a, ".17g"), number(b, ".17g")]
    return [number(a, ".9g"), number(b, ".9g")]


def table(rows: list[tuple[str, ...]]) -> list[str]:
    """Lines of a table with aligned columns; numbers to the right."""
    numbers = [all(row[i][:1].isdigit() or row[i][:1] in "-+" for row in rows[1:] if row[i]) for i in range(len(rows[0]))]
    return columns(rows, "".join("<>"[right] for right in numbers))

"""Two runs of a program side by side: the step as it is, and compiled. What differs, and whether it is rounding."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

import tensorgrad as tg
from tensorgrad.errors import CompileError, TensorgradError
from tests.fuzz.program import Program
from tests.fuzz.world import STATE, AsItIs, Leaves, Run, run

# Two ways of computing the same thing differ by a few units in the last place of the largest element. What differs by more is
# looked at again: the step is run, as it is, with every operation disturbed by a unit or two, as rounding in another order
# does, and with every operation in float64. If the disturbance alone changes the value about as much, its digits mean nothing,
# and if the step itself is not much nearer to what float64 gives, the compiled one is not wrong; otherwise it is a difference.
UNITS = 32
PROBES = 6
FAR = 1e6  # so many times what three probes have changed is a difference, whatever others might give
NEARER = 4
MARGIN = 16  # sums over many elements err by more than the disturbance of their result, but not by that much more

NUMBERS = (np.ndarray, np.generic, float, int)
COMPILING = re.compile(
    r"compile|arguments .{0,40}as Tensors|recorded on a Tensor"
)  # an error that says why a step cannot be compiled, or its result not used
NAMED = re.compile(r"[\w./<>-]+\.py:\d+")


@dataclass(frozen=True)
class Verdict:
    """What came of a program.

    kind     "same", "refused" (by CompileError), "invalid" (the step itself fails at once), or "different"
    what     of a difference: what kind it is; of a refusal: the message
    path     an expression of the value that differs, and `place` its flat index
    call     in which call, from 0
    rounded  something differs, but the disturbed step differs as much
    ran      how often the Python code ran, in `calls` calls
    """

    kind: str
    what: str = ""
    path: str = ""
    place: int = 0
    call: int = 0
    rounded: bool = False
    ran: int = 0
    calls: int = 0
    warned: bool = False

    @property
    def replays(self) -> int:
        return max(self.calls - self.ran, 0)


def check(program: Program, compile: Any = tg.compile) -> Verdict:
    """Run a program both ways."""
    return Comparison(program, compile).verdict()


class Comparison:
    """A program, run both ways."""

    def __init__(self, program: Program, compile: Any) -> None:
        self.program = program
        self.as_it_is = partial(run, program, AsItIs(program))
        self.compiled = partial(run, program, partial(compile, keep_grads=program.keep_grads))
        self.probes: list[Run] = []
        self.exact: Run | None = None
        self.rounded = False

    def verdict(self) -> Verdict:
        one = self.as_it_is()
        if one.error is not None and not one.rounds:
            return Verdict("invalid", said(one.error))
        other = self.compiled()
        faults = [Verdict("different", f"fault: {text}") for text in other.faults]
        difference = next(iter(faults), None) or self.difference(one, other) or self.afterwards(one, other)
        ending = Verdict("same")
        if difference is None and other.error is not None and one.error is None:
            ending = self.ended(other)
        elif difference is None and one.error is not None and one.inside:
            ending = self.both_ended(one, other)
        found = difference or ending
        return Verdict(
            found.kind,
            found.what,
            found.path,
            found.place,
            found.call,
            self.rounded,
            other.ran,
            other.ready,
            other.warned,
        )

    def difference(self, one: Run, other: Run) -> Verdict | None:
        """The first value that is not the same."""
        for call, (expected, got) in enumerate(zip(one.rounds, other.rounds, strict=False)):
            for path in dict.fromkeys([*expected, *got]):
                if found := self.differs(call, path, expected, got):
                    return found
        return None

    def differs(self, call: int, path: str, expected: Leaves, got: Leaves) -> Verdict | None:
        a, b = expected.get(path), got.get(path)
        if a is None or b is None:
            there = a or b
            assert there is not None
            how = "is missing" if b is None else "is there"
            return Verdict("different", f"{there.role} {how}", path, 0, call)
        problem, place = unlike(a.value, b.value)
        numbers = isinstance(a.value, NUMBERS) and isinstance(b.value, NUMBERS)
        if problem == "differs" and numbers and self.is_rounding(call, path, a.value, b.value):
            self.rounded = True
            return None
        return Verdict("different", f"{a.role} {problem}", path, place, call) if problem else None

    def probe(self, number: int) -> Run:
        """A run of the step as it is, with its operations disturbed."""
        while len(self.probes) <= number:
            self.probes.append(self.as_it_is(noise=len(self.probes)))
        return self.probes[number]

    def is_rounding(self, call: int, path: str, expected: Any, got: Any) -> bool:
        """Whether rounding might make this difference."""
        return self.is_disturbance(call, path, expected, got) or self.is_nearer(call, path, expected, got)

    def is_nearer(self, call: int, path: str, expected: Any, got: Any) -> bool:
        """Whether it is about as near to what the step gives in float64 as the step itself is: a long sum in another order."""
        if self.exact is None:
            self.exact = self.as_it_is(exactly=True)
        rounds = self.exact.rounds
        if call >= len(rounds) or path not in rounds[call]:
            return True
        a, b, c = (np.asarray(x) for x in (expected, got, rounds[call][path].value))
        if a.dtype.kind != "f" or c.shape != a.shape or not same_places(a, b) or not same_places(a, c):
            return False
        return distance(b, c) <= NEARER * distance(a, c)

    def is_disturbance(self, call: int, path: str, expected: Any, got: Any) -> bool:
        """Whether disturbed operations make this difference, too."""
        a, b = np.asarray(expected), np.asarray(got)
        same, away, change = same_places(a, b), distance(a, b), 0.0
        coarse = np.finfo(self.program.dtype).eps
        if same and a.dtype == np.float64 and away <= UNITS * coarse * np.abs(wide(a)).max(initial=0.0):
            return True  # of numbers that are no more exact
        for number in range(PROBES):
            rounds = self.probe(number).rounds
            if call >= len(rounds) or path not in rounds[call]:
                return True  # rounding decides whether the step fails
            p = np.asarray(rounds[call][path].value)
            if p.shape != a.shape or not same_places(a, p):
                return True
            change = max(change, distance(a, p))
            if same and (away <= MARGIN * change if a.dtype.kind == "f" else change):
                return True
            if number >= 2 and away > FAR * change > 0:
                return False
        return False

    def ended(self, other: Run) -> Verdict:
        """The compiled run ended early, with an error that the step itself does not raise."""
        error = other.error
        call = len(other.rounds)
        refused = isinstance(error, CompileError) or (
            isinstance(error, (TensorgradError, TypeError, AttributeError)) and COMPILING.search(message(error))
        )
        if not refused:
            assert error is not None
            if any(type(self.probe(number).error) is type(error) for number in range(PROBES)):
                self.rounded = True
                return Verdict("same")
            return Verdict("different", f"error: {said(error)}", call=call)
        before = self.compiled(moment=("ready", other.ready)).captured
        after = self.as_it_is(moment=("done", other.ready)).captured
        left = {path: leaf for path, leaf in other.at_error.items() if leaf.role in STATE}
        if any(unlike(leaf.value, before[path].value)[0] for path, leaf in left.items() if path in before):
            for path, leaf in left.items():
                problem, place = unlike(after[path].value, leaf.value) if path in after else ("", 0)
                if problem and not (problem == "differs" and self.is_rounding(call, path, after[path].value, leaf.value)):
                    return Verdict("different", f"{leaf.role} left half changed by a refusal", path, place, call)
        return Verdict("refused", message(error), call=call)

    def both_ended(self, one: Run, other: Run) -> Verdict:
        """The step itself raises an error after some calls."""
        call = len(one.rounds)
        assert one.error is not None
        if other.error is None or len(other.rounds) > call:
            if any(type(self.probe(number).error) is not type(one.error) for number in range(PROBES)):
                self.rounded = True
                return Verdict("same")
            return Verdict("different", f"no error: {said(one.error)}", call=call)
        if len(other.rounds) < call:
            return self.ended(other)
        if type(other.error) is type(one.error):
            return Verdict("same")
        if isinstance(other.error, CompileError):
            return Verdict("refused", message(other.error), call=call)
        return Verdict("different", f"error: {said(other.error)} for {type(one.error).__name__}", call=call)

    def afterwards(self, one: Run, other: Run) -> Verdict | None:
        """What is wrong with results and gradients besides their values."""
        for call, path in sorted(other.frozen - one.frozen):
            return Verdict("different", f"{other.rounds[call][path].role} cannot be written to", path, 0, call)
        shared = [s for s in sorted(other.shared) if s not in one.shared]
        for call, path, _ in shared:
            return Verdict("different", f"{other.rounds[call][path].role} shares memory", path, 0, call)
        moved = [changed(*pair) for pair in zip(other.rounds, other.kept, strict=True)]
        moves = [changed(*pair) for pair in zip(one.rounds, one.kept, strict=True)]
        for call, paths in enumerate(moved):
            also = moves[call] if call < len(moves) else set()
            for path in sorted(paths):
                steady = [j for j in range(min(len(moved), len(moves)) - 1) if path in moves[j] and path not in moved[j]]
                if path not in also or steady:
                    return Verdict("different", "result is changed by later calls", path, 0, call)
        return None


def changed(then: Leaves, now: Leaves) -> set[str]:
    """The results that are no longer what they were."""
    return {path for path, leaf in now.items() if unlike(then[path].value, leaf.value, exactly=True)[0]}


def unlike(expected: Any, got: Any, exactly: bool = False) -> tuple[str, int]:
    """In which way a value is another one, and where; ("", 0) if it is the same to a few units in the last place."""
    if not isinstance(expected, NUMBERS) or not isinstance(got, NUMBERS):
        return ("differs", 0) if type(expected) is not type(got) or expected != got else ("", 0)
    a, b = np.asarray(expected), np.asarray(got)
    both = isinstance(expected, (np.ndarray, np.generic)) and isinstance(got, (np.ndarray, np.generic))
    if a.shape != b.shape:
        return "has another shape", 0
    if both and a.dtype != b.dtype:
        return "has another dtype", 0
    if a.tobytes() == b.tobytes() and a.dtype == b.dtype:
        return "", 0
    if exactly or a.dtype.kind != "f":
        different = ~((a == b) | ((a != a) & (b != b)))
        return ("differs", int(np.argmax(different))) if different.any() else ("", 0)
    if not same_places(a, b):
        return "differs", int(np.argmax((np.isnan(a) != np.isnan(b)) | (np.isinf(a) != np.isinf(b)) | (np.isinf(a) & (a != b))))
    away, largest = np.abs(wide(a) - wide(b)), np.abs(wide(a)).max(initial=0.0)
    if away.max(initial=0.0) <= UNITS * np.finfo(a.dtype).eps * largest:
        return "", 0
    return "differs", int(np.argmax(away))


def same_places(a: Any, b: Any) -> bool:
    """Whether two arrays have NaN and the infinities in the same places."""
    if a.dtype.kind != "f":
        return True
    return bool(
        (np.isnan(a) == np.isnan(b)).all() and (a[np.isinf(a)] == b[np.isinf(a)]).all() and (np.isinf(a) == np.isinf(b)).all()
    )


def wide(a: Any) -> Any:
    """In float64, 0 in the place of what is not finite."""
    a = a.astype(np.float64)
    return np.where(np.isfinite(a), a, 0.0)


def distance(a: Any, b: Any) -> float:
    return float(np.abs(wide(a) - wide(b)).max(initial=0.0))


def message(error: BaseException | None) -> str:
    """What an error says, with its notes."""
    return "\n".join([str(error), *getattr(error, "__notes__", ())])


def said(error: BaseException) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"

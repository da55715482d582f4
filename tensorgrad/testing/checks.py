"""Compares the recorded gradients of a problem at one point with derivatives from other methods."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from tensorgrad.core.backend import Array
from tensorgrad.testing.comparison import Comparison
from tensorgrad.testing.derivatives import ROUNDED
from tensorgrad.testing.exact import NoDerivative
from tensorgrad.testing.point import H, Point
from tensorgrad.testing.problem import Problem, same
from tensorgrad.testing.recording import Recording
from tensorgrad.testing.report import PASSED, Finding
from tensorgrad.testing.slopes import EPS
from tensorgrad.testing.verdicts import Verdict
from tensorgrad.testing.view import View, groups

FULL_INPUTS = 5_000  # up to so many entries of the inputs, and of the outputs,
FULL_JACOBIAN = 1_000_000  # and so many derivatives all are checked by default, in some tenths of a second
FACTOR = -(2.0**20)  # scale of the incoming gradient in the second run
SOME = 16  # number of outputs whose rounding represents all
TRIES = 4  # entries to examine for the location of a fault, if each needs calls of the function


class Check:
    """A problem at one point: its recording, compared with derivatives."""

    def __init__(self, problem: Problem, order: int, rtol: float, rng: np.random.Generator, nondet_tol: float = 0.0) -> None:
        self.problem, self.order, self.rtol, self.nondet_tol = problem, order, rtol, nondet_tol
        self.point = Point(problem, rng, nondet_tol)
        base = self.point.base
        self.outputs, self.leaves, self.at = base.outputs, base.leaves, base.at
        self.weights = self.point.weights
        self.recorded = base.gradients(self.weights)
        self.comparison = Comparison(self.point, rtol)

    @property
    def default_mode(self) -> str:
        """Whether to check every derivative by default."""
        n, m = sum(a.size for a in self.problem.arrays), self.at.size
        return "full" if max(n, m) <= FULL_INPUTS and n * m <= FULL_JACOBIAN else "directional"

    def unfit(self) -> list[Finding]:
        """Findings for a function that cannot be checked, because it is not finite or not deterministic."""
        bad = np.flatnonzero(~np.isfinite(self.at))
        if bad.size:
            return self.all("non-finite", f"value {self.output(int(bad[0]))} = {self.at[bad[0]]:g}")
        again = Recording(self.problem)
        if not self.equal(self.at, again.at):
            return self.all("nondeterministic")
        # call the function again, with an incoming gradient of other signs and sizes, scaled by a power of 2, which does not
        # round
        scaled = [g / FACTOR for g in again.gradients(FACTOR * self.weights)]
        if self.agree(scaled):
            return []
        if not self.agree(again.gradients(self.weights)):
            return self.all("nondeterministic")
        # beyond the range of float64 only infinities and NaN are allowed
        finite_or_recorded = [np.where(np.isfinite(s), s, g) for s, g in zip(scaled, self.recorded, strict=True)]
        if self.agree(finite_or_recorded) and self.agree([g * FACTOR for g in again.gradients(self.weights / FACTOR)]):
            return []
        return self.not_linear(again)

    def agree(self, gradients: list[Array]) -> bool:
        """Whether gradients equal the recorded ones."""
        return all(map(self.equal, self.recorded, gradients))

    def all(self, verdict: Verdict, where: str = "") -> list[Finding]:
        """One verdict for all inputs."""
        pairs = zip(self.problem.names, self.problem.arrays, strict=True)
        return [Finding.single(name, a.shape, self.order, verdict, where) for name, a in pairs]

    def not_linear(self, again: Recording) -> list[Finding]:
        """Findings for inputs whose gradient does not scale with the incoming gradient."""
        findings = []
        for name, g, other in zip(self.problem.names, self.recorded, again.gradients(FACTOR * self.weights), strict=True):
            with np.errstate(all="ignore"):
                numbers = np.array(other), FACTOR * g
                verdicts = np.where(np.abs(numbers[0] - numbers[1]) <= 1e-9 * np.abs(numbers[1]), "ok", "wrong")
            place: Callable[[Any], str] = lambda at: (  # noqa: E731
                f"{[int(n) for n in at] or 'x'}: the gradient does not scale with the incoming gradient (times {FACTOR:g})"
            )
            findings.append(Finding.of(name, g.shape, self.order, verdicts, *numbers, place))
        # if they are right this time, the function is not deterministic
        return findings if any(f.verdict not in PASSED for f in findings) else self.all("nondeterministic")

    def equal(self, a: Array, b: Array) -> bool:
        """Equal when recomputed, up to the tolerance for that."""
        return same(a, b) or (a.shape == b.shape and bool(self.nondet_tol) and np.allclose(a, b, rtol=0, atol=self.nondet_tol))

    def directional(self) -> list[Finding]:
        """For each input the slope of the weighted sum of the outputs along a random direction.

        Entries whose gradients differ by orders of magnitude are moved separately, so that none hides behind larger ones.
        """
        return self.unfit() or [self.along(i) for i in range(len(self.problem.arrays))]

    def along(self, i: int, name: str = "", marked: bool = True) -> Finding:
        """The slope along a random direction of one input."""
        shape, view = self.problem.arrays[i].shape, self.by_size(i)
        weights = view.weights
        assert weights is not None
        rows = [self.recorded[i]] if len(weights) == 1 else [self.point.base.gradients(w, [i])[0] for w in weights]
        verdicts, recorded, numerical = self.comparison.verdicts(view, view.columns_of(rows), marked)
        where = "along a direction"
        if (entry := self.comparison.entry) is not None:
            where = f"weighted sum by {[int(n) for n in np.unravel_index(entry, shape)] or 'x'}"
        return Finding.of(name or self.problem.names[i], shape, self.order, verdicts, recorded, numerical, lambda at: where)

    def by_size(self, i: int) -> View:
        """A random direction for each group of entries with gradients of similar size, with weights of outputs grouped
        likewise.
        """
        with np.errstate(all="ignore"):
            size = np.nan_to_num(np.abs(self.recorded[i] * self.point.units[i]))
        directions = [np.where(mask, self.point.directions[i], 0.0) for mask in groups(size)]
        rows = np.stack([np.where(mask, self.weights, 0.0) for mask in groups(self.moved_by(i))] or [self.weights])
        return View(i, self.problem.arrays[i].shape, self.at.size, rows, directions)

    def moved_by(self, i: int) -> Array:
        """The approximate change of each output when an input moves."""
        if self.at.size < 2:
            return np.ones(self.at.shape)
        moves = {i: self.point.directions[i]}
        with np.errstate(all="ignore"):
            try:
                if self.point.exact is not None:
                    return np.nan_to_num(np.abs(self.point.slope(self.point.exact, moves)))
            except NoDerivative:
                pass
            return np.nan_to_num(np.abs(self.point.values(moves, H) - self.at))

    def full(self) -> list[Finding]:
        """Check every entry of the Jacobian."""
        if findings := self.unfit():
            return findings
        if self.point.exact is None or self.point.moving:
            # each entry costs calls of the function, so first decide whether to
            findings = [self.along(i, marked=False) for i in range(len(self.problem.arrays))]
            if any(f.verdict not in PASSED for f in findings):
                first = next(i for i, f in enumerate(findings) if f.verdict not in PASSED)
                findings[first] = self.located(first, findings[first])
                return findings
        jacobians = self.jacobians()
        views = [self.each(i) for i in range(len(jacobians))]
        results = [self.comparison.verdicts(view, jacobian) for view, jacobian in zip(views, jacobians, strict=True)]
        self.comparison.judge_together([(view, *numbers[1:], numbers[0]) for view, numbers in zip(views, results, strict=True)])
        findings = [
            Finding.of(name, view.shape, self.order, *numbers, self.place(view.shape))
            for name, view, numbers in zip(self.problem.names, views, results, strict=True)
        ]
        return self.summed(jacobians, findings)

    def each(self, i: int) -> View:
        """Each output by each entry of an input."""
        array = self.problem.arrays[i]
        return View(i, array.shape, self.at.size, entries=range(array.size))

    def located(self, i: int, failure: Finding) -> Finding:
        """Locate a failure of a directional check: test single entries until one fails."""
        if failure.verdict != "wrong":
            return failure
        for entry in np.random.default_rng(0).permutation(self.problem.arrays[i].size)[:TRIES]:
            view = self.each(i).only([int(entry)])
            verdicts, recorded, numerical = self.comparison.verdicts(view)
            place = self.place(failure.shape)
            words = functools.partial(entry_of, place, int(entry))
            single = Finding.of(failure.name, failure.shape, self.order, verdicts, recorded, numerical, words)
            if single.verdict == "wrong":
                return single
        return failure

    def summed(self, jacobians: list[Array], findings: list[Finding]) -> list[Finding]:
        """Check that the gradient of a sum is the sum of the gradients, that is, that rules are linear in g."""
        results = []
        with np.errstate(all="ignore"):
            terms = [np.abs(self.weights) @ np.abs(j) for j in jacobians]
            largest_term = max((float(np.nan_to_num(t).max(initial=0.0)) for t in terms), default=0.0)
        for i, (f, jacobian, recorded, term) in enumerate(zip(findings, jacobians, self.recorded, terms, strict=True)):
            with np.errstate(all="ignore"):
                expected = self.weights @ jacobian
                value_rounding = np.abs(self.weights) @ np.abs(self.at) / self.point.units[i].ravel()
                tolerance = 1e-9 * term + 64 * EPS * np.maximum(largest_term, value_rounding)
                differs = ~(np.abs(recorded.ravel() - expected) <= tolerance)
                if differs.any():  # cancellation may round differently
                    noise = self.point.base.perturbed(self.weights, i).ravel()
                    for k in np.flatnonzero(self.weights)[:SOME]:
                        weight = np.where(np.arange(self.at.size) == k, self.weights, 0.0)
                        noise = noise + self.point.base.perturbed(weight, i).ravel() * self.at.size / min(SOME, self.at.size)
                    least = 64 * EPS * self.point.rounding * np.abs(self.weights).sum() / self.point.units[i].ravel()
                    differs &= ~(np.abs(recorded.ravel() - expected) <= tolerance + ROUNDED * noise + least)
            if f.verdict in PASSED and differs.any():
                entry = int(np.argmax(differs))
                place = [int(n) for n in np.unravel_index(entry, f.shape)]
                where = f"weighted sum by {place or 'x'}: it is not the sum of the gradients"
                numbers = float(recorded.ravel()[entry]), float(expected[entry])
                f = Finding.single(f.name, f.shape, self.order, "wrong", where, *numbers)
            results.append(f)
        return results

    def jacobians(self) -> list[Array]:
        """For each input the recorded derivatives of every output element (rows) by every entry (columns)."""
        result = [np.zeros((self.at.size, a.size)) for a in self.problem.arrays]
        weights = np.zeros(self.at.size)
        for k in range(self.at.size):
            weights[k] = 1
            for jacobian, g in zip(result, self.point.base.gradients(weights), strict=True):
                jacobian[k] = g.ravel()
            weights[k] = 0
        return result

    def output(self, k: int) -> str:
        """The name of an output element: "y[0, 1]"."""
        for i, t in enumerate(self.outputs):
            if k < t.size:
                index = [int(n) for n in np.unravel_index(k, t.shape)]
                return f"{'y' if len(self.outputs) == 1 else f'y{i}'}{index or ''}"
            k -= t.size
        raise IndexError(k)

    def place(self, shape: tuple[int, ...]) -> Callable[[Any], str]:
        """The name of a derivative: "y[0, 1] by [2]"."""

        def words(at: Any) -> str:
            entry = [int(n) for n in np.unravel_index(at[1], shape)]
            return f"{self.output(int(at[0]))} by {entry or 'x'}"

        return words


def entry_of(place: Callable[[Any], str], entry: int, at: Any) -> str:
    """The name of a derivative in the column of an entry."""
    return place((at[0], entry))

"""The comparison itself: what is recorded at one point, against slopes taken from values there."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from tensorgrad.autograd import fusion
from tensorgrad.core.arguments import is_whole, number, seed_of
from tensorgrad.core.backend import Array, is_floating
from tensorgrad.core.op import Op
from tensorgrad.core.state import shown
from tensorgrad.core.tensor import Tensor
from tensorgrad.errors import ArgumentError
from tensorgrad.testing.problem import Problem, flat, gradients, same
from tensorgrad.testing.replay import Replay
from tensorgrad.testing.report import PASSED, Finding, Report
from tensorgrad.testing.slopes import Line, judge, units

RTOL = 1e-6
FULL_ENTRIES = 5_000  # up to here every entry is checked by default: some tenths of a second
SOME_ENTRIES = 32
JOINT = 1e-3  # how much nearer the slope of all inputs together has to be
VERDICT = "U16"


def examine(
    caller: str, problem: Problem, order: int, mode: str | None = None, rtol: float = RTOL, seed: int | None = 0
) -> tuple[Report, Problem]:
    """The report on `problem` and, if that passes and is asked for, on its gradient; and which of the two came last."""
    if not is_whole(order) or order not in (1, 2):
        raise ArgumentError(f"{caller}: order must be 1 or 2, got {shown(order)}")
    if mode is not None and (not isinstance(mode, str) or mode not in ("full", "directional")):
        raise ArgumentError(f'{caller}: mode must be "full" or "directional", got {shown(mode)}')
    rtol, seed = number(caller, "rtol", rtol), seed_of(caller, seed)
    if mode is None:
        mode = "full" if sum(a.size for a in problem.arrays) <= FULL_ENTRIES else "directional"
    rng = np.random.default_rng(seed)
    report = Report(mode=mode, caller=caller)
    stage = problem
    for at in range(1, order + 1):
        if at == 2:
            stage = problem.second(rng)
        check = Check(stage, at, rtol, rng)
        report.findings += check.full() if mode == "full" else check.directional()
        report.evaluations += stage.evaluations
        if not report:
            break
    return report, stage


def check_op(op: Op, args: Sequence[Any], attrs: Mapping[str, Any], *, order: int = 1, seed: int = 0) -> Report:
    """The report on one use of an op, by itself: on every argument that is a floating array and not data."""
    wrt = [i for i, a in enumerate(args) if is_floating(getattr(a, "dtype", np.dtype(bool))) and not op.is_data(i)]
    with fusion.off():
        problem = Problem.of(op.name, lambda *xs: op(*xs, **attrs), tuple(args), wrt)
        return examine(op.name, problem, order, seed=seed)[0]


class Check:
    """One problem at one point: what is recorded there, and its comparison with slopes."""

    def __init__(self, problem: Problem, order: int, rtol: float, rng: np.random.Generator) -> None:
        self.problem, self.order, self.rtol = problem, order, rtol
        self.outputs, self.leaves = problem.evaluate()
        self.at = flat(self.outputs)
        self.weights = rng.normal(size=self.at.size)
        self.recorded = self.weighted(self.outputs, self.leaves)
        self.units = [units(a) for a in problem.arrays]
        self.directions = [np.asarray(rng.normal(size=u.shape) * u) for u in self.units]

    def weighted(self, outputs: list[Tensor], leaves: list[Tensor]) -> list[Array]:
        """The gradients of the weighted sum of the outputs."""
        ends = np.cumsum([t.size for t in outputs])
        parts = [w.reshape(t.shape) for t, w in zip(outputs, np.split(self.weights, ends[:-1]), strict=True)]
        return gradients(outputs, leaves, parts)

    def unfit(self) -> list[Finding]:
        """Findings for a function that cannot be compared with anything: it is not finite, or not always the same."""
        again, leaves = self.problem.evaluate()
        verdict = ""
        if not np.isfinite(self.at).all():
            verdict = "non-finite"
        elif not same(self.at, flat(again)) or not all(map(same, self.recorded, self.weighted(again, leaves))):
            verdict = "nondeterministic"
        if not verdict:
            return []
        one = np.array([verdict])
        nan = np.array([np.nan])
        return [
            Finding.of(name, a.shape, self.order, one, nan, nan, lambda at: "")
            for name, a in zip(self.problem.names, self.problem.arrays, strict=True)
        ]

    def along(self, moves: Sequence[tuple[int, Array]], weights: Array | None) -> Callable[[float], Array]:
        """e -> the outputs, or weighted sums of them, with input i moved by e times its direction, for each (i, direction)."""
        arrays = [(self.problem.arrays[i], self.problem.arrays[i].copy(), direction) for i, direction in moves]

        def line(e: float) -> Array:
            try:
                for array, before, direction in arrays:
                    array[...] = before + e * direction
                values = self.problem.values()
            except (ArithmeticError, ValueError):
                # it can be computed at the point itself, so the step has left its domain: a matrix has become singular, say
                values = np.full(self.at.size, np.nan)
            finally:
                for array, before, _ in arrays:
                    array[...] = before
            return values if weights is None else weights @ values

        return line

    def judged_again(
        self, found: tuple[Array, Array], line: Line, slope: Array, scale: Array, size: Array, rtol: float, unit: float
    ) -> tuple[Array, Array]:
        """The same, or where that is a fault, what comes of the rounding error that arises on the way to the outputs."""
        failed = ~np.isin(found[0], PASSED)
        if not failed.any() or self.rounding <= 10 * float(size[failed].min()):
            return found
        again = judge(line, slope, scale, np.maximum(size, self.rounding), rtol, unit)
        return np.where(failed, again[0], found[0]), np.where(failed, again[1], found[1])

    @cached_property
    def replay(self) -> Replay | None:
        return Replay.of(self.outputs, self.leaves, self.at)

    @cached_property
    def rounding(self) -> float:
        """The size of number whose rounding error the outputs have: more than their own where larger ones cancel on the way.

        Found by disturbing every recorded result by a relative 1e-12 and looking at what that makes of the outputs (the idea of
        stochastic arithmetic: Vignes, A stochastic arithmetic for reliable scientific computation, 1993). A comparison that
        tips over would make that as large as can be: it is at most a thousand times the largest number.
        """
        if self.replay is None:
            return 0.0
        largest = max(float(np.abs(a).max(initial=0.0)) for a in self.replay.known.values() if is_floating(a.dtype))
        return min(self.replay.disturbed(1e-12) / 1e-12, 1e3 * largest)

    def directional(self) -> list[Finding]:
        """The slope of the weighted sum of the outputs along one direction of all inputs; if that is not right, of each."""
        if findings := self.unfit():
            return findings
        slopes = [float((g * v).sum()) for g, v in zip(self.recorded, self.directions, strict=True)]
        inputs = range(len(slopes))
        if len(slopes) > 1:
            # an input whose share of the slope is small should not hide among the others
            least = min((abs(s) for s in slopes if s), default=0.0)
            shares = [min(1.0, max(least / abs(s), 0.01)) if s else 1.0 for s in slopes]
            together = self.direction(inputs, shares, f"all {len(slopes)} inputs", (), JOINT * self.rtol)
            if together.verdict == "ok":
                return [together]
        names, arrays = self.problem.names, self.problem.arrays
        alone = [self.direction([i], [1.0], names[i], arrays[i].shape, self.rtol) for i in inputs]
        return [found if found.verdict in PASSED else self.some_entries(i, found) for i, found in enumerate(alone)]

    def direction(
        self, inputs: Sequence[int], shares: Sequence[float], name: str, shape: tuple[int, ...], rtol: float
    ) -> Finding:
        """The slope along the directions of some inputs, each times its share."""
        moves = [(i, share * self.directions[i]) for i, share in zip(inputs, shares, strict=True)]
        parts = [self.recorded[i] * v for i, v in moves]
        slope = np.array([sum(float(p.sum()) for p in parts)])
        scale = np.array(
            [math.sqrt(sum(float((g * v * g * v).sum()) for g, v in zip(self.recorded, self.directions, strict=True)))]
        )
        size = np.array([np.abs(self.weights * self.at).sum()])
        unit = max(float(self.units[i].max(initial=0.0)) for i in inputs) or 1.0
        line = self.along(moves, self.weights[None])
        verdicts, numerical = judge(line, slope, scale, size, rtol, unit)
        if verdicts[0] == "precision" and self.replay is not None and (exact := self.replay.along(moves)) is not None:
            # the values do not contradict it, but are too coarse to confirm it: the complex step is not
            sharp = np.array([self.weights @ exact])
            if abs(sharp - slope)[0] <= rtol * max(abs(sharp[0]), abs(slope[0])) + 1e-9 * scale[0]:
                verdicts, numerical = np.array(["ok"], VERDICT), sharp
        verdicts, numerical = self.judged_again((verdicts, numerical), line, slope, scale, size, rtol, unit)
        return Finding.of(name, shape, self.order, verdicts, slope, numerical, lambda at: "along a direction")

    def some_entries(self, i: int, along: Finding) -> Finding:
        """A second look at an input whose slope along a direction is not right: some of its entries, one at a time.

        Where several kinks meet, the slopes along a direction do not bound what is right; along one entry they do.
        """
        array, weights = self.problem.arrays[i], self.weights[None]
        columns = np.random.default_rng(0).permutation(array.size)[:SOME_ENTRIES]
        recorded = self.recorded[i].reshape(1, -1)
        moved = [np.abs(g * u).max(initial=0.0) for g, u in zip(self.recorded, self.units, strict=True)]
        verdicts, numerical = self.entries(i, recorded, columns, np.array([max(moved)]), weights)
        if not set(verdicts[0, columns]) - {"ok"}:
            return along  # the fault is in other entries
        index = [tuple(int(n) for n in np.unravel_index(j, array.shape)) for j in columns]
        return Finding.of(
            along.name, array.shape, self.order, verdicts[:, columns], recorded[:, columns], numerical[:, columns],
            lambda at: f"weighted sum by {list(index[at[1]]) or 'x'}",
        )  # fmt: skip

    def full(self) -> list[Finding]:
        """Every entry of the Jacobian: by the complex step where that holds along a direction, else by differences."""
        if findings := self.unfit():
            return findings
        along = self.directional()
        agreed = all(line.verdict == "ok" for line in along)
        jacobians = self.jacobians()
        # how much the outputs move with any entry of any input: what is nothing beside that is nothing
        moved = [np.abs(j * u.ravel()).max(initial=0.0) for j, u in zip(jacobians, self.units, strict=True)]
        scale = np.full(self.at.size, max(moved))
        results: list[tuple[Array, Array]] = []
        for i, jacobian in enumerate(jacobians):
            exact = self.replay.jacobian(i) if self.replay is not None and agreed else None
            if exact is None:
                results.append(self.entries(i, jacobian, range(jacobian.shape[1]), scale))
                continue
            with np.errstate(all="ignore"):
                largest = np.abs(jacobian).max(axis=1, initial=0.0, keepdims=True)
                agree = np.abs(jacobian - exact) <= self.rtol * np.maximum(np.abs(jacobian), np.abs(exact)) + 1e-9 * largest
            verdicts = np.full(jacobian.shape, "ok", VERDICT)
            if columns := np.flatnonzero(~agree.all(axis=0)).tolist():
                closer, numerical = self.entries(i, jacobian, columns, scale)
                verdicts[:, columns], exact[:, columns] = closer[:, columns], numerical[:, columns]
            results.append((verdicts, exact))
        self.together(jacobians, results)
        findings = [
            Finding.of(name, array.shape, self.order, verdicts, jacobian, numerical, self.place(array.shape))
            for name, array, jacobian, (verdicts, numerical) in zip(
                self.problem.names, self.problem.arrays, jacobians, results, strict=True
            )
        ]
        if not agreed and all(f.verdict == "ok" for f in findings):
            return along  # the rows are all right, but their sum, as one pass computes it, is not: a rule not linear in g
        return findings

    def entries(
        self, i: int, recorded: Array, columns: Iterable[int], scale: Array, weights: Array | None = None
    ) -> tuple[Array, Array]:
        """Verdicts and numerical derivatives of the outputs, or of weighted sums of them, by some entries of input i."""
        array = self.problem.arrays[i]
        step = self.units[i].ravel()
        values = np.abs(self.at) if weights is None else np.abs(weights) @ np.abs(self.at)
        verdicts, numerical = np.full(recorded.shape, "ok", VERDICT), np.full(recorded.shape, np.nan)
        for j in columns:
            direction = np.zeros(array.size)
            direction[j] = step[j]
            line = self.along([(i, direction.reshape(array.shape))], weights)
            slope, size, unit = recorded[:, j] * step[j], values + scale, float(step[j])
            found = judge(line, slope, scale, size, self.rtol, unit)
            verdicts[:, j], slopes = self.judged_again(found, line, slope, scale, size, self.rtol, unit)
            numerical[:, j] = slopes / step[j]
        return verdicts, numerical

    def together(self, jacobians: list[Array], results: list[tuple[Array, Array]]) -> None:
        """Move all entries that sit at a kink at once: of tied entries a rule may prefer any, but their sum is given."""
        kinks = [(verdicts == "kink").any(axis=0) for verdicts, _ in results]
        if sum(int(k.sum()) for k in kinks) < 2:
            return
        moves = [(i, k.reshape(a.shape)) for i, (k, a) in enumerate(zip(kinks, self.problem.arrays, strict=True))]
        slope = sum((j[:, k].sum(axis=1) for j, k in zip(jacobians, kinks, strict=True)), np.zeros(self.at.size))
        size = np.abs(self.at) + np.abs(slope)
        verdicts, _ = judge(self.along(moves, None), slope, np.abs(slope), size, self.rtol)
        for kink, (found, _) in zip(kinks, results, strict=True):
            found[(found == "kink") & kink & (verdicts == "wrong")[:, None]] = "wrong"

    def jacobians(self) -> list[Array]:
        """For each input the recorded derivatives of every output element (rows) by every entry (columns)."""
        found = [np.zeros((self.at.size, a.size)) for a in self.problem.arrays]
        row = 0
        for t in self.outputs:
            for k in range(t.size):
                one = np.zeros(t.size)
                one[k] = 1
                for jacobian, g in zip(found, gradients([t], self.leaves, [one.reshape(t.shape)]), strict=True):
                    jacobian[row] = g.ravel()
                row += 1
        return found

    def place(self, shape: tuple[int, ...]) -> Callable[[Any], str]:
        """Words for the place of one derivative: "y[0, 1] by [2]"."""
        owners = [(i, k) for i, t in enumerate(self.outputs) for k in range(t.size)]

        def words(at: Any) -> str:
            which, k = owners[at[0]]
            output = self.outputs[which]
            index = [int(n) for n in np.unravel_index(k, output.shape)]
            entry = [int(n) for n in np.unravel_index(at[1], shape)]
            y = "y" if len(self.outputs) == 1 else f"y{which}"
            return f"{y}{index or ''} by {entry or 'x'}"

        return words

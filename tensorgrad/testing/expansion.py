"""The Taylor expansion of a problem at a point: remainders along random directions, on both sides, and their verdicts."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from tensorgrad.autograd.walk import grad
from tensorgrad.core.backend import Array, is_floating
from tensorgrad.core.graph import Graph
from tensorgrad.core.lazy import cached_property
from tensorgrad.core.node import Node
from tensorgrad.core.state import switched
from tensorgrad.testing.problem import Problem, flat, graph_of, same
from tensorgrad.testing.remainders import (
    COARSE,
    STEPS,
    SURE,
    Judgement,
    Remainders,
    Scale,
    judge,
    quantum,
    scatter,
    without_next,
)

EPS = float(np.finfo(np.float64).eps)
NEARBY = 2.0**-44  # distance of the points that show the rounding error
EQUAL = 0.02  # relative difference up to which errors on both sides count as equal
PARTS = 64  # maximum number of groups of entries when searching for kinks

Move: TypeAlias = list[tuple[int, Array]]  # (index of an input, direction)


class Expansion:
    """A problem at its point: values, gradients of a weighted sum of each output, rounding errors."""

    def __init__(self, problem: Problem, seed: int | None) -> None:
        self.problem, self.rng = problem, np.random.default_rng(seed)
        self.outputs, self.leaves = problem.evaluate()
        self.at = flat(self.outputs)
        self.weights = [self.signed(t.shape) for t in self.outputs]
        self.gradients = [self.gradient(k) for k in range(len(self.outputs))]

    def signed(self, shape: tuple[int, ...]) -> Array:
        """Numbers from 0.5 to 1 with random signs: none is negligible, and they do not depend on the gradient under test."""
        return np.asarray(self.rng.uniform(0.5, 1, shape) * self.rng.choice([-1.0, 1.0], shape))

    def direction(self, x: Array, mask: Array) -> Array:
        """A direction for the masked entries, each as large as the entry; for 0, as the smallest other one, at most 1."""
        least = min(1.0, float(np.abs(x[x != 0]).min(initial=np.inf)))
        return np.where(mask, self.signed(x.shape) * np.where(x == 0, least, np.abs(x)), 0.0)

    def gradient(self, k: int) -> list[Array]:
        """The recorded gradients of the weighted sum of output k."""
        return self.derivatives(self.outputs[k], self.leaves, self.weights[k])

    def curvatures(self, k: int, moves: Move) -> list[Array]:
        """The Hessian of the weighted sum of output k, times a direction."""
        outputs, leaves = self.problem.evaluate()
        if outputs[k].requires_grad:
            with np.errstate(all="ignore"), switched(recording=True):
                gradients = grad(outputs[k], leaves, self.weights[k], create_graph=True, allow_unused=True)
                parts = [(gradients[i] * v).sum() for i, v in moves if gradients[i] is not None]
            if parts:
                return self.derivatives(sum(parts[1:], parts[0]), leaves, None)
        return [np.zeros(x.shape) for x in leaves]

    def derivatives(self, output: Any, leaves: list[Any], weights: Any) -> list[Array]:
        gradients: Any = [None] * len(leaves)
        if output.requires_grad:
            with np.errstate(all="ignore"):
                gradients = grad(output, leaves, weights, retain_graph=True, allow_unused=True)
        return [np.zeros(x.shape) if g is None else g._data for g, x in zip(gradients, leaves, strict=True)]

    def part(self, k: int) -> slice:
        """The slice of output k among all values."""
        before = sum(t.size for t in self.outputs[:k])
        return slice(before, before + self.outputs[k].size)

    def moved(self, moves: Move, h: float) -> Array:
        """The values of all outputs at moved inputs; NaN where they cannot be computed."""
        before = [self.problem.arrays[i].copy() for i, _ in moves]
        try:
            for i, direction in moves:
                self.problem.arrays[i][...] += h * direction
            return flat(self.problem.evaluate()[0])
        except (ArithmeticError, ValueError):  # such as a singular matrix
            return np.full(self.at.size, np.nan)
        finally:
            for (i, _), array in zip(moves, before, strict=True):
                self.problem.arrays[i][...] = array

    @cached_property
    def noise(self) -> Array:
        """The rounding error of each value: of the value itself, of larger intermediates, and as observed nearby."""
        estimates = [2 * EPS * np.abs(self.at)]
        graph = graph_of(self.outputs)
        if graph is not None and all(isinstance(t.node, Node) for t in self.outputs):
            estimates.append(self.carried(graph))
        everything = [(i, self.direction(a, np.ones(a.shape, bool))) for i, a in enumerate(self.problem.arrays)]
        estimates.append(
            scatter(np.stack([self.moved(everything, NEARBY * n) for n in range(1, 8)]))
        )  # x itself may be at a jump
        return np.asarray(np.max(estimates, axis=0))

    def carried(self, graph: Graph) -> Array:
        """The effect on the outputs of a relative rounding error in every result (stochastic arithmetic: Vignes, A stochastic
        arithmetic for reliable scientific computation, Mathematics and Computers in Simulation 35, 1993).
        """
        rng, size = np.random.default_rng(0), 1e-10

        def change(a: Array) -> Array:
            return a * (1 + size * rng.choice([-1.0, 1.0], a.shape)) if is_floating(a.dtype) else a

        with np.errstate(all="ignore"):
            exact = np.concatenate([np.ravel(a) for a in self.run(graph, lambda a: a)])
            changes = [np.abs(np.concatenate([np.ravel(a) for a in self.run(graph, change)]) - exact) for _ in range(2)]
        return np.nan_to_num(np.max(changes, axis=0) * (EPS / size), nan=0.0, posinf=0.0)

    def run(self, graph: Graph, change: Any) -> list[Array]:
        values = graph.values(change=change)
        return [values[t.node] for t in self.outputs]

    def findings(self, order: int) -> list[Remainders]:
        """For each input, its zeros separately, and for all inputs together; for each output; up to `order`."""
        outputs, leaves = self.problem.evaluate()
        finite = np.isfinite(self.at).all()
        same_gradients = all(
            same(a, b)
            for k, results in enumerate(self.gradients)
            for a, b in zip(results, self.derivatives(outputs[k], leaves, self.weights[k]), strict=True)
        )
        if not finite or not same(self.at, flat(outputs)) or not same_gradients:
            return [Remainders("f", 0, 1, "nondeterministic" if finite else "non-finite", np.nan, np.nan)]
        moves: list[tuple[str, Move]] = []
        for i, (name, x) in enumerate(zip(self.problem.names, self.problem.arrays, strict=True)):
            zeros = x == 0
            parts = [(name, ~zeros), (f"{name}, zeros" if not zeros.all() else name, zeros)]
            moves += [(label, [(i, self.direction(x, mask))]) for label, mask in parts if mask.any()]
        if len(moves) > 1:
            moves.append(("all", [(i, self.direction(x, np.ones(x.shape, bool))) for i, x in enumerate(self.problem.arrays)]))
        results: list[Remainders] = []
        for name, move in moves:
            sides = self.sides(move)
            for k in range(len(self.outputs)):
                for at in range(1, order + 1):
                    results.append(self.judged(name, sides, k, at))
                    if results[-1].verdict != "ok":
                        break
        return results

    def sides(self, moves: Move) -> tuple[Side, Side]:
        return Side(self, moves), Side(self, [(i, -v) for i, v in moves])

    def judged(self, name: str, sides: tuple[Side, Side], k: int, order: int) -> Remainders:
        pair = TwoSided(self, sides, k, order)
        verdict = pair.verdict
        if verdict == "kink" or (verdict == "wrong" and not self.confirmed(pair)):
            verdict = self.judge_groups(pair)
        return Remainders(
            name, k, order, verdict, pair.term, pair.decisive.error, STEPS, tuple(map(np.abs, pair.series)), pair.doubt
        )  # fmt: skip

    def halves(self, pair: TwoSided) -> list[TwoSided]:
        return [TwoSided(self, self.sides(move), pair.k, pair.order) for move in pair.halves()]

    def confirmed(self, pair: TwoSided, depth: int = 2) -> bool:
        """Whether both sides have the same error also for some of the entries, and some of those.

        Two kinks, one on each side, may by chance have the same effect, which looks like a wrong derivative.
        """
        halves = self.halves(pair) if depth else []
        return not halves or any(half.verdict == "wrong" and self.confirmed(half, depth - 1) for half in halves)

    def judge_groups(self, pair: TwoSided) -> str:
        """The verdict at a kink of f: for ever smaller groups of entries, so that entries away from kinks are judged alone, and
        several kinks are not judged by their sum, which is not bounded by their bounds.
        """
        groups = [pair]
        for _ in range(PARTS):
            if not groups:
                break
            group = groups.pop(0)
            halves = self.halves(group)
            if not halves and not group.inside:
                return "precision"  # or several kinks in one entry, which values cannot tell apart
            if any(half.verdict == "wrong" and self.confirmed(half) for half in halves):
                return "wrong"
            groups += [half for half in halves if half.verdict in ("kink", "wrong")]
        return "kink" if all(group.inside for group in groups) else "precision"


class Side:
    """The values of all outputs at every step along a direction."""

    def __init__(self, at: Expansion, moves: Move) -> None:
        self.at, self.moves = at, moves

    @cached_property
    def values(self) -> Array:
        return np.stack([self.at.moved(self.moves, float(h)) for h in STEPS])

    def shifts(self, gradients: list[Array]) -> Array:
        """g times the actual change of x at each step: h v, up to the rounding of x + h v."""
        total = np.zeros(len(STEPS))
        with np.errstate(all="ignore"):
            for i, direction in self.moves:
                x = self.at.problem.arrays[i]
                total += [float((gradients[i] * ((x + h * direction) - x)).sum()) for h in STEPS]
        return total

    def changes(self, k: int) -> tuple[Array, bool]:
        """The change of output k from x, and whether it jumps there; then the change from the shortest step."""
        part = self.at.part(k)
        values = self.values[:, part]
        with np.errstate(all="ignore"):
            changes = values - self.at.at[part]
            last, middle = np.abs(changes[-1]), np.abs(changes[len(STEPS) // 2])
            jumps = bool(((last > 1e3 * self.at.noise[part]) & (last >= 0.5 * middle)).any())
        return (values - values[-1] if jumps else changes), jumps


class TwoSided:
    """The remainders of one output along a direction and its opposite.

    term      the tested derivative, as recorded
    verdict   "ok", "wrong", "precision", "non-finite", or "kink" if the sides differ and neither has the recorded derivative
    decisive  the judgement of the decisive side
    series    its signed remainders of every order;  doubt: their rounding errors
    inside    whether the recorded derivative lies between the one-sided ones
    """

    def __init__(self, at: Expansion, sides: tuple[Side, Side], k: int, order: int) -> None:
        self.at, self.sides, self.k, self.order = at, sides, k, order
        self.moves = sides[0].moves
        parts = [[at.gradients[k][i] * v for i, v in self.moves]]
        if order == 2:
            curvatures = at.curvatures(k, self.moves)
            parts.append([curvatures[i] * v for i, v in self.moves])
        with np.errstate(all="ignore"):
            terms = [float(sum(p.sum() for p in each)) for each in parts]
            # the summands of the term; a gradient below the smallest normal number has lost digits
            size = float(sum(np.abs(p).sum() for p in parts[-1]))
            lost = float(np.finfo(np.float64).tiny) * float(sum(np.abs(v).sum() for _, v in self.moves))
            slopes = float(sum(np.abs(p).sum() for p in parts[0]))
        self.term, self.inside = terms[-1], False
        self.remainders_by_side = [self.remainders(side, terms) for side in sides]
        if not np.isfinite(terms).all():
            self.judgements = [Judgement("precision", np.nan, 0, np.zeros(0))] * 2
            self.verdict, first = "non-finite", 0
        else:
            scale = Scale(self.term, 1e-12 * size + lost, COARSE**2 * slopes if order == 2 else 0.0)
            self.judgements = [judge(series, doubt, scale) for series, doubt, _ in self.remainders_by_side]
            self.verdict, first = self.combined_verdict()
        self.decisive = self.judgements[first]
        self.series, self.doubt, _ = self.remainders_by_side[first]

    def remainders(self, side: Side, terms: list[float]) -> tuple[list[Array], Array, bool]:
        """At each step the signed remainders of every order and their rounding error; and whether f jumps on this side."""
        weights = self.at.weights[self.k].ravel()
        changes, jumps = side.changes(self.k)
        with np.errstate(all="ignore"):
            series = [changes @ weights]
            shifts = side.shifts(self.at.gradients[self.k])
            series.append(series[0] - (shifts - shifts[-1] if jumps else shifts))
            if len(terms) == 2:
                series.append(series[1] - STEPS**2 * terms[1] / 2)
            values = side.values[:, self.at.part(self.k)]
            noise = np.maximum(self.at.noise[self.at.part(self.k)], quantum(changes))
            doubt = np.maximum(noise, 2 * EPS * np.abs(values)) @ np.abs(weights)
        if jumps:  # the last steps are close to the reference point of the others
            for r in series:
                r[-3:] = np.nan
        return series, doubt, jumps

    def combined_verdict(self) -> tuple[str, int]:
        """The verdict from both sides, and the index of the decisive one."""
        (right, left), jumps = self.judgements, [jump for *_, jump in self.remainders_by_side]
        reached = [np.isfinite(series[0]).any() for series, *_ in self.remainders_by_side]
        for i, side in enumerate(self.judgements):
            if side.verdict == "ok":
                other = self.judgements[1 - i]
                return ("kink" if jumps[i] and other.verdict != "ok" else "ok"), i
        if not all(reached):  # the domain ends here
            return (self.judgements[reached.index(True)].verdict, reached.index(True)) if any(reached) else ("non-finite", 0)
        if right.verdict == left.verdict == "wrong":
            self.inside = self.between()
            sign = -1 if self.order == 1 else 1
            with np.errstate(all="ignore"):
                difference = np.abs(right.errors - sign * left.errors) / np.abs(right.error)
            near = bool((difference[max(right.level - 2, 0) : right.level + 3] <= EQUAL).any())
            return ("wrong" if near else "kink"), 0
        return "precision", 0 if right.verdict == "precision" else 1

    def between(self) -> bool:
        """Whether the recorded derivative lies between the one-sided ones. For a gradient each value is bounded separately, and
        the weighted bounds are summed: this also bounds sums of values that bend up and values that bend down.
        """
        doubt = max(
            float(d[f.level]) / float(STEPS[f.level]) ** self.order
            for (_, d, _), f in zip(self.remainders_by_side, self.judgements, strict=True)
        )
        if self.order == 2:
            ends = np.array([[self.term + f.error] for f in self.judgements])
        else:
            weights = self.at.weights[self.k].ravel()
            slopes = [
                sign * without_next(side.changes(self.k)[0] / STEPS[:, None])[f.level]
                for sign, side, f in zip((1, -1), self.sides, self.judgements, strict=True)
            ]
            ends = np.stack(slopes) * weights
        slack = SURE * doubt + 1e-6 * float(np.abs(ends).sum())
        return bool(ends.min(axis=0).sum() - slack <= self.term <= ends.max(axis=0).sum() + slack)

    def halves(self) -> list[Move]:
        """The direction split into two halves of its entries; empty if it has one entry."""
        entries = [(at, j) for at, (_, v) in enumerate(self.moves) for j in np.flatnonzero(v)]
        if len(entries) < 2:
            return []
        middle = len(entries) // 2
        moves = []
        for chosen in (entries[:middle], entries[middle:]):
            parts = [np.zeros(v.shape) for _, v in self.moves]
            for at, j in chosen:
                parts[at].flat[j] = self.moves[at][1].flat[j]
            moves.append([(i, p) for (i, _), p in zip(self.moves, parts, strict=True) if p.any()])
        return moves

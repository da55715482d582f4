"""Compares recorded derivatives with those from other methods, and explains differences."""

from __future__ import annotations

import numpy as np

from tensorgrad.core.backend import Array
from tensorgrad.testing.derivatives import NEGLIGIBLE, ROUNDED, largest
from tensorgrad.testing.exact import NoDerivative
from tensorgrad.testing.kinks import Kinks
from tensorgrad.testing.point import H
from tensorgrad.testing.slopes import EPS, KINK, WRONG
from tensorgrad.testing.values import SAMPLE
from tensorgrad.testing.view import View

FEW = 3  # number of columns that represent the others


class Comparison(Kinks):
    """Computes the verdicts on derivatives, combining all methods."""

    def verdicts(self, view: View, recorded: Array | None = None, marked: bool = True) -> tuple[Array, Array, Array]:
        """Codes, recorded and found derivatives, (rows, columns) each; `marked`: report agreement at kinks as "kink"."""
        self.entry = None
        if recorded is None:
            recorded = view.recorded(self.point.base)
        try:
            found, noise = self.derivatives(view)
        except NoDerivative:
            return self.by_values(view, recorded)
        codes = self.compared(recorded, found, noise)
        if (codes == WRONG).any():
            self.settle(view, recorded, found, codes)
        elif marked and self.kinks:
            self.mark(view, recorded, found, codes)
        return codes, recorded, found

    def settle(self, view: View, recorded: Array, found: Array, codes: Array) -> None:
        """Decide differences: each is wrong, unless it is at a kink or due to rounding. Changes found and codes in place."""
        most = largest(recorded, found)
        with np.errstate(all="ignore"):
            tiny = np.abs(recorded - found) <= NEGLIGIBLE * most  # cancellation, which no two programs round alike
        self.rounded(view, codes, recorded, found, tiny, most)
        columns = np.flatnonzero((codes == WRONG).any(0))
        if not len(columns) or self.contradicted(view, recorded, found, codes, columns):
            return
        kinks = np.zeros(codes.shape, bool)
        # a user's ops away from kinks have one right value; the package's ops return the found one
        chosen = not self.point.is_proved and self.point.is_chosen and not self.point.moving
        if not chosen and (self.has_kinks or self.is_limit(view, recorded, found, codes, columns)):
            if view.directions is not None:
                self.around(view, recorded, found, codes, columns)
                return
            for k in columns:
                kinks[:, k] = self.beside(view, int(k), recorded, found, codes)
            if (codes == KINK).any():
                self.disputed = True
                self.mark(view, recorded, found, codes)
                if self.point.moving:
                    self.in_a_line(view, recorded, found, codes)
        self.rounded(view, codes, recorded, found, ~tiny & ~kinks, most)

    def contradicted(self, view: View, recorded: Array, found: Array, codes: Array, columns: Array) -> bool:
        """Whether values support the found and contradict the recorded derivatives, in the columns that differ most.

        Uses central differences with two steps, if one-sided differences exclude a kink: a few calls of the function prove a
        fault.
        """
        with np.errstate(all="ignore"):
            error = np.where(codes == WRONG, np.abs(recorded - found), 0.0)[:, columns].max(0)
        for k in columns[np.argsort(-error, kind="stable")[:FEW]]:
            moves = {view.i: view.direction(int(k))}
            h = H * self.point.scale(moves)
            here = view.of(self.point.base.at)
            up, down, near, below = (view.of(self.point.values(moves, e)) for e in (h, -h, h / 2, -h / 2))
            with np.errstate(all="ignore"):
                slope = (8 * (near - below) - (up - down)) / (6 * h)
                jump = np.abs(4 * (near - 2 * here + below) - (up - 2 * here + down)) / h
                size = np.maximum(view.sizes(self.point.base.at), self.point.rounding)
                noise = 8 * EPS * np.maximum(size, np.maximum(np.abs(up), np.abs(down))) / h
                gap = np.abs(recorded[:, k] - found[:, k])
                sure = (np.abs(slope - found[:, k]) <= gap / 30) & (jump <= gap / 10) & (noise <= gap / 30)
                worst = (codes[:, k] == WRONG) & (gap >= gap[codes[:, k] == WRONG].max())
                slight = (gap[worst] < 1e-3 * np.maximum(np.abs(recorded[:, k]), np.abs(found[:, k]))[worst]).any()
            if not sure[worst].all():
                return False
            if slight:  # may be the rounding error of the recorded one
                one = view.only([int(k)])
                noise = self.disturbed(one, recorded[:, [k]], found[:, [k]])[:, 0]
                if (gap[worst] <= ROUNDED * noise[worst]).any():
                    return False
        return True

    def around(self, view: View, recorded: Array, found: Array, codes: Array, columns: Array) -> None:
        """For a direction of many entries: keep entries at kinks fixed, and test them one at a time."""
        assert view.directions is not None
        flagged = self.flagged(view.i)
        for k in columns:
            direction = view.directions[k]
            smooth = View(view.i, view.shape, view.outputs, view.weights, [np.where(flagged, 0.0, direction)])
            try:
                one = smooth.recorded(self.point.base), *self.derivatives(smooth)
                verdicts = self.compared(*one)
            except NoDerivative:
                verdicts, *rest = self.by_values(smooth, smooth.recorded(self.point.base))
                one = (rest[0], rest[1], np.zeros(verdicts.shape))
            self.rounded(smooth, verdicts, one[0], one[1], np.ones(verdicts.shape, bool), largest(recorded, found))
            at_kinks = np.flatnonzero(flagged & (direction != 0))
            if (verdicts > KINK).any() or not len(at_kinks):
                recorded[:, [k]], found[:, [k]], codes[:, [k]] = one[0], one[1], verdicts
                continue
            self.one_by_one(view, int(k), at_kinks, recorded, found, codes)

    def one_by_one(self, view: View, k: int, entries: Array, recorded: Array, found: Array, codes: Array) -> None:
        """Judge entries at kinks separately, or a sample if there are many; column k gets the worst verdict."""
        chosen = self.rng.permutation(entries)[: 16 * SAMPLE]
        each = view.each_of([int(entry) for entry in chosen])
        mine = each.recorded(self.point.base)
        try:
            other, noise = self.derivatives(each)
            verdicts = self.compared(mine, other, noise)
            first = np.argsort(~(verdicts == WRONG).any(0), kind="stable")[:SAMPLE]  # differing ones first
            chosen, each = chosen[first], each.only(first.tolist())
            mine, other, verdicts = mine[:, first], other[:, first], verdicts[:, first]
            for n in np.flatnonzero((verdicts == WRONG).any(0)):
                self.beside(each, int(n), mine, other, verdicts)
            self.rounded(each, verdicts, mine, other, np.ones(verdicts.shape, bool), largest(mine, other))
            self.together([(each, mine, other, verdicts)])
        except NoDerivative:
            few = list(range(min(SAMPLE // 2, len(chosen))))
            chosen, each, mine = chosen[few], each.only(few), mine[:, few]
            verdicts, mine, other = self.by_values(each, mine)
        worst = np.unravel_index(int(verdicts.argmax()), verdicts.shape)
        codes[codes[:, k] == WRONG, k] = max(int(verdicts[worst]), KINK)
        if verdicts[worst] == WRONG:
            recorded[:, k], found[:, k] = mine[worst], other[worst]
            self.entry = int(chosen[worst[1]])

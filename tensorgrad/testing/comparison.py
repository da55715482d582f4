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
        """Codes, recorded and reference derivatives, (rows, columns) each; `marked`: report agreement at kinks as "kink"."""
        self.entry = None
        if recorded is None:
            recorded = view.recorded(self.point.base)
        try:
            reference, noise = self.derivatives(view)
        except NoDerivative:
            return self.by_values(view, recorded)
        codes = self.compared(recorded, reference, noise)
        if (codes == WRONG).any():
            self.settle(view, recorded, reference, codes)
        elif marked and self.kinks:
            self.mark(view, recorded, reference, codes)
        return codes, recorded, reference

    def settle(self, view: View, recorded: Array, reference: Array, codes: Array) -> None:
        """Decide differences: each is wrong, unless it is at a kink or due to rounding. Changes reference and codes."""
        largest_gradient = largest(recorded, reference)
        with np.errstate(all="ignore"):
            tiny = (
                np.abs(recorded - reference) <= NEGLIGIBLE * largest_gradient
            )  # cancellation, which no two programs round alike
        self.rounded(view, codes, recorded, reference, tiny, largest_gradient)
        columns = np.flatnonzero((codes == WRONG).any(0))
        if not len(columns) or self.contradicted(view, recorded, reference, codes, columns):
            return
        kinks = np.zeros(codes.shape, bool)
        # a user's ops away from kinks have one right value; the package's ops return the reference
        chosen = not self.point.only_package_ops and self.point.convention_known and not self.point.moving
        if not chosen and (self.has_kinks or self.is_limit(view, recorded, reference, codes, columns)):
            if view.directions is not None:
                self.judge_without_kinks(view, recorded, reference, codes, columns)
                return
            for k in columns:
                kinks[:, k] = self.examine_sides(view, int(k), recorded, reference, codes)
            if (codes == KINK).any():
                self.disputed = True
                self.mark(view, recorded, reference, codes)
                if self.point.moving:
                    self.move_together(view, recorded, reference, codes)
        self.rounded(view, codes, recorded, reference, ~tiny & ~kinks, largest_gradient)

    def contradicted(self, view: View, recorded: Array, reference: Array, codes: Array, columns: Array) -> bool:
        """Whether values support the reference and contradict the recorded derivatives, in the columns that differ most.

        Uses central differences with two steps, if one-sided differences exclude a kink: a few calls of the function prove a
        fault.
        """
        with np.errstate(all="ignore"):
            error = np.where(codes == WRONG, np.abs(recorded - reference), 0.0)[:, columns].max(0)
        for k in columns[np.argsort(-error, kind="stable")[:FEW]]:
            moves = {view.i: view.direction(int(k))}
            h = H * self.point.scale(moves)
            here = view.of(self.point.base.at)
            up, down, half_up, half_down = (view.of(self.point.values(moves, e)) for e in (h, -h, h / 2, -h / 2))
            with np.errstate(all="ignore"):
                slope = (8 * (half_up - half_down) - (up - down)) / (6 * h)
                jump = np.abs(4 * (half_up - 2 * here + half_down) - (up - 2 * here + down)) / h
                size = np.maximum(view.sizes(self.point.base.at), self.point.rounding)
                noise = 8 * EPS * np.maximum(size, np.maximum(np.abs(up), np.abs(down))) / h
                gap = np.abs(recorded[:, k] - reference[:, k])
                certain = (np.abs(slope - reference[:, k]) <= gap / 30) & (jump <= gap / 10) & (noise <= gap / 30)
                worst = (codes[:, k] == WRONG) & (gap >= gap[codes[:, k] == WRONG].max())
                is_small = (gap[worst] < 1e-3 * np.maximum(np.abs(recorded[:, k]), np.abs(reference[:, k]))[worst]).any()
            if not certain[worst].all():
                return False
            if is_small:  # may be the rounding error of the recorded one
                column = view.only([int(k)])
                noise = self.perturbed(column, recorded[:, [k]], reference[:, [k]])[:, 0]
                if (gap[worst] <= ROUNDED * noise[worst]).any():
                    return False
        return True

    def judge_without_kinks(self, view: View, recorded: Array, reference: Array, codes: Array, columns: Array) -> None:
        """For a direction of many entries: keep entries at kinks fixed, and test them one at a time."""
        assert view.directions is not None
        flagged = self.flagged(view.i)
        for k in columns:
            direction = view.directions[k]
            smooth = View(view.i, view.shape, view.outputs, view.weights, [np.where(flagged, 0.0, direction)])
            try:
                numbers = smooth.recorded(self.point.base), *self.derivatives(smooth)
                verdicts = self.compared(*numbers)
            except NoDerivative:
                verdicts, *rest = self.by_values(smooth, smooth.recorded(self.point.base))
                numbers = (rest[0], rest[1], np.zeros(verdicts.shape))
            self.rounded(smooth, verdicts, numbers[0], numbers[1], np.ones(verdicts.shape, bool), largest(recorded, reference))
            at_kinks = np.flatnonzero(flagged & (direction != 0))
            if (verdicts > KINK).any() or not len(at_kinks):
                recorded[:, [k]], reference[:, [k]], codes[:, [k]] = numbers[0], numbers[1], verdicts
                continue
            self.one_by_one(view, int(k), at_kinks, recorded, reference, codes)

    def one_by_one(self, view: View, k: int, entries: Array, recorded: Array, reference: Array, codes: Array) -> None:
        """Judge entries at kinks separately, or a sample if there are many; column k gets the worst verdict."""
        chosen = self.rng.permutation(entries)[: 16 * SAMPLE]
        entries_view = view.each_of([int(entry) for entry in chosen])
        entry_recorded = entries_view.recorded(self.point.base)
        try:
            entry_reference, noise = self.derivatives(entries_view)
            verdicts = self.compared(entry_recorded, entry_reference, noise)
            first = np.argsort(~(verdicts == WRONG).any(0), kind="stable")[:SAMPLE]  # differing ones first
            chosen, entries_view = chosen[first], entries_view.only(first.tolist())
            entry_recorded, entry_reference, verdicts = entry_recorded[:, first], entry_reference[:, first], verdicts[:, first]
            for n in np.flatnonzero((verdicts == WRONG).any(0)):
                self.examine_sides(entries_view, int(n), entry_recorded, entry_reference, verdicts)
            self.rounded(
                entries_view,
                verdicts,
                entry_recorded,
                entry_reference,
                np.ones(verdicts.shape, bool),
                largest(entry_recorded, entry_reference),
            )
            self.judge_together([(entries_view, entry_recorded, entry_reference, verdicts)])
        except NoDerivative:
            few = list(range(min(SAMPLE // 2, len(chosen))))
            chosen, entries_view, entry_recorded = chosen[few], entries_view.only(few), entry_recorded[:, few]
            verdicts, entry_recorded, entry_reference = self.by_values(entries_view, entry_recorded)
        worst = np.unravel_index(int(verdicts.argmax()), verdicts.shape)
        codes[codes[:, k] == WRONG, k] = max(int(verdicts[worst]), KINK)
        if verdicts[worst] == WRONG:
            recorded[:, k], reference[:, k] = entry_recorded[worst], entry_reference[worst]
            self.entry = int(chosen[worst[1]])

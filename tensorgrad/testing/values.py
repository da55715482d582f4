"""Derivatives by differences of values, if nothing else is available."""

from __future__ import annotations

import numpy as np

from tensorgrad.core.backend import Array
from tensorgrad.testing.point import APPROACH
from tensorgrad.testing.roundoff import Roundoff
from tensorgrad.testing.slopes import KINK, OK, PRECISION, WRONG, judge
from tensorgrad.testing.view import View

SAMPLE = 32  # maximum number of entries at kinks to examine separately
JUMP = 1e-6  # relative difference of one-sided slopes that makes a kink


class Values(Roundoff):
    """The last resort: judges by calls of the function."""

    def flagged(self, i: int) -> Array:
        """The entries of an input whose recorded gradients differ between both sides and the point."""
        gradients = [self.point.base.gradients(self.point.weights, [i])[0]]
        for e in (APPROACH[1], -APPROACH[1]):
            with self.point.moved(self.point.everything, e):
                if (recording := self.point.recording()) is not None:
                    gradients.append(recording.gradients(self.point.weights, [i])[0])
        with np.errstate(all="ignore"):
            size = np.abs(gradients).max(0)
            return np.asarray(np.ptp(gradients, axis=0) > np.maximum(JUMP * size, 1e-10 * size.max(initial=0.0)))

    def by_values(self, view: View, recorded: Array) -> tuple[Array, Array, Array]:
        """The same by differences of values."""
        codes, reference = np.zeros(recorded.shape, np.uint8), np.zeros(recorded.shape)
        recorded = recorded.copy()
        for k in range(view.columns):
            self.by_line(view, k, view.direction(k), recorded, reference, codes)
            if view.directions is not None and np.isin(codes[:, k], (KINK, WRONG)).any():
                self.separate_kinks(view, k, recorded, reference, codes)
        if view.directions is None:
            self.move_together(view, recorded, reference, codes)
        return codes, recorded, reference

    def separate_kinks(self, view: View, k: int, recorded: Array, reference: Array, codes: Array) -> None:
        """Judge a direction again with entries at kinks fixed, and these separately."""
        moving = view.direction(k) != 0
        at_kinks = self.flagged(view.i) & moving
        if at_kinks.any():
            smooth = View(view.i, view.shape, view.outputs, view.weights, [np.where(at_kinks, 0.0, view.direction(k))])
            entry_recorded, entry_reference, verdict = (np.zeros((len(recorded), 1), d) for d in (float, float, np.uint8))
            entry_recorded[:] = smooth.recorded(self.point.base)
            self.by_line(smooth, 0, smooth.direction(0), entry_recorded, entry_reference, verdict)
            if (verdict > KINK).any():
                recorded[:, [k]], reference[:, [k]], codes[:, [k]] = entry_recorded, entry_reference, verdict
                return
            at_kinks = moving if (verdict == KINK).any() else at_kinks
        elif (codes[:, k] == WRONG).any():
            return
        else:  # the recording does not tell which entries
            at_kinks = moving
        self.one_by_one_by_values(view, k, np.flatnonzero(at_kinks), recorded, reference, codes)

    def one_by_one_by_values(self, view: View, k: int, entries: Array, recorded: Array, reference: Array, codes: Array) -> None:
        chosen = self.rng.permutation(entries)[: SAMPLE // 2]  # each takes tens of calls
        each = view.each_of([int(entry) for entry in chosen])
        verdicts, entry_recorded, entry_reference = self.by_values(each, each.recorded(self.point.base))
        worst = np.unravel_index(int(verdicts.argmax()), verdicts.shape)
        codes[:, k] = max(int(verdicts[worst]), KINK)
        if verdicts[worst] > KINK:
            recorded[:, k], reference[:, k], self.entry = entry_recorded[worst], entry_reference[worst], int(chosen[worst[1]])

    def by_line(self, view: View, k: int, direction: Array, recorded: Array, reference: Array, codes: Array) -> None:
        """Judge one column by differences along its direction."""
        moves = {view.i: direction}
        scale = self.point.scale(moves)

        def line(e: float) -> Array:
            return view.of(self.point.values(moves, e * scale))

        size = view.sizes(self.point.base.at)
        verdicts, slopes = judge(line, recorded[:, k] * scale, size, self.rtol)
        failed = verdicts != OK
        if failed.any() and self.point.rounding > 10 * size[failed].min(initial=np.inf):
            verdicts2, slopes2 = judge(line, recorded[:, k] * scale, np.maximum(size, self.point.rounding), self.rtol)
            failed &= verdicts2 != KINK  # at a kink perturbations cross it, and say nothing about rounding
            verdicts, slopes = np.where(failed, verdicts2, verdicts), np.where(failed, slopes2, slopes)
        if (verdicts == PRECISION).any() and (precise := self.point.precise_values(moves, 0.0)) is not None:

            def longer(e: float) -> Array:
                values = self.point.precise_values(moves, e * scale)
                return np.full(len(recorded), np.nan) if values is None else view.of(values)

            eps = float(np.finfo(precise.dtype).eps)
            open_ = verdicts == PRECISION
            size = np.maximum(size, self.point.rounding)
            verdicts2, slopes2 = judge(longer, recorded[:, k] * scale, size, self.rtol, eps)
            verdicts = np.where(open_, verdicts2, verdicts)
            slopes = np.where(open_, np.asarray(slopes2, np.float64), slopes)
        if (verdicts == KINK).any() and not self.point.is_at_kink:
            verdicts = np.where(verdicts == KINK, PRECISION, verdicts)  # the usable steps are too far from the point
        codes[:, k], reference[:, k] = verdicts, slopes / scale

    def move_together(self, view: View, recorded: Array, reference: Array, codes: Array) -> None:
        """The same by values only: all entries at kinks move together."""
        kinks = np.flatnonzero((codes == KINK).any(0)).tolist()
        if len(kinks) < 2:
            return
        one = View(view.i, view.shape, view.outputs, view.weights, [np.sum([view.direction(k) for k in kinks], 0)])
        total = recorded[:, kinks].sum(1, keepdims=True)
        verdict, slope = np.full(total.shape, WRONG, np.uint8), total.copy()
        self.by_line(one, 0, one.direction(0), total, slope, verdict)
        part = codes[:, kinks]
        part[(part == KINK) & (verdict == WRONG)] = WRONG
        codes[:, kinks] = part

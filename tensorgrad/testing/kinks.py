"""Kinks: points where one-sided slopes differ, and which gradients are valid there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tensorgrad.core.backend import Array
from tensorgrad.core.lazy import cached_property
from tensorgrad.testing.derivatives import NEGLIGIBLE
from tensorgrad.testing.exact import Exact
from tensorgrad.testing.point import APPROACH, FAR
from tensorgrad.testing.slopes import KINK, OK, WRONG
from tensorgrad.testing.values import JUMP, SAMPLE, Values
from tensorgrad.testing.view import View

CLEAR = 10.0  # minimum ratio of a kink to the variation of slopes on one side
NEARER = (1e-30, 1e-60, 1e-100, 1e-150, 1e-200)  # sizes by which a 0 may be moved and still be near it


class Kinks(Values):
    """Finds kinks and judges gradients there."""

    @cached_property
    def kinks(self) -> bool:
        """Whether one-sided slopes differ from those at the point, however near."""
        if not self.point.is_at_kink:
            return False
        near, _, size = self.jump(APPROACH[0])
        if not (near > JUMP * size).any():
            return False
        nearest, noise, _ = self.jump(*APPROACH[1:])
        return bool(((near > JUMP * size) & (nearest > 0.1 * near) & (nearest > CLEAR * noise)).any())

    @cached_property
    def has_kinks(self) -> bool:
        """The same for the smallest difference distinguishable from rounding."""
        if not self.point.is_at_kink:
            return False
        (far, _, _), (near, _, _), (nearest, noise, size) = (self.jump(*e) for e in ([FAR], APPROACH[:1], APPROACH[1:]))
        is_kink = (nearest > 0.1 * near) & (near > 0.1 * far) & (nearest > CLEAR * noise)
        is_kink &= nearest > np.maximum(1e-11 * size, NEGLIGIBLE * np.abs(self.point.base.at))
        return bool(is_kink.any())

    def jump(self, *steps: float) -> tuple[Array, Array, Array]:
        """The differences of the outputs' slopes between both sides (at the first step) and the point; their differences
        between steps on one side; and their sizes.
        """
        moves = self.point.everything
        sides: list[list[Array]] = []
        for sign in (1, -1):
            neighbours = [self.point.neighbour(moves, sign * e, along=moves) for e in steps]
            slopes = [neighbour.slope for neighbour in neighbours if neighbour is not None and neighbour.slope is not None]
            if len(slopes) == len(steps):
                sides.append(slopes)
        if not sides:
            return (np.zeros(1),) * 3
        here = [self.point.exact(moves)] if self.point.exact is not None else []
        with np.errstate(all="ignore"):
            slopes = [side[0] for side in sides] + here
            noise = np.max([np.abs(side[0] - side[-1]) for side in sides], axis=0)
            return np.nan_to_num(np.ptp(slopes, axis=0)), np.nan_to_num(noise), np.nan_to_num(np.abs(slopes).max(0))

    def mark(self, view: View, recorded: Array, reference: Array, codes: Array) -> None:
        """Turn agreement at a kink into "kink"; if both sides have the same slope, the gradient must equal it."""
        flagged = self.flagged(view.i).reshape(-1)
        if view.directions is not None:
            entries = self.rng.permutation(np.flatnonzero(flagged))[:SAMPLE]
            if len(entries):
                each = view.each_of([int(entry) for entry in entries])
                entry_recorded = each.recorded(self.point.base)
                verdicts, entry_reference = np.zeros(entry_recorded.shape, np.uint8), entry_recorded.copy()
                self.mark(each, entry_recorded, entry_reference, verdicts)
                self.judge_together([(each, entry_recorded, entry_reference, verdicts)])
                self.assign_worst(view, codes, recorded, reference, verdicts, entry_recorded, entry_reference, entries)
            return
        columns = [k for k, entry in enumerate(view.entries) if flagged[entry]]
        sides = [[self.slopes_at_side(view, columns, sign * e) for e in APPROACH] for sign in (1, -1)] if columns else []
        complete = [[a for a in side if a is not None] for side in sides]
        complete = [side for side in complete if len(side) == len(APPROACH)]
        if not complete:
            return
        (up0, up, up2), (down0, down, down2) = complete[0], complete[-1]
        with np.errstate(all="ignore"):
            at = reference[:, columns]
            noise = np.maximum(np.abs(up - up2), np.abs(down - down2))
            noise = np.maximum(noise, 0.1 * noise.max(1, keepdims=True))
            size, width = np.maximum(np.abs(up), np.abs(down)), np.ptp([up, down, at], axis=0)
            part = view.only(columns)
            differ = (
                (width > JUMP * size)
                & (width > self.negligible(part).max(0))
                & (width > 0.1 * np.ptp([up0, down0, at], axis=0))
                & (width > CLEAR * noise)
            )
            agree = differ & (np.abs(up - down) <= JUMP * size)
        part = codes[:, columns]
        part[differ & (part == OK)] = KINK
        if not self.point.moving and len(complete) == 2:
            # all entries have moved together; single ones, such as ties, may still be at a kink
            for n in np.flatnonzero((agree & (part == KINK)).any(0))[:SAMPLE]:
                single_codes = np.where(agree[:, [n]] & (part[:, [n]] == KINK), WRONG, OK).astype(np.uint8)
                column = view.only([columns[n]])
                numbers = reference[:, [columns[n]]]
                smooth = ~self.examine_sides(column, 0, recorded[:, [columns[n]]], numbers, single_codes) & (
                    single_codes[:, 0] == WRONG
                )
                smooth &= ~self.nearby(column, recorded[:, columns[n]]) if smooth.any() else False
                smooth &= ~self.converges(column, at[:, n]) if smooth.any() else False
                part[smooth, n] = WRONG
                reference[smooth, columns[n]] = up[smooth, n]
        codes[:, columns] = part

    def nearby(self, view: View, recorded: Array) -> Array:
        """Whether the derivatives of one column around the point enclose the recorded one."""
        low, high = np.full(recorded.shape, np.inf), np.full(recorded.shape, -np.inf)
        for _ in range(SAMPLE):
            moves = {i: u * self.rng.uniform(-1, 1, u.shape) for i, u in enumerate(self.point.units)}
            neighbour = self.point.neighbour(moves, APPROACH[0], along={view.i: view.direction(0)})
            if neighbour is not None and neighbour.slope is not None:
                low, high = np.fmin(low, view.of(neighbour.slope)), np.fmax(high, view.of(neighbour.slope))
        slack = JUMP * np.maximum(np.abs(low), np.abs(high))
        return np.asarray((low - slack <= recorded) & (recorded <= high + slack))

    def converges(self, view: View, at: Array) -> Array:
        """Whether the derivatives by an entry that is 0, whose scale is unknown, converge to those at the point.

        They may do so much closer than the size of other entries: hypot(a, b) at b = 0 for a = 1e-100.
        """
        direction = view.direction(0)
        converged = np.zeros(at.shape, bool)
        if (self.point.problem.arrays[view.i][direction != 0] != 0).any():
            return converged
        for e in NEARER:
            looks = [self.point.neighbour({view.i: direction}, sign * e, along={view.i: direction}) for sign in (1, -1)]
            slopes = [view.of(one.slope) for one in looks if one is not None and one.slope is not None]
            if len(slopes) == 2:
                converged |= np.max([np.abs(s - at) for s in slopes], axis=0) <= JUMP * np.abs(at)
        return converged

    def assign_worst(
        self,
        view: View,
        codes: Array,
        recorded: Array,
        reference: Array,
        verdicts: Array,
        entry_recorded: Array,
        entry_reference: Array,
        entries: Array,
    ) -> None:
        """Assign the worst verdict of single entries to the directions that move them."""
        worst = np.unravel_index(int(verdicts.argmax()), verdicts.shape)
        assert view.directions is not None
        for k, direction in enumerate(view.directions):
            if direction.reshape(-1)[entries[worst[1]]]:
                codes[:, k] = np.maximum(verdicts[worst], KINK if verdicts.any() else OK)
                if verdicts[worst] > KINK:
                    recorded[:, k], reference[:, k], self.entry = (
                        entry_recorded[worst],
                        entry_reference[worst],
                        int(entries[worst[1]]),
                    )

    def slopes_at_side(self, view: View, columns: Sequence[int], e: float) -> Array | None:
        """The derivatives of some columns on one side of the point."""
        with self.point.moved(self.point.everything, e):
            recording = self.point.recording()
            if recording is None or self.point.base.changed(recording) is None:
                return None
            exact = Exact(recording)
            return np.stack([view.of(exact({view.i: view.direction(k)})) for k in columns], 1) if columns else None

    def examine_sides(self, view: View, k: int, recorded: Array, reference: Array, codes: Array) -> Array:
        """Examine one column from both sides: a gradient between the slopes is a kink. Returns where there is one."""
        if self.point.moving:
            one = view.only([k])
            codes[:, [k]], _, reference[:, [k]] = self.by_values(one, recorded[:, [k]])
            return np.ones(len(codes), bool)
        direction = view.direction(k)
        scale = self.point.scale({view.i: direction})
        sides: list[list[Array]] = []
        for sign in (1, -1):
            neighbours = [
                self.point.neighbour({view.i: direction}, sign * e * scale, along={view.i: direction}) for e in APPROACH
            ]
            slopes = [view.of(one.slope) for one in neighbours if one is not None and one.slope is not None]
            if len(slopes) == len(APPROACH):
                sides.append(slopes)
        if not sides:
            return np.zeros(len(codes), bool)
        with np.errstate(all="ignore"):
            (a, c, c2), (b, d, d2) = sides[0], sides[-1]
            low, high = np.minimum(c, d), np.maximum(c, d)
            far, width, magnitude = np.abs(a - b), high - low, np.maximum(np.abs(low), np.abs(high))
            is_kink = (
                (width > 0.1 * far) & (width > CLEAR * np.maximum(np.abs(c - c2), np.abs(d - d2))) & (width > 1e-11 * magnitude)
            )
            inside = (low - self.rtol * magnitude <= recorded[:, k]) & (recorded[:, k] <= high + self.rtol * magnitude)
            bad = codes[:, k] == WRONG
            codes[bad & is_kink & inside, k] = KINK
            # only the gradient at the point itself differs; or the slopes converge to the recorded one
            gap = np.abs(recorded[:, k] - c)
            smooth = bad & ~is_kink & (gap <= self.rtol * np.maximum(np.abs(c), np.abs(recorded[:, k])))
            smooth |= bad & ~is_kink & (gap < 0.2 * np.abs(recorded[:, k] - a)) & (gap < 0.2 * np.abs(reference[:, k] - a))
            codes[smooth, k] = OK
            reference[bad & is_kink, k] = np.clip(recorded[:, k], low, high)[bad & is_kink]
            reference[smooth, k] = c[smooth]
        return np.asarray(is_kink)

    def is_limit(self, view: View, recorded: Array, reference: Array, codes: Array, columns: Array) -> bool:
        """Whether one-sided slopes of a few columns help although nothing jumps: at the end of a domain (0 of x**1.5)."""
        if view.directions is not None or self.point.moving or not self.point.is_at_kink:
            return False
        few = columns[:2]
        trial = codes.copy(), reference.copy()
        for k in few:
            self.examine_sides(view, int(k), recorded, trial[1], trial[0])
        return bool((trial[0] != codes).any())

    def judge_together(self, parts: Sequence[tuple[View, Array, Array, Array]]) -> None:
        """Judge entries at kinks together, for each output: with ties, any one may get the whole gradient, but not each.

        The sum of the slopes is largest if every entry moves to the side where its own slope is larger, and smallest on the
        other sides; tied entries are moved by different amounts, so one of them leads. The sum of the recorded gradients must
        lie between.

        parts  for each input its view, recorded and reference derivatives, and codes; the last two are changed
        """
        if self.point.exact is None or self.point.moving or not self.disputed:
            return
        for row in range(len(parts[0][3]) if parts else 0):
            places = [(n, int(k)) for n, (*_, codes) in enumerate(parts) for k in np.flatnonzero(codes[row] == KINK)][:SAMPLE]
            if len(places) < 2:
                continue
            slopes = [self.one_sided(parts[n][0], k, row) for n, k in places]
            if any(one is None for one in slopes):
                continue
            lean = np.array([1.0 if one is not None and one[0] >= one[1] else -1.0 for one in slopes])
            along: dict[int, Array] = {}
            moves: dict[int, Array] = {}
            for (n, k), sign in zip(places, lean, strict=True):
                view = parts[n][0]
                d = view.direction(k)
                along[view.i] = along.get(view.i, 0.0) + d
                step = sign * self.rng.uniform(1, 2) * self.point.scale({view.i: d})
                moves[view.i] = moves.get(view.i, 0.0) + step * d
            ends = [self.point.neighbour(moves, sign * APPROACH[0], along=along) for sign in (1, -1)]
            if any(end is None or end.slope is None for end in ends):
                continue
            bounds = [float(parts[0][0].of(end.slope)[row]) for end in ends if end is not None and end.slope is not None]
            total = sum(float(parts[n][1][row, k]) for n, k in places)
            slack = max(self.rtol, JUMP) * sum(abs(float(parts[n][1][row, k])) for n, k in places)
            if not min(bounds) - slack <= total <= max(bounds) + slack:
                excess = (total - min(max(total, min(bounds)), max(bounds))) / len(places)  # for each
                for n, k in places:
                    _, recorded, reference, codes = parts[n]
                    reference[row, k], codes[row, k] = recorded[row, k] - excess, WRONG

    def one_sided(self, view: View, k: int, row: int) -> tuple[float, float] | None:
        """The one-sided slopes of one output by an entry."""
        moves = {view.i: view.direction(k)}
        e = APPROACH[0] * self.point.scale(moves)
        sides = [self.point.neighbour(moves, sign * e, along=moves) for sign in (1, -1)]
        slopes = [float(view.of(side.slope)[row]) for side in sides if side is not None and side.slope is not None]
        return (slopes[0], slopes[1]) if len(slopes) == 2 else None

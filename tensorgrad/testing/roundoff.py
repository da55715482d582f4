"""Whether two derivatives that are not the same differ by rounding alone."""

from __future__ import annotations

from contextlib import suppress

import numpy as np

from tensorgrad.core.backend import Array
from tensorgrad.testing.derivatives import NEGLIGIBLE, ROUNDED, Derivatives
from tensorgrad.testing.exact import Exact, NoDerivative
from tensorgrad.testing.slopes import EPS, OK, PRECISION, WRONG
from tensorgrad.testing.view import View


class Roundoff(Derivatives):
    """Tells rounding from a fault: by inputs, and numbers on the way, that are other ones by rounding; and in long double."""

    def rounded(self, view: View, codes: Array, recorded: Array, found: Array, where: Array, most: Array) -> None:
        """Which differences are rounding: they are other ones at inputs that differ by rounding, or in a longer arithmetic.

        where  which of them are looked at;  most: the largest derivative of each row, (rows, 1)
        """
        columns = np.flatnonzero(((codes == WRONG) & where).any(0))
        if not len(columns):
            return
        part = view.only(columns.tolist())
        mine, other = recorded[:, columns], found[:, columns]
        error, noise = np.abs(mine - other), self.disturbed(part, mine, other)
        scales = self.scales(part)
        natural = np.outer(np.maximum(part.sizes(self.point.base.at), self.point.rounding), scales)
        limit = ROUNDED * noise
        if not self.point.moving:  # what is disturbed a few times may be 0 each time
            limit = np.maximum(limit, 16 * EPS * np.maximum(most, natural))
        with np.errstate(all="ignore"):
            tiny = (error <= 1e-12 * most) & (not self.point.moving)  # long double will tell
            unsure = ((codes == WRONG) & where)[:, columns] & ((error <= limit) | tiny | ~np.isfinite(other))
            if not unsure.any():
                return
            result, zero = codes[:, columns], (error <= NEGLIGIBLE * most) | (error <= self.nothing(part))
            zero |= np.maximum(np.abs(mine), np.abs(other)) <= 64 * EPS * natural  # rounding is all that there is of it
            try:
                if self.point.moving:
                    raise NoDerivative("differences of constants are not known better")
                right, better = self.in_long_double(part)
            except NoDerivative:
                result[unsure] = np.where(error <= limit, np.where(zero, OK, PRECISION), WRONG)[unsure]
            else:
                gap = np.abs(right - better)
                least = 64 * float(np.finfo(np.longdouble).eps) * np.maximum(most, natural)  # what long double leaves of a 0
                same = (gap <= self.rtol * np.maximum(np.abs(right), np.abs(better))) | (gap <= 1e-2 * error) | (gap <= least)
                same &= unsure
                off = np.abs(mine - right)  # how far rounding makes float64 go
                usual = 64 * EPS * np.maximum(most, part.sizes(self.point.base.at)[:, None] * scales)  # some last digits
                result[same] = np.where(zero | (off <= self.rtol * np.abs(right)) | (off <= usual), OK, PRECISION)[same]
                np.copyto(other, better.astype(np.float64), where=same)
                unsure &= ~same & (error <= ROUNDED * noise)  # less than float64 can know, whatever it is
                result[unsure] = np.where(zero, OK, PRECISION)[unsure]
            codes[:, columns], found[:, columns] = result, other

    def disturbed(self, view: View, recorded: Array, found: Array) -> Array:
        """How much rounding changes what is recorded and found: by inputs, and by all results on the way, that differ by it."""
        noise = np.zeros(found.shape)
        with np.errstate(all="ignore"):
            for _ in range(2):
                with suppress(NoDerivative), self.point.disturbed(self.rng) as there:
                    noise = np.fmax(noise, np.abs(view.recorded(there) - recorded))
                    if not self.point.moving:  # else it is known from their differences
                        with suppress(NoDerivative):
                            noise = np.fmax(noise, np.abs(self.derivatives(view, Exact(there))[0] - found))
            rows = list(view.rows()) if view.weights is not None else [self.point.weights]
            program = view.taken([self.point.base.disturbed(weights, view.i) for weights in rows])
            return np.fmax(noise, np.abs(program))

    def in_long_double(self, view: View) -> tuple[Array, Array]:
        """Recorded and found derivatives once more, with eleven bits more."""
        with self.point.precise() as there:
            try:
                return view.recorded(there), self.derivatives(view, Exact(there))[0]
            except (ArithmeticError, ValueError, TypeError) as error:  # a rule that does not take it
                raise NoDerivative("the gradient cannot be computed in long double") from error

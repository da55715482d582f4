"""Decides whether two derivatives differ only by rounding."""

from __future__ import annotations

from contextlib import suppress

import numpy as np

from tensorgrad.core.backend import Array
from tensorgrad.testing.derivatives import NEGLIGIBLE, ROUNDED, Derivatives
from tensorgrad.testing.exact import Exact, NoDerivative
from tensorgrad.testing.slopes import EPS, OK, PRECISION, WRONG
from tensorgrad.testing.view import View


class Roundoff(Derivatives):
    """Tells rounding errors from faults: by perturbed inputs and intermediates, and by long double."""

    def rounded(self, view: View, codes: Array, recorded: Array, found: Array, where: Array, most: Array) -> None:
        """Mark differences that are due to rounding: they change under perturbed inputs, or vanish in higher precision.

        where  which of them to examine;  most: the largest derivative of each row, (rows, 1)
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
        if not self.point.moving:  # a few perturbations may all give 0
            limit = np.maximum(limit, 16 * EPS * np.maximum(most, natural))
        with np.errstate(all="ignore"):
            tiny = (error <= 1e-12 * most) & (not self.point.moving)  # decided by long double
            unsure = ((codes == WRONG) & where)[:, columns] & ((error <= limit) | tiny | ~np.isfinite(other))
            if not unsure.any():
                return
            result, zero = codes[:, columns], (error <= NEGLIGIBLE * most) | (error <= self.nothing(part))
            zero |= np.maximum(np.abs(mine), np.abs(other)) <= 64 * EPS * natural  # only rounding errors
            try:
                if self.point.moving:
                    raise NoDerivative("differences of constants are not known better")
                right, better = self.in_long_double(part)
            except NoDerivative:
                result[unsure] = np.where(error <= limit, np.where(zero, OK, PRECISION), WRONG)[unsure]
            else:
                gap = np.abs(right - better)
                least = 64 * float(np.finfo(np.longdouble).eps) * np.maximum(most, natural)  # rounding of a 0 in long double
                same = (gap <= self.rtol * np.maximum(np.abs(right), np.abs(better))) | (gap <= 1e-2 * error) | (gap <= least)
                same &= unsure
                off = np.abs(mine - right)  # the rounding error of float64
                usual = 64 * EPS * np.maximum(most, part.sizes(self.point.base.at)[:, None] * scales)  # a few last digits
                result[same] = np.where(zero | (off <= self.rtol * np.abs(right)) | (off <= usual), OK, PRECISION)[same]
                np.copyto(other, better.astype(np.float64), where=same)
                unsure &= ~same & (error <= ROUNDED * noise)  # below the accuracy of float64, whatever the cause
                result[unsure] = np.where(zero, OK, PRECISION)[unsure]
            codes[:, columns], found[:, columns] = result, other

    def disturbed(self, view: View, recorded: Array, found: Array) -> Array:
        """The changes of recorded and found derivatives under perturbed inputs and intermediates."""
        noise = np.zeros(found.shape)
        with np.errstate(all="ignore"):
            for _ in range(2):
                with suppress(NoDerivative), self.point.disturbed(self.rng) as there:
                    noise = np.fmax(noise, np.abs(view.recorded(there) - recorded))
                    if not self.point.moving:  # otherwise known from their differences
                        with suppress(NoDerivative):
                            noise = np.fmax(noise, np.abs(self.derivatives(view, Exact(there))[0] - found))
            rows = list(view.rows()) if view.weights is not None else [self.point.weights]
            program = view.columns_of([self.point.base.disturbed(weights, view.i) for weights in rows])
            return np.fmax(noise, np.abs(program))

    def in_long_double(self, view: View) -> tuple[Array, Array]:
        """Recorded and found derivatives in long double, with eleven more bits."""
        with self.point.precise() as there:
            try:
                return view.recorded(there), self.derivatives(view, Exact(there))[0]
            except (ArithmeticError, ValueError, TypeError) as error:  # a rule that does not support it
                raise NoDerivative("the gradient cannot be computed in long double") from error

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

    def rounded(self, view: View, codes: Array, recorded: Array, reference: Array, where: Array, magnitude: Array) -> None:
        """Mark differences that are due to rounding: they change under perturbed inputs, or vanish in higher precision.

        where  which of them to examine;  most: the largest derivative of each row, (rows, 1)
        """
        columns = np.flatnonzero(((codes == WRONG) & where).any(0))
        if not len(columns):
            return
        part = view.only(columns.tolist())
        part_recorded, part_reference = recorded[:, columns], reference[:, columns]
        error, noise = np.abs(part_recorded - part_reference), self.perturbed(part, part_recorded, part_reference)
        scales = self.scales(part)
        natural = np.outer(np.maximum(part.sizes(self.point.base.at), self.point.rounding), scales)
        limit = ROUNDED * noise
        if not self.point.moving:  # a few perturbations may all give 0
            limit = np.maximum(limit, 16 * EPS * np.maximum(magnitude, natural))
        with np.errstate(all="ignore"):
            tiny = (error <= 1e-12 * magnitude) & (not self.point.moving)  # decided by long double
            unsure = ((codes == WRONG) & where)[:, columns] & ((error <= limit) | tiny | ~np.isfinite(part_reference))
            if not unsure.any():
                return
            result, zero = codes[:, columns], (error <= NEGLIGIBLE * magnitude) | (error <= self.negligible(part))
            zero |= np.maximum(np.abs(part_recorded), np.abs(part_reference)) <= 64 * EPS * natural  # only rounding errors
            try:
                if self.point.moving:
                    raise NoDerivative("differences of constants are not known better")
                right, better = self.in_long_double(part)
            except NoDerivative:
                result[unsure] = np.where(error <= limit, np.where(zero, OK, PRECISION), WRONG)[unsure]
            else:
                gap = np.abs(right - better)
                least = (
                    64 * float(np.finfo(np.longdouble).eps) * np.maximum(magnitude, natural)
                )  # rounding of a 0 in long double
                same = (gap <= self.rtol * np.maximum(np.abs(right), np.abs(better))) | (gap <= 1e-2 * error) | (gap <= least)
                same &= unsure
                off = np.abs(part_recorded - right)  # the rounding error of float64
                rounding = (
                    64 * EPS * np.maximum(magnitude, part.sizes(self.point.base.at)[:, None] * scales)
                )  # a few last digits
                result[same] = np.where(zero | (off <= self.rtol * np.abs(right)) | (off <= rounding), OK, PRECISION)[same]
                np.copyto(part_reference, better.astype(np.float64), where=same)
                unsure &= ~same & (error <= ROUNDED * noise)  # below the accuracy of float64, whatever the cause
                result[unsure] = np.where(zero, OK, PRECISION)[unsure]
            codes[:, columns], reference[:, columns] = result, part_reference

    def perturbed(self, view: View, recorded: Array, reference: Array) -> Array:
        """The changes of recorded and reference derivatives under perturbed inputs and intermediates."""
        noise = np.zeros(reference.shape)
        with np.errstate(all="ignore"):
            for _ in range(2):
                with suppress(NoDerivative), self.point.perturbed(self.rng) as recording:
                    noise = np.fmax(noise, np.abs(view.recorded(recording) - recorded))
                    if not self.point.moving:  # otherwise known from their differences
                        with suppress(NoDerivative):
                            noise = np.fmax(noise, np.abs(self.derivatives(view, Exact(recording))[0] - reference))
            rows = list(view.rows()) if view.weights is not None else [self.point.weights]
            program = view.columns_of([self.point.base.perturbed(weights, view.i) for weights in rows])
            return np.fmax(noise, np.abs(program))

    def in_long_double(self, view: View) -> tuple[Array, Array]:
        """Recorded and reference derivatives in long double, with eleven more bits."""
        with self.point.precise() as recording:
            try:
                return view.recorded(recording), self.derivatives(view, Exact(recording))[0]
            except (ArithmeticError, ValueError, TypeError) as error:  # a rule that does not support it
                raise NoDerivative("the gradient cannot be computed in long double") from error

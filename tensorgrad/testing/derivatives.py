"""Recorded derivatives at a point, and reference derivatives by differentiating the recorded program forward."""

from __future__ import annotations

import numpy as np

from tensorgrad.core.backend import Array
from tensorgrad.testing.exact import Exact, NoDerivative
from tensorgrad.testing.point import Point
from tensorgrad.testing.slopes import NON_FINITE, OK, PRECISION, WRONG
from tensorgrad.testing.view import View

ROUNDED = 30.0  # a difference is a fault if it exceeds the rounding error by this factor
NEGLIGIBLE = 1e-12  # relative to the largest of its row, a rounding error that counts as 0


class Derivatives:
    """Recorded and reference derivatives at a point.

    entry     the entry that a directional verdict refers to, or None
    disputed  whether gradients at kinks may differ from the package's convention
    """

    def __init__(self, point: Point, rtol: float) -> None:
        self.point, self.rtol = point, rtol
        self.rng = np.random.default_rng(0)
        self.entry: int | None = None
        # whether gradients at kinks may differ from the package's convention
        self.disputed = not point.only_package_ops

    def derivatives(self, view: View, exact: Exact | None = None) -> tuple[Array, Array]:
        """Derivatives of the recorded program, and their rounding errors; only moving constants make these relevant."""
        exact = exact or self.point.exact
        if exact is None:
            raise NoDerivative("nothing is recorded that can be differentiated")
        columns, errors = [], []
        for k in range(view.columns):
            moves = {view.i: view.direction(k)}
            tangents = self.point.tangents(moves)
            columns.append(view.of(exact(moves, {c: tangent for c, (tangent, _) in tangents.items()})))
            errors.append(np.zeros(columns[-1].shape))
            if tangents:
                random_errors = {c: noise * self.rng.choice([-1.0, 1.0], noise.shape) for c, (_, noise) in tangents.items()}
                errors[-1] = np.abs(view.of(exact({}, random_errors)))
        if not columns:
            return (np.zeros((view.outputs if view.weights is None else len(view.weights), 0)),) * 2
        return np.stack(columns, 1), np.stack(errors, 1)

    def compared(self, recorded: Array, reference: Array, noise: Array) -> Array:
        """Codes: ok where they agree to rtol."""
        with np.errstate(all="ignore"):
            tolerance = self.rtol * np.maximum(np.abs(recorded), np.abs(reference))
            error = np.abs(recorded - reference)
            close = error <= tolerance
            codes = np.where(close & (noise <= tolerance), OK, np.where(error <= tolerance + ROUNDED * noise, PRECISION, WRONG))
            codes[~np.isfinite(recorded)] = NON_FINITE
        return codes.astype(np.uint8)

    def scales(self, view: View) -> Array:
        """The factor for each column that moves its entries by their own size."""
        return np.array([self.point.scale({view.i: view.direction(k)}) for k in range(view.columns)])

    def negligible(self, view: View) -> Array:
        """The derivatives whose effect is below the rounding error of an output when a column moves by its own size."""
        return NEGLIGIBLE * np.outer(view.sizes(self.point.base.at), self.scales(view))


def largest(recorded: Array, reference: Array) -> Array:
    """The largest finite derivative of each row, (rows, 1)."""
    size = np.fmax(np.abs(recorded), np.abs(reference))
    return np.asarray(np.where(np.isfinite(size), size, 0.0).max(1, keepdims=True, initial=0.0))

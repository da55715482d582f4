"""Derivatives from values only."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from tensorgrad.core.backend import Array
from tensorgrad.core.state import describe
from tensorgrad.errors import ArgumentError, DTypeError

STEPS = (1e-3, 1e-4, 1e-5, 1e-6)


def numerical_gradient(fn: Callable[[], float], x: Array, entries: Iterable[tuple[int, ...]] | None = None) -> Array:
    """The derivative of `fn()` with respect to entries of `x`, which is changed in place and restored.

    fn       returns the value of a function that reads x
    x        float64
    entries  indices of the entries; by default all

    Central differences with one step of Richardson extrapolation, (4 D(h/2) - D(h)) / 3 with D(h) = (f(x+h) - f(x-h)) / 2h.
    Of several steps h, relative to max(1, |x|), it uses the one whose D(h) and D(h/2) agree best: large steps cross the
    kinks of a ReLU, small ones drown in rounding.

    Returns an array of shape x.shape, or one value per entry. Raises DTypeError unless x is float64.
    """
    if not callable(fn) or not isinstance(x, np.ndarray):
        wrong = describe(x if callable(fn) else fn)
        raise DTypeError(f"numerical_gradient: expected a function and the array that it reads, got {wrong}")
    if x.dtype != np.float64:
        raise DTypeError(f"numerical_gradient: x must be float64, got {x.dtype}: differences of float32 are mostly rounding")

    if not x.flags.writeable:
        raise ArgumentError("numerical_gradient: x is read-only, but its entries are changed; pass a copy")
    if entries is not None:
        try:
            entries = list(entries)
            singles = [np.ndim(x[index]) == 0 for index in entries]
        except (TypeError, IndexError) as error:
            raise ArgumentError(f"numerical_gradient: entries must be indices into x {x.shape}: {error}") from error
        if not all(singles):
            raise ArgumentError(f"numerical_gradient: each of entries must be the index of one entry of x {x.shape}")
    value = fn()
    if np.ndim(getattr(value, "_data", value)) or not isinstance(
        getattr(value, "item", lambda: value)(), (int, float, np.floating)
    ):
        raise DTypeError(f"numerical_gradient: fn must return a number, got {describe(value)}")

    def central(index: tuple[int, ...], h: float) -> float:
        before = x[index]
        x[index] = before + h
        up, above = fn(), x[index]
        x[index] = before - h
        down, below = fn(), x[index]
        x[index] = before
        return float((up - down) / (above - below))

    def derivative(index: tuple[int, ...]) -> float:
        candidates = []
        for step in STEPS:
            h = step * max(1.0, abs(float(x[index])))
            wide, narrow = central(index, h), central(index, h / 2)
            candidates.append((abs(wide - narrow), (4 * narrow - wide) / 3))
        return min(candidates)[1]

    if entries is not None:
        return np.array([derivative(index) for index in entries])
    return np.array([derivative(index) for index in np.ndindex(x.shape)]).reshape(x.shape)

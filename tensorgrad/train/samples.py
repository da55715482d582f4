"""Statistics of a model at one moment of its training."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from tensorgrad.core.backend import Array, move


@dataclass(frozen=True)
class Spread:
    """Statistics of the finite numbers in an array.

    mean, std, rms, largest   largest is the largest absolute value
    zeros                     the fraction of zeros
    bad                       how many are NaN or infinite
    """

    mean: float
    std: float
    rms: float
    largest: float
    zeros: float
    bad: int = 0

    @classmethod
    def of(cls, array: Array) -> Spread:
        x = move(array, "cpu").ravel().astype(np.float64)
        size, bad = x.size, 0
        with np.errstate(invalid="ignore", over="ignore"):
            may_be_bad = not math.isfinite(float(x.sum()))  # much faster than testing each element
        if may_be_bad and not (finite := np.isfinite(x)).all():
            x = x[finite]
            bad = size - x.size
        if not x.size:
            return cls(math.nan, math.nan, math.nan, math.nan, 0.0, bad)
        largest = float(max(x.max(), -x.min()))
        scale = largest or 1.0  # squares of very large or small numbers overflow or underflow float64
        mean, rms = float(x.mean()), scale * math.sqrt(float(np.square(x / scale).mean()))
        return cls(mean, float(x.std()), rms, largest, 1 - np.count_nonzero(x) / x.size, bad)


@dataclass
class Layer:
    """Statistics of one intermediate result.

    name       "0 linear", "encoder.1 relu"; line is the line of the user's code that computes it
    value, gradient   statistics of the result and its gradient, over the samples of the probe
    dead       the fraction of units that are 0 for all samples, for activations that can be 0
    saturated  the fraction of units at the flat ends of tanh or sigmoid for 19 of 20 samples
    """

    name: str
    line: str
    value: Spread
    gradient: Spread | None = None
    dead: float = 0.0
    saturated: float = 0.0


@dataclass
class Weights:
    """Statistics of a parameter, its gradient, and its change in the step after the sample (None: no step)."""

    name: str
    value: Spread
    gradient: Spread | None
    update: Spread | None = None

    @property
    def ratio(self) -> float:
        """Root mean square of the update divided by that of the parameter; NaN without an update, or if the parameter is 0."""
        return self.update.rms / self.value.rms if self.update is not None and self.value.rms else math.nan


@dataclass
class Sample:
    """All statistics of one moment. step: number of steps of the whole training so far; epoch: the current one."""

    step: int
    epoch: int
    loss: float
    layers: dict[str, Layer] = field(default_factory=dict)
    weights: dict[str, Weights] = field(default_factory=dict)

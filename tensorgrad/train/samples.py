"""What is known of a model at one moment of its training."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from tensorgrad.core.backend import Array, move


@dataclass(frozen=True)
class Spread:
    """How the numbers of an array are distributed; of those that are finite, if some are not.

    mean, std, rms, largest   of the numbers; largest is that of their absolute values
    zeros                     the share of them that is 0
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
            may_be_bad = not math.isfinite(float(x.sum()))  # in a fraction of the time of asking each of them
        if may_be_bad and not (finite := np.isfinite(x)).all():
            x = x[finite]
            bad = size - x.size
        if not x.size:
            return cls(math.nan, math.nan, math.nan, math.nan, 0.0, bad)
        largest = float(max(x.max(), -x.min()))
        scale = largest or 1.0  # squares of very large or small numbers leave float64
        mean, rms = float(x.mean()), scale * math.sqrt(float(np.square(x / scale).mean()))
        return cls(mean, float(x.std()), rms, largest, 1 - np.count_nonzero(x) / x.size, bad)


@dataclass
class Layer:
    """What is known of one result inside the model, and of the parameters of the module that it comes from.

    name       "0 linear", "encoder.1 relu"; line is where in the user's code it is computed
    value, gradient   of the result, for the samples of the probe
    dead       the share of its units that are 0 for all samples, if it is an activation that can be 0
    saturated  the share of its units that are at the flat ends of tanh or sigmoid for 19 of 20 samples
    """

    name: str
    line: str
    value: Spread
    gradient: Spread | None = None
    dead: float = 0.0
    saturated: float = 0.0


@dataclass
class Weights:
    """A parameter: its numbers, its gradient, and by how much the step after the sample has changed it (None: no step)."""

    name: str
    value: Spread
    gradient: Spread | None
    update: Spread | None = None

    @property
    def ratio(self) -> float:
        """Root mean square of the update beside that of the parameter; NaN where there is none, or the parameter is 0."""
        return self.update.rms / self.value.rms if self.update is not None and self.value.rms else math.nan


@dataclass
class Sample:
    """Everything at one moment. step: how many have been made over the whole training; epoch: which one was under way."""

    step: int
    epoch: int
    loss: float
    layers: dict[str, Layer] = field(default_factory=dict)
    weights: dict[str, Weights] = field(default_factory=dict)

"""Learning-rate schedules that depend on the loss of each epoch: call `schedule.step(cost)` after it."""

from __future__ import annotations

import math
from typing import Any

from tensorgrad.errors import ArgumentError
from tensorgrad.optim.arguments import SHARE, Limits, number
from tensorgrad.optim.optimiser import Optimiser
from tensorgrad.optim.schedule import Schedule


def checked_cost(owner: Schedule, cost: Any) -> float:
    """The cost, for a schedule that needs it. Raises ArgumentError for None or NaN."""
    name = type(owner).__name__
    if cost is None:
        raise ArgumentError(f"{name}: step needs the cost of the epoch, got None")
    if isinstance(cost, float) and math.isnan(cost):
        raise ArgumentError(f"{name}: step needs the cost of the epoch, got nan")
    return number(name, "cost", cost, Limits(low=-math.inf), infinite=True)


class ReduceOnPlateau(Schedule):
    """Multiplies the rate by `factor` when the cost has not reached a new minimum for more than `patience` epochs.

    factor     from 0 to 1
    patience   an integer, at least 0
    least      lower bound of the rates; a rate that is already lower stays
    """

    limits = {"factor": SHARE, "patience": Limits(whole=True), "least": Limits(), "waited": Limits(whole=True)}  # noqa: RUF012

    def __init__(self, optimiser: Optimiser, factor: float = 0.1, patience: int = 10, least: float = 0.0) -> None:
        super().__init__(optimiser)
        self.factor, self.patience, self.least = factor, patience, least
        self.best, self.waited = math.inf, 0

    def see(self, cost: float | None) -> None:
        if self.waited > self.patience:
            self.waited = 0
        value = checked_cost(self, cost)
        self.best, self.waited = (value, 0) if value < self.best else (self.best, self.waited + 1)

    def rate(self, start: float, now: float) -> float:
        return now if self.waited <= self.patience else min(now, max(now * self.factor, self.least))


class CostRise(Schedule):
    """Multiplies the rate by `factor`, from 0 to 1, after an epoch whose cost was higher than that of the epoch before."""

    limits = {"factor": SHARE}  # noqa: RUF012

    def __init__(self, optimiser: Optimiser, factor: float = 0.9) -> None:
        super().__init__(optimiser)
        self.factor, self.before, self.rose = factor, math.inf, False

    def see(self, cost: float | None) -> None:
        value = checked_cost(self, cost)
        self.rose, self.before = value > self.before, value

    def rate(self, start: float, now: float) -> float:
        return now * self.factor if self.rose else now

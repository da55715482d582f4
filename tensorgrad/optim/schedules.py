"""Learning-rate schedules: `schedule.step(cost)` after each epoch sets the optimiser's `lr`."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

from tensorgrad.optim.optimiser import Optimiser


class Schedule:
    """Base of the schedules. `start` is the optimiser's rate when the schedule is made, t the number of epochs since.

    A subclass defines `rate(cost)`, the rate for epoch t, with what it keeps in attributes: numbers, text, arrays, None, lists
    and dicts of them, other schedules. Functions are not kept in checkpoints.
    """

    def __init__(self, optimiser: Optimiser) -> None:
        self.optimiser = optimiser
        self.start = optimiser.lr
        self.t = 0

    def step(self, cost: float | None = None) -> float:
        """The end of an epoch, whose cost some schedules need; returns the rate of the next."""
        self.t += 1
        self.optimiser.lr = self.rate(cost)
        return self.optimiser.lr

    def rate(self, cost: float | None) -> float:
        """The learning rate of the next epoch; `cost` is that of the one that has ended. What a subclass defines."""
        raise TypeError(f"{type(self).__name__} does not define rate()")

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on, besides the optimiser."""
        kept = {name: value for name, value in vars(self).items() if name != "optimiser" and not callable(value)}
        return {
            name: {"type": type(value).__name__, **value.state_dict()} if isinstance(value, Schedule) else copy.deepcopy(value)
            for name, value in kept.items()
        }

    def load_state_dict(self, values: Mapping[str, Any]) -> None:
        """Go on as the schedule that `state_dict` was taken from."""
        for name, value in values.items():
            own = getattr(self, name, None)
            if isinstance(own, Schedule):
                own.load_state_dict({name: v for name, v in value.items() if name != "type"})
            else:
                setattr(self, name, copy.deepcopy(value))

    def needed(self, cost: float | None) -> float:
        """The cost, for a schedule that cannot do without. Raises ValueError for none, or NaN."""
        if cost is None or math.isnan(cost):
            raise ValueError(f"{type(self).__name__}: step needs the cost of the epoch, got {cost}")
        return cost


class StepLR(Schedule):
    """start gamma^floor(t / every)"""

    def __init__(self, optimiser: Optimiser, every: int, gamma: float = 0.1) -> None:
        super().__init__(optimiser)
        if every < 1:
            raise ValueError(f"StepLR: every must be at least 1, got {every}")
        self.every, self.gamma = every, gamma

    def rate(self, cost: float | None) -> float:
        return self.start * self.gamma ** (self.t // self.every)


class ExponentialLR(Schedule):
    """start gamma^t"""

    def __init__(self, optimiser: Optimiser, gamma: float) -> None:
        super().__init__(optimiser)
        self.gamma = gamma

    def rate(self, cost: float | None) -> float:
        return float(self.start * self.gamma**self.t)


class CosineLR(Schedule):
    """end + (start - end) (1 + cos(pi t / epochs)) / 2, then end (Loshchilov and Hutter 2017)"""

    def __init__(self, optimiser: Optimiser, epochs: int, end: float = 0.0) -> None:
        super().__init__(optimiser)
        if epochs < 1:
            raise ValueError(f"CosineLR: epochs must be at least 1, got {epochs}")
        self.epochs, self.end = epochs, end

    def rate(self, cost: float | None) -> float:
        share = min(self.t / self.epochs, 1)
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * share)) / 2


class Warmup(Schedule):
    """start (t + 1) / (epochs + 1) for the first epochs, then start, or what another schedule makes of it from there."""

    def __init__(self, optimiser: Optimiser, epochs: int, then: Schedule | None = None) -> None:
        super().__init__(optimiser)
        if epochs < 1:
            raise ValueError(f"Warmup: epochs must be at least 1, got {epochs}")
        self.epochs, self.then = epochs, then
        optimiser.lr = self.start / (epochs + 1)

    def rate(self, cost: float | None) -> float:
        if self.t <= self.epochs:
            return self.start * (self.t + 1) / (self.epochs + 1)
        return self.start if self.then is None else self.then.step(cost)


class ReduceOnPlateau(Schedule):
    """The rate times `factor` each time the cost has not fallen below its least for more than `patience` epochs."""

    def __init__(self, optimiser: Optimiser, factor: float = 0.1, patience: int = 10, least: float = 0.0) -> None:
        super().__init__(optimiser)
        self.factor, self.patience, self.least = factor, patience, least
        self.best, self.waited = math.inf, 0

    def rate(self, cost: float | None) -> float:
        cost = self.needed(cost)
        self.best, self.waited = (cost, 0) if cost < self.best else (self.best, self.waited + 1)
        if self.waited <= self.patience:
            return self.optimiser.lr
        self.waited = 0
        return max(self.optimiser.lr * self.factor, self.least)


class CostRise(Schedule):
    """The rate times `factor` after an epoch whose cost rose above that of the epoch before."""

    def __init__(self, optimiser: Optimiser, factor: float = 0.9) -> None:
        super().__init__(optimiser)
        self.factor, self.before = factor, math.inf

    def rate(self, cost: float | None) -> float:
        cost = self.needed(cost)
        rose, self.before = cost > self.before, cost
        return self.optimiser.lr * self.factor if rose else self.optimiser.lr

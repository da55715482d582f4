"""Learning-rate schedules by time: call `schedule.step()` after each epoch or batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

from tensorgrad.errors import ArgumentError
from tensorgrad.optim.arguments import COUNT, POSITIVE, SHARE, Limits, number
from tensorgrad.optim.optimiser import Optimiser
from tensorgrad.optim.schedule import Schedule


class LambdaLR(Schedule):
    """rate = start fn(t), from t = 0 on.

    fn    a function of t, the number of steps so far, or a list with one per group
    per   "epoch" or "batch": when `step` is called
    """

    def __init__(
        self, optimiser: Optimiser, fn: Callable[[int], float] | Sequence[Callable[[int], float]], per: str = "epoch"
    ) -> None:
        super().__init__(optimiser, per)
        several = isinstance(fn, (list, tuple))
        self.fns: list[Any] = list(fn) if isinstance(fn, (list, tuple)) else [fn]
        if not all(map(callable, self.fns)) or (several and len(self.fns) != len(optimiser.param_groups)):
            groups = len(optimiser.param_groups)
            raise ArgumentError(f"LambdaLR: fn must be a function of t, or a list of {groups}, one per group, got {fn!r}")
        self.several = several
        optimiser.rates = [self.rate_of(i, start, start) for i, start in enumerate(self.starts)]

    def rate_of(self, group: int, start: float, now: float) -> float:
        if self.several and group >= len(self.fns):
            raise ArgumentError(f"LambdaLR: {len(self.fns)} functions, but none for group {group}")
        return start * number("LambdaLR", f"fn({self.t})", self.fns[group if self.several else 0](self.t))


class StepLR(Schedule):
    """rate = start gamma^floor(t / every)

    every   at least 1
    gamma   from 0 to 1
    per     "epoch" or "batch": when `step` is called
    """

    limits = {"every": COUNT, "gamma": SHARE}  # noqa: RUF012

    def __init__(self, optimiser: Optimiser, every: int, gamma: float = 0.1, per: str = "epoch") -> None:
        super().__init__(optimiser, per)
        self.every, self.gamma = every, gamma

    def rate(self, start: float, now: float) -> float:
        return start * self.gamma ** (self.t // self.every)


class MultiStepLR(Schedule):
    """rate = start gamma^k from the k-th milestone on.

    milestones   increasing integers t, each at least 1
    gamma        from 0 to 1
    per          "epoch" or "batch": when `step` is called
    """

    limits = {"gamma": SHARE}  # noqa: RUF012

    def __init__(self, optimiser: Optimiser, milestones: Iterable[int], gamma: float = 0.1, per: str = "epoch") -> None:
        super().__init__(optimiser, per)
        self.milestones = [int(number("MultiStepLR", f"milestones[{i}]", m, COUNT)) for i, m in enumerate(milestones)]
        if any(a >= b for a, b in pairwise(self.milestones)):
            raise ArgumentError(f"MultiStepLR: milestones must increase, got {self.milestones}")
        self.gamma = gamma

    def rate(self, start: float, now: float) -> float:
        return float(start * self.gamma ** sum(self.t >= m for m in self.milestones))


class ExponentialLR(Schedule):
    """rate = start gamma^t

    gamma   from 0 to 1
    per     "epoch" or "batch": when `step` is called
    """

    limits = {"gamma": SHARE}  # noqa: RUF012

    def __init__(self, optimiser: Optimiser, gamma: float, per: str = "epoch") -> None:
        super().__init__(optimiser, per)
        self.gamma = gamma

    def rate(self, start: float, now: float) -> float:
        return float(start * self.gamma**self.t)


class CosineLR(Schedule):
    """rate = end + (start - end) (1 + cos(pi t / epochs)) / 2, then end (Loshchilov and Hutter 2017)

    epochs   number of steps until `end`, at least 1: batches if per="batch"
    end      the final rate, at least 0
    per      "epoch" or "batch": when `step` is called
    """

    limits = {"epochs": COUNT, "end": Limits()}  # noqa: RUF012

    def __init__(self, optimiser: Optimiser, epochs: int, end: float = 0.0, per: str = "epoch") -> None:
        super().__init__(optimiser, per)
        self.epochs, self.end = epochs, end

    def rate(self, start: float, now: float) -> float:
        return cosine(start, self.end, min(self.t / self.epochs, 1))


class CosineAnnealingWarmRestarts(Schedule):
    """rate = end + (start - end) (1 + cos(pi s / n)) / 2 with s steps since the last restart (Loshchilov and Hutter 2017). It
    restarts after n steps: n is `first`, then multiplied by `factor` at each restart.

    first    at least 1
    factor   an integer, at least 1
    end      the lowest rate, at least 0
    per      "epoch" or "batch": when `step` is called
    """

    limits = {"first": COUNT, "factor": COUNT, "end": Limits()}  # noqa: RUF012

    def __init__(self, optimiser: Optimiser, first: int, factor: int = 1, end: float = 0.0, per: str = "epoch") -> None:
        super().__init__(optimiser, per)
        self.first, self.factor, self.end = first, factor, end

    def rate(self, start: float, now: float) -> float:
        s, n = self.t, self.first
        if self.factor == 1:
            s %= n
        while s >= n:
            s, n = s - n, n * self.factor
        return cosine(start, self.end, s / n)


class OneCycleLR(Schedule):
    """The one-cycle policy (Smith and Topin 2018, in PyTorch's form): from top / divide up to top, then down to
    top / divide / end_divide, along half cosines or straight lines. The optimiser's initial rates are not used.

    top          the largest rate, or a list with one per group
    steps        total number of steps, at least 1: epochs times batches; the rate is constant afterwards
    rise         the fraction of steps in which the rate rises, from 0 to 1
    divide       above 0
    end_divide   above 0
    shape        "cosine" or "linear"
    per          "batch", or "epoch": when `step` is called

    With a = rise steps - 1 and b = steps - 1 the rate is top / divide at t = 0, top at a, the last at b.
    """

    limits = {"steps": COUNT, "rise": SHARE, "divide": POSITIVE, "end_divide": POSITIVE}  # noqa: RUF012

    def __init__(
        self,
        optimiser: Optimiser,
        top: float | Sequence[float],
        steps: int,
        rise: float = 0.3,
        divide: float = 25.0,
        end_divide: float = 1e4,
        shape: str = "cosine",
        per: str = "batch",
    ) -> None:
        super().__init__(optimiser, per)
        self.steps, self.rise, self.divide, self.end_divide = steps, rise, divide, end_divide
        if shape not in ("cosine", "linear"):
            raise ArgumentError(f"OneCycleLR: shape must be 'cosine' or 'linear', got {shape!r}")
        self.shape = shape
        groups = len(optimiser.param_groups)
        tops = list(top) if isinstance(top, (list, tuple)) else [top] * groups
        if len(tops) != groups:
            raise ArgumentError(f"OneCycleLR: top must be a learning rate, or a list of {groups}, one per group, got {top!r}")
        self.starts = [number("OneCycleLR", "top", value) for value in tops]
        optimiser.rates = [self.rate(value, value) for value in self.starts]

    def rate(self, start: float, now: float) -> float:
        low, last = start / self.divide, start / self.divide / self.end_divide
        a, b = self.rise * self.steps - 1, self.steps - 1
        t = min(self.t, b)
        interpolate = cosine if self.shape == "cosine" else linear
        if t <= a:
            return interpolate(low, start, t / a if a > 0 else 1.0)
        return interpolate(start, last, (t - a) / (b - a) if b > a else 1.0)


class Warmup(Schedule):
    """rate = start (t + 1) / (epochs + 1) during the warm-up, then start, or the rate of the schedule `then`.

    epochs   number of warm-up steps, at least 1: batches if per="batch"
    then     a schedule of the same optimiser, created before this one, with the same `per`
    per      "epoch" or "batch": when `step` is called; None for that of `then`, or "epoch"
    """

    limits = {"epochs": COUNT}  # noqa: RUF012

    def __init__(self, optimiser: Optimiser, epochs: int, then: Schedule | None = None, per: str | None = None) -> None:
        if then is not None and not isinstance(then, Schedule):
            raise ArgumentError(f"Warmup: `then` must be a Schedule, got {type(then).__name__}")
        if then is not None and then.optimiser is not optimiser:
            raise ArgumentError("Warmup: `then` is a schedule of a different optimiser")
        if then is not None and per not in (None, then.per):
            raise ArgumentError(f"Warmup: per is {per!r}, but `then` has per={then.per!r}")
        super().__init__(optimiser, per or (then.per if then is not None else "epoch"))
        self.epochs, self.then = epochs, then
        optimiser.rates = [start / (self.epochs + 1) for start in self.starts]

    def see(self, cost: float | None) -> None:
        if self.t >= self.epochs and self.then is not None:
            self.then.step(cost)

    def rate(self, start: float, now: float) -> float:
        if self.t <= self.epochs:
            return start * (self.t + 1) / (self.epochs + 1)
        return start if self.then is None else now


def cosine(first: float, last: float, share: float) -> float:
    """Interpolate between two numbers along half a cosine."""
    return last + (first - last) * (1 + math.cos(math.pi * share)) / 2


def linear(first: float, last: float, share: float) -> float:
    """Interpolate linearly between two numbers."""
    return first + (last - first) * share

"""What all learning-rate schedules share: the rates that they begin with, the steps that they count."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar

from tensorgrad.errors import ArgumentError
from tensorgrad.optim.arguments import Limits, number
from tensorgrad.optim.optimiser import Optimiser


class Schedule:
    """Base of the schedules. `step` sets the rate of each group of the optimiser by that with which the group began.

    optimiser   whose rates it sets
    per         "epoch" or "batch": after what `step` is called, by `train.fit` or by a loop that is written by hand. One that
                looks at the cost, such as ReduceOnPlateau, goes by epochs

    starts      the rate of each group when the schedule was made
    t           how many steps it has made

    A subclass defines `rate(start, now)`, the rate after step t, with what it keeps in attributes: numbers, text, arrays, None,
    lists and dicts of them, other schedules. Numbers are checked by its `limits` whenever they are set. Functions are not kept
    in checkpoints. A copy (copy.copy) is of the same optimiser, a deep copy and a pickle have a copy of it.
    """

    limits: ClassVar[Mapping[str, Limits]] = {}

    def __init__(self, optimiser: Optimiser, per: str = "epoch") -> None:
        if not isinstance(optimiser, Optimiser):
            raise ArgumentError(f"{type(self).__name__}: optimiser must be an Optimiser, got {type(optimiser).__name__}")
        if per not in ("epoch", "batch"):
            raise ArgumentError(f"{type(self).__name__}: per must be 'epoch' or 'batch', got {per!r}")
        self.optimiser = optimiser
        self.per = per
        self.starts = list(optimiser.rates)
        self.t = 0

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.limits:
            value = number(type(self).__name__, name, value, self.limits[name])
        object.__setattr__(self, name, value)

    def __copy__(self) -> Schedule:
        """What it has of its own is copied, a schedule inside of it included; the optimiser is the same."""
        found = object.__new__(type(self))
        values = {name: copy.copy(value) for name, value in vars(self).items() if name != "optimiser"}
        vars(found).update(values, optimiser=self.optimiser)
        return found

    @property
    def start(self) -> float:
        """The rate that the (first) group began with."""
        return self.starts[0]

    def step(self, cost: float | None = None) -> float | list[float]:
        """The end of an epoch, whose cost some schedules need, or of a batch (`per`); returns the rate of the next, in a list
        if there are several groups."""
        self.see(cost)
        self.t += 1
        groups = self.optimiser.param_groups
        self.starts += [group["lr"] for group in groups[len(self.starts) :]]  # added since
        for i, group in enumerate(groups):
            group["lr"] = self.rate_of(i, self.starts[i], group["lr"])
        rates = list(self.optimiser.rates)
        return rates[0] if len(rates) == 1 else rates

    def see(self, cost: float | None) -> None:
        """What a subclass has to know of the epoch that has ended."""

    def rate_of(self, group: int, start: float, now: float) -> float:
        """The rate of a group after step t, for a subclass that treats groups differently."""
        return self.rate(start, now)

    def rate(self, start: float, now: float) -> float:
        """The rate after step t of a group that began with `start` and has `now` so far. What a subclass defines."""
        raise TypeError(f"{type(self).__name__} does not define rate()")

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on, besides the optimiser."""
        kept = {name: value for name, value in vars(self).items() if name != "optimiser" and not is_function(value)}
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


def is_function(value: Any) -> bool:
    """Whether it is a function, or a list of functions."""
    return callable(value) or (isinstance(value, (list, tuple)) and bool(value) and all(map(callable, value)))

"""The base class of learning-rate schedules."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar

from tensorgrad.core.form import ANYTHING, COUNT, INTEGER, NUMBER, Each, described, form_of, problems
from tensorgrad.core.location import is_own
from tensorgrad.core.state import suggesting_keywords
from tensorgrad.errors import ArgumentError
from tensorgrad.optim.arguments import Limits, number
from tensorgrad.optim.optimiser import Optimiser


class Schedule:
    """Base of the schedules. `step` sets the rate of each group of the optimiser, computed from the group's initial rate.

    optimiser   the optimiser whose rates are set
    per         "epoch" or "batch": when `train.fit`, or a hand-written loop, calls `step`. Schedules that depend on the loss,
                such as ReduceOnPlateau, step per epoch

    starts      the rate of each group when the schedule was created
    t           number of steps so far

    A subclass defines `rate(start, now)`, the rate after step t. Its attributes are saved in checkpoints: numbers, text,
    arrays, None, lists and dicts of these, other schedules; functions are not saved. `limits` gives the valid ranges of
    numbers, which are checked when they are set. copy.copy shares the optimiser, copy.deepcopy and pickle copy it.
    """

    limits: ClassVar[Mapping[str, Limits]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__init__" in vars(cls) and is_own(cls.__module__):
            cls.__init__ = suggesting_keywords(cls.__init__)  # type: ignore[method-assign]

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
        """Copy attributes, including an inner schedule; share the optimiser."""
        clone = object.__new__(type(self))
        values = {name: copy.copy(value) for name, value in vars(self).items() if name != "optimiser"}
        vars(clone).update(values, optimiser=self.optimiser)
        return clone

    def __repr__(self) -> str:
        settings = {name: value for name, value in vars(self).items() if name not in ("optimiser", "starts", "per", "t")}
        rates = ", ".join(f"{rate:g}" for rate in self.optimiser.rates)
        texts = [
            f"{name}={f'{v:g}' if isinstance(v, float) else repr(v)}" for name, v in settings.items() if not is_function(v)
        ]
        return f"{type(self).__name__}({', '.join([*texts, f'per={self.per!r}'])}; t={self.t}, lr={rates})"

    @property
    def start(self) -> float:
        """The initial rate of the (first) group."""
        return self.starts[0]

    def step(self, cost: float | None = None) -> float | list[float]:
        """Call at the end of an epoch (some schedules need its cost) or of a batch (`per`). Returns the next rate, a list if
        there are several groups.
        """
        self.see(cost)
        self.t += 1
        groups = self.optimiser.param_groups
        self.starts += [group["lr"] for group in groups[len(self.starts) :]]  # groups added since the last step
        for i, group in enumerate(groups):
            group["lr"] = self.rate_of(i, self.starts[i], group["lr"])
        rates = list(self.optimiser.rates)
        return rates[0] if len(rates) == 1 else rates

    def see(self, cost: float | None) -> None:
        """Called with the cost of each epoch; for subclasses."""

    def rate_of(self, group: int, start: float, now: float) -> float:
        """The rate of a group after step t; override it to treat groups differently."""
        return self.rate(start, now)

    def rate(self, start: float, now: float) -> float:
        """The rate after step t for an initial rate `start` and a current rate `now`. Subclasses define it."""
        raise TypeError(f"{type(self).__name__} does not define rate()")

    def state_dict(self) -> dict[str, Any]:
        """Return everything but the optimiser that the next step depends on."""
        attributes = {name: value for name, value in vars(self).items() if name != "optimiser" and not is_function(value)}
        attributes["starts"] = [*self.starts, *self.optimiser.rates[len(self.starts) :]]  # groups added since the last step
        return {
            name: {"type": type(value).__name__, **value.state_dict()} if isinstance(value, Schedule) else copy.deepcopy(value)
            for name, value in attributes.items()
        }

    def misfits(self, values: Any) -> list[str]:
        """The reasons why a state_dict cannot be loaded, in words.

        User-defined schedules may have gained attributes, and their numbers may be floats where these are integers.
        """
        if not isinstance(values, Mapping):
            return [f"it is {described(values)}, expected a dict"]
        current, is_ours = self.state_dict(), is_own(type(self).__module__)
        schedules = {name: part for name, part in vars(self).items() if isinstance(part, Schedule)}
        form = {name: form_of(v) if is_ours and v is not None else loose_form_of(v) for name, v in current.items()}
        form |= dict.fromkeys(schedules, ANYTHING)
        form |= {"t": COUNT, "starts": [NUMBER]}
        if not is_ours:
            new = [name for name in values if isinstance(name, str) and name.isidentifier() and not hasattr(type(self), name)]
            form |= {name: ANYTHING for name in new if name not in form and not name.startswith("__") and name != "optimiser"}
        if reasons := problems(values, form):
            return reasons
        if values["per"] not in ("epoch", "batch"):
            reasons.append(f"per is {values['per']!r}, expected 'epoch' or 'batch'")
        if len(values["starts"]) != len(current["starts"]):
            reasons.append(f"starts for {len(values['starts'])} groups, expected {len(current['starts'])}")
        for name, value in values.items():
            if name in schedules:
                reasons += inner_misfits(name, schedules[name], value)
            elif (isinstance(value, Mapping) and "type" in value) or (is_ours and current[name] is None and value is not None):
                kind = f"a {value['type']}" if isinstance(value, Mapping) and "type" in value else described(value)
                reasons.append(f"{name} is {kind}, not {described(current.get(name))}")
            elif name in self.limits:
                try:
                    number(type(self).__name__, name, value, self.limits[name])
                except ArgumentError as error:
                    reasons.append(str(error))
        return reasons

    def load_state_dict(self, values: Mapping[str, Any]) -> None:
        """Restore the state from a dict of `state_dict`. Raises ArgumentError, before any change, if `values` is not such a
        state.
        """
        if found := self.misfits(values):
            raise ArgumentError(f"{type(self).__name__}.load_state_dict: {'; '.join(found)}")
        for name, value in values.items():
            current = getattr(self, name, None)
            if isinstance(current, Schedule):
                current.load_state_dict({name: v for name, v in value.items() if name != "type"})
            else:
                setattr(self, name, copy.deepcopy(value))


def inner_misfits(name: str, schedule: Schedule, values: Any) -> list[str]:
    """The reasons why the state of an inner schedule cannot be loaded."""
    kind = type(schedule).__name__
    saved_kind = f"a {values.get('type')}" if isinstance(values, Mapping) else described(values)
    if saved_kind != f"a {kind}":
        return [f"{name} is {saved_kind}, not a {kind}"]
    return [f"{name}: {problem}" for problem in schedule.misfits({key: v for key, v in values.items() if key != "type"})]


def loose_form_of(value: Any) -> Any:
    """The expected structure of a user-defined schedule's attribute: any number, list or dict matches its kind."""
    form = form_of(value)
    if isinstance(form, dict):
        return Each(ANYTHING)
    return [ANYTHING] if isinstance(form, list) else NUMBER if form is INTEGER else form


def is_function(value: Any) -> bool:
    """Whether a value is a function or a list of functions."""
    return callable(value) or (isinstance(value, (list, tuple)) and bool(value) and all(map(callable, value)))

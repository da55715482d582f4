"""What all learning-rate schedules share: the rates that they begin with, the steps that they count."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar

from tensorgrad.core.form import ANYTHING, COUNT, NUMBER, WHOLE, Each, described, form_of, problems
from tensorgrad.core.location import is_own
from tensorgrad.core.state import answering
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

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__init__" in vars(cls) and is_own(cls.__module__):
            cls.__init__ = answering(cls.__init__)  # type: ignore[method-assign]

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

    def __repr__(self) -> str:
        inner = {name: value for name, value in vars(self).items() if name not in ("optimiser", "starts", "per", "t")}
        rates = ", ".join(f"{rate:g}" for rate in self.optimiser.rates)
        words = [f"{name}={f'{v:g}' if isinstance(v, float) else repr(v)}" for name, v in inner.items() if not is_function(v)]
        return f"{type(self).__name__}({', '.join([*words, f'per={self.per!r}'])}; t={self.t}, lr={rates})"

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
        kept["starts"] = [*self.starts, *self.optimiser.rates[len(self.starts) :]]  # of groups added since the last step
        return {
            name: {"type": type(value).__name__, **value.state_dict()} if isinstance(value, Schedule) else copy.deepcopy(value)
            for name, value in kept.items()
        }

    def misfits(self, values: Any) -> list[str]:
        """What keeps a state_dict from being loaded, in words.

        A schedule of yours may have more attributes than this one by now; its numbers need not be whole where these are.
        """
        if not isinstance(values, Mapping):
            return [f"it is {described(values)}, expected a dict"]
        own, is_ours = self.state_dict(), is_own(type(self).__module__)
        inner = {name: part for name, part in vars(self).items() if isinstance(part, Schedule)}
        form = {name: form_of(v) if is_ours and v is not None else loose_form_of(v) for name, v in own.items()}
        form |= dict.fromkeys(inner, ANYTHING)
        form |= {"t": COUNT, "starts": [NUMBER]}
        if not is_ours:
            more = [name for name in values if isinstance(name, str) and name.isidentifier() and not hasattr(type(self), name)]
            form |= {name: ANYTHING for name in more if name not in form and not name.startswith("__") and name != "optimiser"}
        if found := problems(values, form):
            return found
        if values["per"] not in ("epoch", "batch"):
            found.append(f"per is {values['per']!r}, expected 'epoch' or 'batch'")
        if len(values["starts"]) != len(own["starts"]):
            found.append(f"starts of {len(values['starts'])} groups for {len(own['starts'])}")
        for name, value in values.items():
            if name in inner:
                found += inner_misfits(name, inner[name], value)
            elif (isinstance(value, Mapping) and "type" in value) or (is_ours and own[name] is None and value is not None):
                kind = f"a {value['type']}" if isinstance(value, Mapping) and "type" in value else described(value)
                found.append(f"{name} is {kind}, not {described(own.get(name))}")
            elif name in self.limits:
                try:
                    number(type(self).__name__, name, value, self.limits[name])
                except ArgumentError as error:
                    found.append(str(error))
        return found

    def load_state_dict(self, values: Mapping[str, Any]) -> None:
        """Go on as the schedule that `state_dict` was taken from. Raises ArgumentError, before anything is changed, for what is
        no such state."""
        if found := self.misfits(values):
            raise ArgumentError(f"{type(self).__name__}.load_state_dict: {'; '.join(found)}")
        for name, value in values.items():
            own = getattr(self, name, None)
            if isinstance(own, Schedule):
                own.load_state_dict({name: v for name, v in value.items() if name != "type"})
            else:
                setattr(self, name, copy.deepcopy(value))


def inner_misfits(name: str, own: Schedule, values: Any) -> list[str]:
    """What keeps a schedule inside of another one from going on as what is in a state_dict."""
    kind = type(own).__name__
    found = f"a {values.get('type')}" if isinstance(values, Mapping) else described(values)
    if found != f"a {kind}":
        return [f"{name} is {found}, not a {kind}"]
    return [f"{name}: {problem}" for problem in own.misfits({key: v for key, v in values.items() if key != "type"})]


def loose_form_of(value: Any) -> Any:
    """The form of what a schedule of somebody's own keeps: a number may be another one, a list and a dict hold others."""
    form = form_of(value)
    if isinstance(form, dict):
        return Each(ANYTHING)
    return [ANYTHING] if isinstance(form, list) else NUMBER if form is WHOLE else form


def is_function(value: Any) -> bool:
    """Whether it is a function, or a list of functions."""
    return callable(value) or (isinstance(value, (list, tuple)) and bool(value) and all(map(callable, value)))

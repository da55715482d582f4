"""The parameters of an optimiser, in groups with settings and in flat arrays."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from tensorgrad.core.backend import Array, put
from tensorgrad.core.backend import copy as copied
from tensorgrad.core.location import is_own
from tensorgrad.core.ranks import ranks
from tensorgrad.core.state import changes, state, suggesting_keywords
from tensorgrad.core.tensor import Tensor
from tensorgrad.errors import ArgumentError, GraphError
from tensorgrad.optim.arguments import Limits, number, option, parameters
from tensorgrad.optim.block import Block, blocks_of
from tensorgrad.optim.group import ParamGroup, Settings

DEFAULT_LIMITS: dict[str, Limits | type[bool]] = {"lr": Limits(), "weight_decay": Limits(), "eps": Limits(), "maximize": bool}

UNTRACKED = ("lr", "rates", "steps", "late")  # changes that compiled steps follow without a new plan


class Parameters:
    """Base of Optimiser: parameters and their state, in groups and blocks."""

    slots: tuple[str, ...] = ()
    limits: ClassVar[Mapping[str, Limits | type[bool]]] = {}  # of settings; bool for options
    later: ClassVar[Mapping[str, Any]] = {}  # settings that files of older versions lack, with their values for those
    reread_settings: tuple[str, ...] = ()  # settings from which `numbers` computes other numbers

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__init__" in vars(cls) and is_own(cls.__module__):
            cls.__init__ = suggesting_keywords(cls.__init__)  # type: ignore[method-assign]

    def __init__(self, params: Any, lr: float, maximize: bool = False, **settings: Any) -> None:
        name = type(self).__name__
        self.defaults = self.checked({"lr": lr, **settings, "maximize": maximize})
        self.params: list[Tensor] = []
        self.param_groups: tuple[ParamGroup, ...] = ()
        self.late: tuple[int, ...] = ()
        self.steps = 0
        self.blocks: list[Block] = []
        self._warned = False
        entries = parameters(name, params)
        if any(isinstance(entry, Mapping) for entry in entries):
            for entry in entries:
                self.add_param_group(entry)
        else:
            self.add_param_group({"params": entries})

    def __repr__(self) -> str:
        name, size = type(self).__name__, sum(p.size for p in self.params)
        counts = f"{counted(len(self.params), 'parameter')}, {size:,} numbers, {counted(self.steps, 'step')} made"
        settings = [settings_of(group) for group in self.param_groups]
        if len(settings) == 1:
            return f"{name}({settings[0]}; {counts})"
        sizes = [counted(len(group["params"]), "parameter") for group in self.param_groups]
        lines = [f"  group {i}: {text}; {size}" for i, (text, size) in enumerate(zip(settings, sizes, strict=True))]
        return "\n".join([f"{name}({len(settings)} groups; {counts})", *lines])

    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """Add parameters to train: {"params": ..., "lr": ..., ...}; missing settings have the optimiser's initial values.

        Raises ArgumentError for unknown names, invalid numbers and parameters that the optimiser already has; GraphError for
        anything but leaves that require a gradient.
        """
        if state.trace is not None:
            state.trace.forbid("add_param_group()")
        name = type(self).__name__
        if not isinstance(group, Mapping) or "params" not in group:
            raise ArgumentError(f"{name}: a group must be a dict that has 'params', got {group!r}")
        if unknown := group.keys() - self.defaults.keys() - {"params"}:
            expected = ", ".join(["params", *self.defaults])
            raise ArgumentError(f"{name}: a group has {', '.join(map(repr, sorted(unknown)))}, expected {expected}")
        new_params = parameters(name, group["params"])
        for i, p in enumerate(new_params, len(self.params)):
            if not isinstance(p, Tensor) or not p.is_leaf or not p.requires_grad:
                raise GraphError(f"{name}: parameter {i} must be a leaf Tensor that requires a gradient, got {p!r}")
        params = [*self.params, *new_params]
        if len(set(params)) < len(params):
            raise ArgumentError(f"{name}: a parameter occurs twice in params")
        overrides = {key: value for key, value in group.items() if key != "params"}
        values = self.checked({"params": tuple(new_params), **self.defaults, **overrides}, self.defaults)
        new_group = ParamGroup(type(self), values)
        old_state = self.state
        self.params, self.param_groups = params, (*self.param_groups, new_group)
        self.late = (*self.late, *[self.steps] * len(new_params))
        self.lay_out(old_state)
        if ranks.group is not None:
            for block in self.blocks:
                put(block.flat, ranks.broadcast(block.flat if ranks.is_first else None))

    @classmethod
    def checked(cls, values: dict[str, Any], like: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Rate and settings in their stored types. Raises ArgumentError for invalid ones.

        like   the values that they replace: a number must stay a number
        """
        values = {**values, **{name: value for name, value in cls.later.items() if name not in values}}
        return {name: cls.checked_one(name, value, (like or values).get(name)) for name, value in values.items()}

    @classmethod
    def checked_one(cls, name: str, value: Any, like: Any) -> Any:
        """Check one setting against its `limits`: a number or a boolean. Subclasses with other types override this."""
        if name == "params":
            return value
        limits = cls.limits.get(name) or DEFAULT_LIMITS.get(name) or (bool if isinstance(like, (bool, np.bool_)) else Limits())
        if isinstance(limits, Limits):
            return number(cls.__name__, name, value, limits)
        return option(cls.__name__, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in UNTRACKED:
            changes.count += 1
        object.__setattr__(self, name, value)

    # Copies

    def __getstate__(self) -> dict[str, Any]:
        """State for copies and pickles, without the flat arrays, whose views would be copied separately."""
        attributes = {name: value for name, value in vars(self).items() if name != "blocks"}
        return {**attributes, "arrays": [{slot: copied(array) for slot, array in arrays.items()} for arrays in self.state]}

    def __setstate__(self, values: dict[str, Any]) -> None:
        needed = ("defaults", "params", "param_groups", "late", "steps", "_warned", "arrays")
        if missing := [name for name in needed if name not in values]:
            raise ArgumentError(
                f"{type(self).__name__}: a pickle without {', '.join(missing)}; it was written by another version"
            )
        values = dict(values)
        arrays = values.pop("arrays")
        vars(self).update(values)
        self.lay_out(arrays)

    def __copy__(self) -> Any:
        clone = object.__new__(type(self))
        values = self.__getstate__()
        groups = tuple(copy.copy(g) for g in self.param_groups)
        clone.__setstate__({**values, "params": list(self.params), "param_groups": groups, "defaults": dict(self.defaults)})
        return clone

    # Settings of all groups

    @property
    def lr(self) -> float:
        """The learning rate of all groups. Raises ArgumentError if they differ."""
        rates: list[float] = [group["lr"] for group in self.param_groups]
        if any(rate != rates[0] for rate in rates):
            raise ArgumentError(
                f"{type(self).__name__}: its {len(rates)} groups have the learning rates {', '.join(map(str, rates))}; "
                f"look at param_groups[i]['lr']"
            )
        return rates[0]

    @lr.setter
    def lr(self, value: float) -> None:
        rate = self.checked_one("lr", value, 0.0)
        for group in self.param_groups:
            group["lr"] = rate

    @property
    def rates(self) -> tuple[float, ...]:
        """The learning rate of each group."""
        return tuple([group["lr"] for group in self.param_groups])

    @rates.setter
    def rates(self, values: Sequence[float]) -> None:
        for group, value in zip(self.param_groups, values, strict=True):
            group["lr"] = value

    @property
    def settings(self) -> Settings:
        """The settings of all groups: setting one sets it in each group; reading one is an error if groups differ."""
        return Settings(type(self).__name__, self.param_groups)

    @settings.setter
    def settings(self, values: Mapping[str, Any]) -> None:
        self.settings.update(values)

    @property
    def state(self) -> list[dict[str, Array]]:
        """For each parameter a dict of slot to array, views of the flat arrays."""
        arrays: list[dict[str, Array]] = [{} for _ in self.params]
        for block in self.blocks:
            for i, (start, stop) in zip(block.indices, block.parts, strict=True):
                shape = self.params[i].shape
                arrays[i] = {slot: array[start:stop].reshape(shape) for slot, array in block.state.items()}
        return arrays

    # Memory

    def slots_of(self, group: ParamGroup) -> tuple[str, ...]:
        """The slots for the settings of a group."""
        return self.slots

    def arrays(self) -> list[Array]:
        """All arrays that a step changes: parameters and state, flat."""
        if self.scattered():
            self.gather()
        return [array for block in self.blocks for array in (block.flat, *block.state.values())]

    def scattered(self) -> bool:
        """Whether some parameters no longer are views of the flat arrays."""
        return any([self.params[i]._data.base is not block.flat.base for block in self.blocks for i in block.indices])

    def gather(self) -> None:
        """Move the parameters back into the flat arrays; if device or dtype changed, into new ones together with their
        state.
        """
        if all(
            (p.dtype, p.device) == (b.flat.dtype, b.device) for b in self.blocks for p in [self.params[i] for i in b.indices]
        ):
            for block in self.blocks:
                block.gather(self.params)
            return
        self.lay_out(self.state)

    def lay_out(self, before: Iterable[Mapping[str, Any]] = ()) -> None:
        """Allocate new flat arrays for the parameters and the given state."""
        self.blocks = blocks_of(self.params, self.param_groups, self.slots_of)
        self.restore([*before, *[{}] * len(self.params)][: len(self.params)])

    def restore(self, state: Iterable[Mapping[str, Any]]) -> None:
        """Load state arrays, a dict of slot to array for each parameter; missing slots become 0."""
        for slots, arrays in zip(self.state, state, strict=True):
            for slot, array in slots.items():
                put(array, arrays.get(slot, 0))


def settings_of(group: Mapping[str, Any]) -> str:
    """Rate and settings of a group, for the repr of an optimiser."""
    texts = {key: f"{value:g}" if isinstance(value, float) else value for key, value in group.items() if key != "params"}
    return ", ".join(f"{key}={value}" for key, value in texts.items())


def counted(n: int, thing: str) -> str:
    return f"{n:,} {thing}{'s' * (n != 1)}"

"""The parameters of an optimiser: in groups, with their rates and settings, and in the flat arrays that they lie in."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from tensorgrad.core.backend import Array, put
from tensorgrad.core.backend import copy as copied
from tensorgrad.core.location import is_own
from tensorgrad.core.ranks import ranks
from tensorgrad.core.state import answering, changes, state
from tensorgrad.core.tensor import Tensor
from tensorgrad.errors import ArgumentError, GraphError
from tensorgrad.optim.arguments import Limits, number, option, parameters
from tensorgrad.optim.block import Block, blocks_of
from tensorgrad.optim.group import ParamGroup, Settings

USUAL: dict[str, Limits | type[bool]] = {"lr": Limits(), "weight_decay": Limits(), "eps": Limits(), "maximize": bool}

UNCOUNTED = ("lr", "rates", "steps", "late")  # what compiled steps read anew


class Parameters:
    """What an optimiser has: its parameters and their state, in groups and in blocks. See Optimiser, which is made of it."""

    slots: tuple[str, ...] = ()
    limits: ClassVar[Mapping[str, Limits | type[bool]]] = {}  # of settings; bool for options
    later: ClassVar[Mapping[str, Any]] = {}  # settings that files of older versions do not have, as which those are read
    anew: tuple[str, ...] = ()  # settings from which `numbers` makes numbers of other names

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__init__" in vars(cls) and is_own(cls.__module__):
            cls.__init__ = answering(cls.__init__)  # type: ignore[method-assign]

    def __init__(self, params: Any, lr: float, maximize: bool = False, **settings: Any) -> None:
        name = type(self).__name__
        self.defaults = self.checked({"lr": lr, **settings, "maximize": maximize})
        self.params: list[Tensor] = []
        self.param_groups: tuple[ParamGroup, ...] = ()
        self.late: tuple[int, ...] = ()
        self.steps = 0
        self.blocks: list[Block] = []
        self._warned = False
        found = parameters(name, params)
        if any(isinstance(part, Mapping) for part in found):
            for part in found:
                self.add_param_group(part)
        else:
            self.add_param_group({"params": found})

    def __repr__(self) -> str:
        name, size = type(self).__name__, sum(p.size for p in self.params)
        made = f"{counted(len(self.params), 'parameter')}, {size:,} numbers, {counted(self.steps, 'step')} made"
        settings = [settings_of(group) for group in self.param_groups]
        if len(settings) == 1:
            return f"{name}({settings[0]}; {made})"
        sizes = [counted(len(group["params"]), "parameter") for group in self.param_groups]
        lines = [f"  group {i}: {text}; {size}" for i, (text, size) in enumerate(zip(settings, sizes, strict=True))]
        return "\n".join([f"{name}({len(settings)} groups; {made})", *lines])

    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """Train more parameters: {"params": ..., "lr": ..., ...}, what is left out being as the optimiser was made.

        Raises ArgumentError for unknown names, numbers that will not do, and parameters that are there already; GraphError for
        what is no leaf that requires a gradient.
        """
        if state.trace is not None:
            state.trace.forbid("add_param_group()")
        name = type(self).__name__
        if not isinstance(group, Mapping) or "params" not in group:
            raise ArgumentError(f"{name}: a group must be a dict that has 'params', got {group!r}")
        if unknown := group.keys() - self.defaults.keys() - {"params"}:
            known = ", ".join(["params", *self.defaults])
            raise ArgumentError(f"{name}: a group has {', '.join(map(repr, sorted(unknown)))}, known are {known}")
        found = parameters(name, group["params"])
        for i, p in enumerate(found, len(self.params)):
            if not isinstance(p, Tensor) or not p.is_leaf or not p.requires_grad:
                raise GraphError(f"{name}: parameter {i} must be a leaf Tensor that requires a gradient, got {p!r}")
        params = [*self.params, *found]
        if len(set(params)) < len(params):
            raise ArgumentError(f"{name}: params has a parameter twice")
        own = {key: value for key, value in group.items() if key != "params"}
        values = self.checked({"params": tuple(found), **self.defaults, **own}, self.defaults)
        made = ParamGroup(type(self), values)
        before = self.state
        self.params, self.param_groups = params, (*self.param_groups, made)
        self.late = (*self.late, *[self.steps] * len(found))
        self.lay_out(before)
        if ranks.group is not None:
            for block in self.blocks:
                put(block.flat, ranks.shared(block.flat if ranks.is_first else None))

    @classmethod
    def checked(cls, values: dict[str, Any], like: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """A rate and settings as what they are kept as. Raises ArgumentError for those that will not do.

        like   what they take the place of: a number is to stay a number
        """
        values = {**values, **{name: value for name, value in cls.later.items() if name not in values}}
        return {name: cls.checked_one(name, value, (like or values).get(name)) for name, value in values.items()}

    @classmethod
    def checked_one(cls, name: str, value: Any, like: Any) -> Any:
        """A setting that fits its `limits`: a number, or True or False. A subclass that has others says so here."""
        if name == "params":
            return value
        limits = cls.limits.get(name) or USUAL.get(name) or (bool if isinstance(like, (bool, np.bool_)) else Limits())
        if isinstance(limits, Limits):
            return number(cls.__name__, name, value, limits)
        return option(cls.__name__, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in UNCOUNTED:
            changes.count += 1
        object.__setattr__(self, name, value)

    # Copies

    def __getstate__(self) -> dict[str, Any]:
        """What a copy or a pickle is made of: not the flat arrays, for their parts would be copied apart from them."""
        kept = {name: value for name, value in vars(self).items() if name != "blocks"}
        return {**kept, "arrays": [{slot: copied(array) for slot, array in arrays.items()} for arrays in self.state]}

    def __setstate__(self, values: dict[str, Any]) -> None:
        needed = ("defaults", "params", "param_groups", "late", "steps", "_warned", "arrays")
        if missing := [name for name in needed if name not in values]:
            raise ArgumentError(f"{type(self).__name__}: a pickle without {', '.join(missing)}; another version has made it")
        values = dict(values)
        arrays = values.pop("arrays")
        vars(self).update(values)
        self.lay_out(arrays)

    def __copy__(self) -> Any:
        found = object.__new__(type(self))
        values = self.__getstate__()
        groups = tuple(copy.copy(g) for g in self.param_groups)
        found.__setstate__({**values, "params": list(self.params), "param_groups": groups, "defaults": dict(self.defaults)})
        return found

    # Rates and settings of all groups

    @property
    def lr(self) -> float:
        """The learning rate of all groups. Raises ArgumentError where they differ."""
        found: list[float] = [group["lr"] for group in self.param_groups]
        if any(rate != found[0] for rate in found):
            raise ArgumentError(
                f"{type(self).__name__}: its {len(found)} groups have the rates {', '.join(map(str, found))}; "
                f"look at param_groups[i]['lr']"
            )
        return found[0]

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
        """The settings of all groups, as a dict: set, one is that of each group; read where they differ, it is an error."""
        return Settings(type(self).__name__, self.param_groups)

    @settings.setter
    def settings(self, values: Mapping[str, Any]) -> None:
        self.settings.update(values)

    @property
    def state(self) -> list[dict[str, Array]]:
        """For each parameter slot to array, parts of the flat arrays."""
        found: list[dict[str, Array]] = [{} for _ in self.params]
        for block in self.blocks:
            for i, (start, stop) in zip(block.indices, block.parts, strict=True):
                shape = self.params[i].shape
                found[i] = {slot: array[start:stop].reshape(shape) for slot, array in block.state.items()}
        return found

    # Memory

    def slots_of(self, group: ParamGroup) -> tuple[str, ...]:
        """The slots that a group with these settings has."""
        return self.slots

    def arrays(self) -> list[Array]:
        """What a step changes: the flat arrays of the parameters and of their state."""
        if self.scattered():
            self.gather()
        return [array for block in self.blocks for array in (block.flat, *block.state.values())]

    def scattered(self) -> bool:
        """Whether parameters have been given other memory than the flat arrays."""
        return any([self.params[i]._data.base is not block.flat.base for block in self.blocks for i in block.indices])

    def gather(self) -> None:
        """Let the parameters lie in the flat arrays again; on another device or of another dtype now, in new ones, to which the
        state is taken."""
        if all(
            (p.dtype, p.device) == (b.flat.dtype, b.device) for b in self.blocks for p in [self.params[i] for i in b.indices]
        ):
            for block in self.blocks:
                block.gather(self.params)
            return
        self.lay_out(self.state)

    def lay_out(self, before: Iterable[Mapping[str, Any]] = ()) -> None:
        """Put the parameters into flat arrays anew, and this state beside them."""
        self.blocks = blocks_of(self.params, self.param_groups, self.slots_of)
        self.restore([*before, *[{}] * len(self.params)][: len(self.params)])

    def restore(self, state: Iterable[Mapping[str, Any]]) -> None:
        """Put these arrays, slot to array for each parameter, in the places of its own; a slot that is missing becomes 0."""
        for own, arrays in zip(self.state, state, strict=True):
            for slot, array in own.items():
                put(array, arrays.get(slot, 0))


def settings_of(group: Mapping[str, Any]) -> str:
    """What an optimiser's repr says of a group: rate and settings."""
    shown = {key: f"{value:g}" if isinstance(value, float) else value for key, value in group.items() if key != "params"}
    return ", ".join(f"{key}={value}" for key, value in shown.items())


def counted(n: int, thing: str) -> str:
    return f"{n:,} {thing}{'s' * (n != 1)}"

"""Parameter groups with their settings, and a view of the settings of all groups."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any, Protocol

from tensorgrad.core.state import changes
from tensorgrad.errors import ArgumentError


class Checks(Protocol):
    """Validates settings: the class of an optimiser."""

    def checked(self, values: dict[str, Any], like: Mapping[str, Any] | None = None, /) -> dict[str, Any]:
        """Settings in their stored types; an error for invalid ones. like: the values that they replace."""
        raise NotImplementedError

    def checked_one(self, name: str, value: Any, like: Any, /) -> Any:
        """`checked` for one setting."""


class ParamGroup(dict[str, Any]):
    """A group of parameters ("params"), its learning rate ("lr") and the other settings, by name.

    New values are checked like the optimiser's arguments. Only `Optimiser.add_param_group` adds parameters.

    kind      the optimiser's class, which checks values
    version   incremented when a setting other than the rate changes
    """

    def __init__(self, kind: Checks, values: dict[str, Any]) -> None:
        super().__init__(kind.checked(values))
        self.kind = kind
        self.version = 0

    def __setitem__(self, key: str, value: Any) -> None:
        if key == "lr":
            super().__setitem__("lr", self.kind.checked_one("lr", value, 0.0))
        else:
            self.update({key: value})

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Set several settings at once; if one is invalid, none is set."""
        settings = dict(*args, **kwargs)
        for key in settings:
            if key not in self or key == "params":
                names = ", ".join(name for name in self if name != "params")
                raise ArgumentError(f"param_groups: {key!r} cannot be set, only {names}; add_param_group adds parameters")
        values = self.kind.checked({**self, **settings}, self)
        for key in settings:
            super().__setitem__(key, values[key])
        if settings.keys() - {"lr"}:
            self.version += 1
            changes.count += 1

    def __ior__(self, other: Any) -> ParamGroup:  # type: ignore[override,misc]
        self.update(other)
        return self

    def setdefault(self, key: str, default: Any = None) -> Any:
        """The current value; unknown names are refused."""
        if key not in self:
            self.update({key: default})
        return self[key]

    def __delitem__(self, key: str) -> None:
        raise ArgumentError(f"param_groups: {key!r} cannot be removed from a group")

    def pop(self, key: str, default: Any = None) -> Any:
        """Refused: a group needs all its settings."""
        del self[key]

    def popitem(self) -> Any:
        """Refused: a group needs all its settings."""
        del self["lr"]

    def clear(self) -> None:
        """Refused: a group needs all its settings."""
        del self["lr"]

    def __copy__(self) -> ParamGroup:
        return ParamGroup(self.kind, dict(self))

    def __reduce__(self) -> Any:
        return ParamGroup, (self.kind, dict(self))


class Settings(MutableMapping[str, Any]):
    """The settings of all groups: setting one sets it in each group, reading one is an error if groups differ."""

    def __init__(self, owner: str, groups: tuple[ParamGroup, ...]) -> None:
        self.owner, self.groups = owner, groups

    def __getitem__(self, key: str) -> Any:
        if key in ("params", "lr"):
            raise KeyError(key)
        values = [group[key] for group in self.groups]
        if any(value != values[0] for value in values):
            raise ArgumentError(
                f"{self.owner}: its {len(values)} groups differ in {key}: {', '.join(map(str, values))}; "
                f"look at param_groups[i][{key!r}]"
            )
        return values[0]

    def __setitem__(self, key: str, value: Any) -> None:
        self.update({key: value})

    def update(self, *args: Any, **kwargs: Any) -> None:
        settings = dict(*args, **kwargs)
        for group in self.groups:  # check all before changing one
            if settings.keys() - group.keys() or settings.keys() & {"params", "lr"}:
                names = ", ".join(self)
                raise ArgumentError(f"{self.owner}: settings are {names}, got {', '.join(map(repr, settings))}")
            group.kind.checked({**group, **settings}, group)
        for group in self.groups:
            group.update(settings)

    def __ior__(self, other: Any) -> Settings:
        self.update(other)
        return self

    def __delitem__(self, key: str) -> None:
        raise ArgumentError(f"{self.owner}: a setting cannot be removed, got {key!r}")

    def __iter__(self) -> Iterator[str]:
        return iter([key for key in self.groups[0] if key not in ("params", "lr")])

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __repr__(self) -> str:
        return repr({key: [group[key] for group in self.groups] if len(self.groups) > 1 else self[key] for key in self})

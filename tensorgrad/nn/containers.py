"""Containers of modules or parameters, in order or by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import count
from typing import Any, Generic, Self, SupportsIndex, TypeVar, overload

from tensorgrad.errors import ArgumentError, OutOfRangeError
from tensorgrad.nn.arguments import integer
from tensorgrad.nn.hidden import described
from tensorgrad.nn.module import Module, Parameter

__all__ = ["ModuleDict", "ModuleList", "ParameterDict", "ParameterList", "Sequential"]

P = TypeVar("P", Module, Parameter)


class Container(Module, Generic[P]):
    """Holds modules or parameters (`kind`) in insertion order."""

    kind: type[P]

    def _parts(self) -> dict[str, P]:
        """Its parts by name."""
        return self._modules if self.kind is Module else self._parameters  # type: ignore[return-value]

    def _check(self, where: str, value: Any) -> P:
        """Return a valid part. Raises ArgumentError, naming the place, for anything else."""
        if isinstance(value, self.kind):
            return value
        at = f"{type(self).__name__}: {where} is {described(value)}, expected a {self.kind.__name__}"
        hint = ""
        if self.kind is Parameter:
            hint = "; nn.Parameter(values) makes one"
        elif isinstance(value, type) and issubclass(value, Module):
            hint = f"; write {value.__name__}(), with parentheses"
        elif callable(value):
            hint = "; write a Module whose forward calls it" + (f", or {module}" if (module := module_of(value)) else "")
        elif isinstance(value, (list, tuple)) or hasattr(value, "__next__"):
            hint = f"; pass its items one by one: nn.{type(self).__name__}(*layers)" if isinstance(self, Sequential) else ""
        raise ArgumentError(at + hint)

    def _set_parts(self, parts: Mapping[str, P]) -> None:
        """Replace the contents."""
        for name in [name for name in self._parts() if name not in parts]:
            delattr(self, name)
        current = self._parts()
        current.clear()  # in place, to keep the order
        for name, part in parts.items():
            setattr(self, name, part)

    def __len__(self) -> int:
        return len(self._parts())


class Listed(Container[P]):
    """Parts in order, named "0", "1", ..."""

    def _as_list(self, values: Any) -> list[P]:
        """Check the items of an iterable and return them as a list."""
        name = type(self).__name__
        if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable) or isinstance(values, Parameter):
            raise ArgumentError(f"{name}: expected a list of {self.kind.__name__}s, got {described(values)}")
        return [self._check(f"argument {i}", value) for i, value in enumerate(values)]

    def _at(self, index: SupportsIndex) -> int:
        """A non-negative index."""
        i = integer(type(self).__name__, "an index", index, None)
        if not -len(self) <= i < len(self):
            raise OutOfRangeError(f"{type(self).__name__}: index {i} is out of range for {len(self)} items")
        return i % len(self)

    def _number(self, parts: Iterable[P]) -> None:
        """Replace the contents; if all names are numbers, renumber them."""
        parts = list(parts)
        current = self._parts()
        if all(name.isdecimal() for name in current):
            self._set_parts({str(i): part for i, part in enumerate(parts)})
            return
        free = (str(i) for i in count() if str(i) not in current)
        names = {id(part): name for name, part in current.items()}
        self._set_parts({names.pop(id(part), "") or next(free): part for part in parts})

    @overload
    def __getitem__(self, index: SupportsIndex) -> P: ...
    @overload
    def __getitem__(self, index: slice) -> Any: ...
    def __getitem__(self, index: SupportsIndex | slice) -> Any:
        if not isinstance(index, slice):
            return list(self._parts().values())[self._at(index)]
        kind: Any = next(base for base in LISTS if isinstance(self, base))
        result = kind()
        result._set_parts(dict(list(self._parts().items())[index]))
        return result

    def __setitem__(self, index: SupportsIndex | slice, value: Any) -> None:
        parts = list(self._parts().values())
        if isinstance(index, slice):
            parts[index] = self._as_list(value)
            self._number(parts)
        else:
            i = self._at(index)
            setattr(self, list(self._parts())[i], self._check(f"[{i}]", value))

    def __delitem__(self, index: SupportsIndex | slice) -> None:
        parts = list(self._parts().values())
        del parts[index if isinstance(index, slice) else self._at(index)]
        self._number(parts)

    def __iter__(self) -> Iterator[P]:
        return iter(list(self._parts().values()))

    def __reversed__(self) -> Iterator[P]:
        return reversed(list(self._parts().values()))

    def __contains__(self, part: object) -> bool:
        return any(part is own for own in self._parts().values())

    def append(self, part: P) -> Self:
        """Append a part; returns the container."""
        return self.extend([self._check(f"[{len(self)}]", part)])

    def extend(self, parts: Iterable[P]) -> Self:
        """Append several parts; returns the container."""
        for part in self._as_list(parts):
            numbers = [int(name) for name in self._parts() if name.isdecimal()]
            setattr(self, str(max(numbers, default=len(self) - 1) + 1), part)
        return self

    def insert(self, index: int, part: P) -> Self:
        """Insert a part before `index`; returns the container."""
        parts = list(self._parts().values())
        parts.insert(integer(type(self).__name__, "an index", index, None), self._check(f"[{index}]", part))
        self._number(parts)
        return self

    def pop(self, index: int = -1) -> P:
        """Remove and return a part, by default the last."""
        part = self[index]
        del self[index]
        return part

    def __iadd__(self, parts: Iterable[P]) -> Self:
        return self.extend(parts)

    def __add__(self, parts: Iterable[P]) -> Any:
        result = self[:]
        result._set_parts({})
        return result.extend(list(self)).extend(parts)


class Sequential(Listed[Module]):
    """Modules applied one after the other, named "0", "1", ... or by the keys of a dict.

    modules   Sequential(first, second), or Sequential({"name": first, "other": second})

    Like a list it has indices, slices (a Sequential with the same modules and names), len, append, extend, insert, pop and del;
    numbered modules are renumbered.

    Raises ArgumentError, naming the position, for anything but a Module: a function, a class that was not called, None.
    """

    kind = Module

    def __init__(self, *modules: Module | Mapping[str, Module]) -> None:
        super().__init__()
        if len(modules) == 1 and isinstance(modules[0], Mapping):
            self._set_parts({as_name(self, name): self._check(f"{name!r}", part) for name, part in modules[0].items()})
        else:
            self._set_parts({str(i): self._check(f"argument {i}", module) for i, module in enumerate(modules)})

    def forward(self, x: Any) -> Any:
        for module in self._modules.values():
            x = module(x)
        return x


class ModuleList(Listed[Module]):
    """A list of modules that are registered: parameters(), state_dict() and so on find them.

    Like a list it has indices, slices, len, append, extend, insert, pop, del and +. It cannot be called.

    Raises ArgumentError for anything but a Module.
    """

    kind = Module

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        super().__init__()
        self.extend(modules)


class ParameterList(Listed[Parameter]):
    """A list of parameters that are registered: like nn.ModuleList, for nn.Parameter. Plain arrays are refused."""

    kind = Parameter

    def __init__(self, parameters: Iterable[Parameter] = ()) -> None:
        super().__init__()
        self.extend(parameters)


LISTS = (Sequential, ModuleList, ParameterList)


class Named(Container[P]):
    """Parts by name."""

    def __init__(self, parts: Mapping[str, P] | Iterable[tuple[str, P]] = ()) -> None:
        super().__init__()
        self.update(parts)

    def __getitem__(self, name: str) -> P:
        try:
            return self._parts()[name]
        except (KeyError, TypeError):
            raise KeyError(f"{type(self).__name__}: no item {name!r}, only {', '.join(self._parts())}") from None

    def __setitem__(self, name: str, part: P) -> None:
        setattr(self, as_name(self, name), self._check(f"[{name!r}]", part))

    def __delitem__(self, name: str) -> None:
        self[name]
        delattr(self, name)

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._parts()))

    def __contains__(self, name: object) -> bool:
        return name in self._parts()

    def keys(self) -> list[str]:
        """The names."""
        return list(self._parts())

    def values(self) -> list[P]:
        """The parts."""
        return list(self._parts().values())

    def items(self) -> list[tuple[str, P]]:
        """(name, part) for each."""
        return list(self._parts().items())

    def update(self, parts: Mapping[str, P] | Iterable[tuple[str, P]]) -> None:
        """Add or replace parts from a dict or from (name, part) pairs."""
        pairs = list(parts.items() if isinstance(parts, (Mapping, Named)) else parts) if isinstance(parts, Iterable) else None
        if pairs is None or any(not isinstance(pair, (tuple, list)) or len(pair) != 2 for pair in pairs):
            expected = f"a dict from name to {self.kind.__name__}, or pairs of them"
            raise ArgumentError(f"{type(self).__name__}: expected {expected}, got {described(parts)}")
        for name, part in [(as_name(self, name), self._check(f"[{name!r}]", part)) for name, part in pairs]:
            self[name] = part

    def pop(self, name: str) -> P:
        """Remove and return a part."""
        part = self[name]
        del self[name]
        return part

    def clear(self) -> None:
        """Remove all parts."""
        self._set_parts({})


class ModuleDict(Named[Module]):
    """A dict of modules that are registered: parameters(), state_dict() and so on find them.

    Like a dict it has [name], del, in, len, keys, values, items, update, pop and clear, in insertion order. A name is text
    without a dot that is not the name of a method such as "keys" or "train".

    Raises ArgumentError for anything but a Module, and for other names.
    """

    kind = Module


class ParameterDict(Named[Parameter]):
    """A dict of parameters that are registered: like nn.ModuleDict, for nn.Parameter. Plain arrays are refused."""

    kind = Parameter


def as_name(container: Module, name: Any) -> str:
    """Return a valid name of a part. Raises ArgumentError for another."""
    container._check_name(name)
    return str(name)


def module_of(function: Callable[..., Any]) -> str:
    """The module for a function, in words: "nn.ReLU()" for relu; "" if there is none."""
    from tensorgrad.nn.layers import ACTIVATIONS

    named = getattr(function, "name", getattr(function, "__name__", ""))
    return f"nn.{ACTIVATIONS[named].__name__}()" if named in ACTIVATIONS else ""

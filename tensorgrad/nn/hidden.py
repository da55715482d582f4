"""Finds modules and parameters in plain containers, where Module does not register them.

Searched are lists, tuples, sets, deques and dicts (keys and values) at any depth, NumPy object arrays, fields of dataclasses,
SimpleNamespace, functools.partial, the values of a cached_property, and attributes of the module's class; not other objects,
closures or bound methods. At most 1,000 elements of an attribute are searched, the outermost first, because it may be a
replay buffer.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import UserDict, UserList, deque
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import chain, islice
from types import GeneratorType, SimpleNamespace
from typing import Any

import numpy as np

from tensorgrad.core.location import is_own
from tensorgrad.core.tensor import Tensor
from tensorgrad.errors import ArgumentError

LONG = 1000  # elements of an attribute that are searched
SEQUENCES = (list, tuple, deque, UserList)
SETS = (set, frozenset)
DICTS = (dict, UserDict)
# Iterators, which can be consumed only once
EMPTY: tuple[Any, ...] = ([], (), set(), {}, {}.values(), reversed([]), reversed({}.values()))
ITERATORS: tuple[Any, ...] = (map, filter, zip, enumerate, reversed, chain, islice, *(type(iter(empty)) for empty in EMPTY))


def is_container(kind: Any) -> bool:
    """Whether values of a type are searched."""
    plain = (*SEQUENCES, *SETS, *DICTS, np.ndarray, functools.partial, SimpleNamespace)
    return issubclass(kind, plain) or dataclasses.is_dataclass(kind)


class Kinds(dict[type, bool]):
    """Cache of `is_container` by type: `parameters()` asks for each attribute."""

    def __missing__(self, kind: type) -> bool:
        self[kind] = found = is_container(kind)
        return found


KINDS = Kinds()


def _users_classes(kind: type) -> tuple[type, ...]:
    """The base classes that do not belong to this package."""
    return tuple(base for base in kind.__mro__ if not is_own(base.__module__) and base is not object)


users_classes: Callable[[Any], tuple[type, ...]] = functools.cache(_users_classes)


def hidden(module: Any, kinds: tuple[type, ...], skipped: Collection[str]) -> list[tuple[str, Any, str, Any]]:
    """(attribute, its value, place, part) for each part in plain containers, except the attributes in `skipped`, and in class
    attributes.
    """
    attributes = module.__dict__
    parts = [
        (name, value, *pair)
        for name, value in attributes.items()
        if KINDS[type(value)] and name not in skipped
        for pair in parts_in(value, kinds)
    ]
    for base in users_classes(type(module)):
        for name, value in vars(base).items():
            if isinstance(value, functools.cached_property):
                cached = attributes.get(name)  # set behind the module's back
                parts += [(name, cached, " (of a cached_property)", cached)] if isinstance(cached, kinds) else []
            elif isinstance(value, kinds):
                parts += [] if name in attributes else [(name, value, "", value)]
            elif KINDS[type(value)]:
                parts += [(name, value, *pair) for pair in parts_in(value, kinds)]
    return parts


def parts_in(value: Any, kinds: tuple[type, ...]) -> Iterator[tuple[str, Any]]:
    """(place, part) for each instance of `kinds` in a container at any depth; a place is such as "[0]['a']"."""
    if not KINDS[type(value)]:
        return
    seen, queue, remaining = set(), deque([("", value)]), LONG
    while queue:
        place, value = queue.popleft()
        if isinstance(value, kinds):
            yield place, value
        elif KINDS[type(value)] and remaining and id(value) not in seen:
            seen.add(id(value))
            elements = list(islice(elements_of(value, place, kinds), remaining))
            remaining -= len(elements)
            queue += elements


def elements_of(value: Any, place: str, kinds: tuple[type, ...]) -> Iterator[tuple[str, Any]]:
    """The elements of a container with their places; none if it holds only numbers or text."""
    if isinstance(value, np.ndarray):
        value = value.ravel()[:LONG].tolist() if value.dtype.hasobject else []
    if isinstance(value, SEQUENCES):
        if may_hold_parts(value, kinds):
            yield from ((f"{place}[{i}]", part) for i, part in enumerate(islice(value, LONG)))
    elif isinstance(value, SETS):
        if may_hold_parts(value, kinds):
            yield from ((f"{place}{{{type(part).__name__}}}", part) for part in islice(value, LONG))
    elif isinstance(value, DICTS):
        if may_hold_parts(value, kinds):
            yield from ((f"{place} (a key)", key) for key in islice(value, LONG))
        if may_hold_parts(value.values(), kinds):
            yield from ((f"{place}[{key!r}]", part) for key, part in islice(value.items(), LONG))
    elif isinstance(value, functools.partial):
        yield f"{place}.func", value.func
        yield from ((f"{place}.args[{i}]", part) for i, part in enumerate(value.args))
        yield from ((f"{place}.keywords[{key!r}]", part) for key, part in value.keywords.items())
    else:
        yield from ((f"{place}.{name}", part) for name, part in getattr(value, "__dict__", {}).items())


def may_hold_parts(values: Iterable[Any], kinds: tuple[type, ...]) -> bool:
    """Whether elements may hold parts, judged by their types."""
    return any(KINDS[kind] or issubclass(kind, kinds) for kind in set(map(type, islice(values, LONG))))


def is_iterator(value: Any) -> bool:
    """Whether a value is an iterator, such as a `map` or a generator, which can be searched only once."""
    return isinstance(value, ITERATORS) or (isinstance(value, GeneratorType) and value.gi_code.co_name == "<genexpr>")


def container_for(value: Any, part: str) -> str:
    """The container of this package that replaces a plain one; `part` is "Module" or "Parameter"."""
    if isinstance(value, DICTS):
        return f"nn.{part}Dict"
    is_listed = isinstance(value, (*SEQUENCES, *SETS, np.ndarray)) or is_iterator(value)
    return f"nn.{part}List" if is_listed else "a separate attribute of the module for each"


def hidden_part_error(module: Any, name: str, value: Any, place: str, part: Any) -> ArgumentError:
    """The error for an unregistered part in `value`, the attribute's value, at `place`; "" for a class attribute."""
    kind = "Parameter" if isinstance(part, Tensor) else "Module"
    if place:
        where = f"{name} is a {type(value).__name__} that contains modules or parameters, which would not be found in it"
        hint = f"{name}{place} is {described(part)}; use {container_for(value, kind)}"
    else:
        where = f"{name} is {described(part)} set on the class, which would not be found there"
        hint = f"set self.{name} in __init__"
    return ArgumentError(f"{type(module).__name__}: {where}, and so not trained, moved or saved: {hint}")


def described(value: Any) -> str:
    """A short description of a value."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, (Tensor, np.ndarray)):
        return f"a {type(value).__name__} of shape {value.shape}"
    if value is None or isinstance(value, (str, int, float)):
        text = repr(value)
        return text if len(text) < 60 else f"{text[:56]}..."
    named = getattr(value, "__name__", None)
    return f"the function {named}" if callable(value) and isinstance(named, str) else f"a {type(value).__name__}"

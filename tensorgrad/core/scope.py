"""Whose call is under way: of a module, of a function of several ops. Nodes remember it; drawings make boxes of it."""

from __future__ import annotations

import inspect
import itertools
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

_count = itertools.count().__next__
PLAIN = frozenset({type(None), bool, int, float, str})


class Scope(str):
    """The path of the module that runs, as text; and which call of which module that is, by its identity.

    module   the module
    outer    the scope in which it was called: a Scope, or "" outside of any
    """

    __slots__ = ("module", "outer")
    module: Any
    outer: str

    def __new__(cls, path: str, module: Any, outer: str) -> Scope:
        scope = super().__new__(cls, path)
        scope.module, scope.outer = module, outer
        return scope

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return str, (str(self),)


def calls_of(scope: str) -> list[Scope]:
    """The calls of modules that a scope lies in, from the outermost to its own."""
    found = []
    while isinstance(scope, Scope):
        found.append(scope)
        scope = scope.outer
    return found[::-1]


class Given(NamedTuple):
    """What is remembered of an array that a function was called with: not its values, so that nothing is kept in memory."""

    name: str
    shape: tuple[int, ...]
    dtype: Any
    source: weakref.ref[Any] | None  # the node that made it, or the leaf; None for an array that is no Tensor


class Called:
    """One call of a function of several ops, such as conv2d: its name, and what it was given."""

    __slots__ = ("fn", "given", "named", "number")

    def __init__(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self.fn, self.number = fn, _count()
        self.given = [remembered(a) for a in args]
        self.named = {key: remembered(a) for key, a in kwargs.items()} if kwargs else {}

    @property
    def name(self) -> str:
        return self.fn.__name__

    def arguments(self) -> Iterator[tuple[str, Any, Any]]:
        """(name, what was given, default) of every argument; a Given for an array; what is none of both and no number is left
        out."""
        taken = inspect.signature(self.fn).parameters
        by_place = [p for p in taken.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        given = {p.name: value for p, value in zip(by_place, self.given, strict=False)} | self.named
        for name, value in given.items():
            if value is not NotImplemented:
                yield name, value, taken[name].default if name in taken else inspect.Parameter.empty


def remembered(a: Any) -> Any:
    """A plain value as it is, an array as Given; NotImplemented for anything else."""
    kind = type(a)
    if kind in PLAIN:
        return a
    if hasattr(a, "made_of"):  # a Tensor; those of other libraries have a requires_grad, too
        node = a.node
        of = a if node is None else node
        # what Given(...) does, in a third of the time: each call of a function pays for it
        return tuple.__new__(Given, (a.name or a.made_of, of.shape, of.dtype, weakref.ref(of)))
    if kind is tuple or kind is list:
        return tuple(a) if all(type(x) in PLAIN for x in a) else NotImplemented
    return Given("", tuple(a.shape), a.dtype, None) if hasattr(a, "shape") and hasattr(a, "dtype") else NotImplemented

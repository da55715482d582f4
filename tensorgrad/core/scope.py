"""The current call of a module or of a function of several ops, stored in nodes for drawings."""

from __future__ import annotations

import inspect
import itertools
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

_count = itertools.count().__next__
PLAIN = frozenset({type(None), bool, int, float, str})


class Scope(str):
    """The path of the running module, as text, and the identity of the call.

    module   the module
    outer    the scope that called it: a Scope, or "" outside of any
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
    """The nested calls of modules that contain a scope, outermost first."""
    calls = []
    while isinstance(scope, Scope):
        calls.append(scope)
        scope = scope.outer
    return calls[::-1]


class ArgumentInfo(NamedTuple):
    """An array argument of a function, without its values, to keep nothing in memory."""

    name: str
    shape: tuple[int, ...]
    dtype: Any
    source: weakref.ref[Any] | None  # the node that computed it, or the leaf; None for a plain array


class Called:
    """One call of a function of several ops, such as conv2d: its name and arguments."""

    __slots__ = ("fn", "keywords", "number", "positional")

    def __init__(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self.fn, self.number = fn, _count()
        self.positional = [argument_info(a) for a in args]
        self.keywords = {key: argument_info(a) for key, a in kwargs.items()} if kwargs else {}

    @property
    def name(self) -> str:
        return self.fn.__name__

    def arguments(self) -> Iterator[tuple[str, Any, Any]]:
        """(name, value, default) of every argument that is a number, a plain value or an array (as ArgumentInfo)."""
        parameters = inspect.signature(self.fn).parameters
        positional_parameters = [p for p in parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        values = {p.name: value for p, value in zip(positional_parameters, self.positional, strict=False)} | self.keywords
        for name, value in values.items():
            if value is not NotImplemented:
                yield name, value, parameters[name].default if name in parameters else inspect.Parameter.empty


def argument_info(a: Any) -> Any:
    """A plain value unchanged, an array as ArgumentInfo; NotImplemented for anything else."""
    kind = type(a)
    if kind in PLAIN:
        return a
    if hasattr(a, "made_of"):  # a Tensor; requires_grad would also match those of other libraries
        node = a.node
        source = a if node is None else node
        # the same as ArgumentInfo(...) in a third of the time, paid by each call of a function
        return tuple.__new__(ArgumentInfo, (a.name or a.made_of, source.shape, source.dtype, weakref.ref(source)))
    if kind is tuple or kind is list:
        return tuple(a) if all(type(x) in PLAIN for x in a) else NotImplemented
    return ArgumentInfo("", tuple(a.shape), a.dtype, None) if hasattr(a, "shape") and hasattr(a, "dtype") else NotImplemented

"""Expressions of names, numbers and ops, of which formulas consist. Equal expressions are one object."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum, auto
from typing import Any, TypeAlias
from weakref import WeakValueDictionary

from tensorgrad.core.graph import literal
from tensorgrad.core.op import Op
from tensorgrad.core.signature import Shape


class Term(Enum):
    """Heads of formulas other than ops. They are compared by identity, because a user-defined op may have any name."""

    NAME = auto()  # a value's name; the argument is its Symbol
    PRODUCT = auto()  # elementwise: num/den times the arguments, each to its power
    TOTAL = auto()  # the elementwise sum of the arguments
    MATMUL = auto()  # the matrix product of the arguments
    TRANSPOSED = auto()  # the last two axes swapped
    EVERYWHERE = auto()  # the argument, broadcast to a larger shape
    REDUCED = auto()  # `op` over `axes`, which stay with size 1 if `keep`
    BRACKET = auto()  # 1 where the first argument is in the relation `sign` to the second, else 0
    NORMAL = auto()  # "Phi", the standard normal distribution function, or "phi", its density
    FIRST = auto()  # 1 at the first element that equals the `which` over `axes`, else 0


Head: TypeAlias = Op | Term


class Symbol:
    """The value behind a name. Titles are assigned when all formulas are known, so that their numbering has no gaps."""

    def __init__(self, kind: str, shape: Shape, title: str = "", value: Any = None) -> None:
        self.kind = kind  # prefix of the title: "z", "h", "v", "t", "m", ...
        self.shape = shape
        self.title = title
        self.value = value  # of a number, or a given array
        self.definition: Expr | None = None
        self.over: tuple[Any, ...] = ()  # of a count: the axes, and their shape
        self.averages = False  # of a count: whether the mean is written as a mean instead of a divided sum
        self.base: Symbol | None = None  # of a gradient: the symbol to differentiate by


class Expr:
    """A formula: a name, or an op applied to formulas. Created by `call`."""

    __slots__ = ("__weakref__", "args", "attrs", "head", "shape", "size")

    def __init__(self, head: Head, args: tuple[Any, ...], attrs: tuple[tuple[str, Any], ...], shape: Shape) -> None:
        self.head = head
        self.args = args
        self.attrs = attrs
        self.shape = shape
        self.size: int = 1 + sum(a.size for a in args if isinstance(a, Expr))  # length for a reader

    def __getitem__(self, attribute: str) -> Any:
        return dict(self.attrs)[attribute]

    @property
    def parts(self) -> Iterator[Expr]:
        """The arguments that are formulas."""
        return (a for a in self.args if isinstance(a, Expr))


INTERNED: WeakValueDictionary[Any, Expr] = WeakValueDictionary()


def call(head: Head, *args: Any, shape: Shape, **attrs: Any) -> Expr:
    """An expression without simplification, which algebra.py does."""
    return interned(head, args, attrs, shape)


def interned(head: Head, args: tuple[Any, ...], attrs: dict[str, Any], shape: Shape) -> Expr:
    items = tuple(attrs.items())
    key = (head, args, tuple([(k, v if is_plain(v) else literal(v)) for k, v in items]), shape)
    found = INTERNED.get(key)
    if found is None:
        found = INTERNED[key] = Expr(head, args, items, shape)
    return found


def is_plain(value: Any) -> bool:
    """Whether an attribute can be compared directly: a number, or several."""
    return type(value) in (int, float) or (type(value) is tuple and all(type(x) in (int, float) for x in value))


def named(symbol: Symbol) -> Expr:
    return call(Term.NAME, symbol, shape=symbol.shape)


def symbols_in(*expressions: Expr) -> dict[Symbol, None]:
    """All symbols in expressions, in reading order."""
    symbols: dict[Symbol, None] = {}
    seen: set[Expr] = set()
    stack = list(expressions[::-1])
    while stack:
        e = stack.pop()
        if e in seen:
            continue
        seen.add(e)
        if e.head is Term.NAME:
            symbols[e.args[0]] = None
        stack += list(e.parts)[::-1]
    return symbols


def first(e: Expr) -> Expr:
    inner: Expr = e.args[0]
    return inner

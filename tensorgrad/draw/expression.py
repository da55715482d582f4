"""Expressions of names, numbers and ops: what formulas are made of. Equal expressions are one object."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum, auto
from typing import Any, TypeAlias
from weakref import WeakValueDictionary

from tensorgrad.core.graph import literal
from tensorgrad.core.op import Op
from tensorgrad.core.signature import Shape


class Term(Enum):
    """What a formula holds besides ops. These are told by what they are, never by a name: an op of the user's may have any."""

    NAME = auto()  # of a value; the argument is its Symbol
    PRODUCT = auto()  # element by element: num/den times the arguments, each to its power
    TOTAL = auto()  # the sum of the arguments, element by element
    MATMUL = auto()  # the product of the arguments, matrices in a row
    TRANSPOSED = auto()  # the last two axes exchanged
    EVERYWHERE = auto()  # the argument, repeated to a larger shape
    REDUCED = auto()  # `op` over `axes`, which stay as 1 if `keep`
    BRACKET = auto()  # 1 where the first argument stands in the relation `sign` to the second, else 0
    NORMAL = auto()  # "Phi", the standard normal distribution function, or "phi", its density
    FIRST = auto()  # 1 at the first element that is the `which` over `axes`, else 0


Head: TypeAlias = Op | Term


class Symbol:
    """What a name stands for. The title is given when all formulas are known, so that the names that are left have no gaps."""

    def __init__(self, kind: str, shape: Shape, title: str = "", value: Any = None) -> None:
        self.kind = kind  # how it is called if it has no title yet: "z", "h", "v", "t", "m", ...
        self.shape = shape
        self.title = title
        self.value = value  # of a number, or of an array that is given
        self.definition: Expr | None = None
        self.over: tuple[Any, ...] = ()  # of a count: the axes, and the shape that they are of
        self.averages = False  # of a count: whether the mean is written as one, not as a sum that is divided
        self.base: Symbol | None = None  # of a gradient: what it is the gradient with respect to


class Expr:
    """A formula: a name, or an op applied to formulas. Made by `call`."""

    __slots__ = ("__weakref__", "args", "attrs", "head", "shape", "size")

    def __init__(self, head: Head, args: tuple[Any, ...], attrs: tuple[tuple[str, Any], ...], shape: Shape) -> None:
        self.head = head
        self.args = args
        self.attrs = attrs
        self.shape = shape
        self.size: int = 1 + sum(a.size for a in args if isinstance(a, Expr))  # how long it is to read

    def __getitem__(self, attribute: str) -> Any:
        return dict(self.attrs)[attribute]

    @property
    def parts(self) -> Iterator[Expr]:
        """The formulas that it is made of."""
        return (a for a in self.args if isinstance(a, Expr))


KNOWN: WeakValueDictionary[Any, Expr] = WeakValueDictionary()


def call(head: Head, *args: Any, shape: Shape, **attrs: Any) -> Expr:
    """An expression as it is; algebra.py makes the simplest one."""
    return made(head, args, attrs, shape)


def made(head: Head, args: tuple[Any, ...], attrs: dict[str, Any], shape: Shape) -> Expr:
    items = tuple(attrs.items())
    key = (head, args, tuple([(k, v if is_plain(v) else literal(v)) for k, v in items]), shape)
    found = KNOWN.get(key)
    if found is None:
        found = KNOWN[key] = Expr(head, args, items, shape)
    return found


def is_plain(value: Any) -> bool:
    """Whether an attribute is compared as it is: a number, or several."""
    return type(value) in (int, float) or (type(value) is tuple and all(type(x) in (int, float) for x in value))


def named(symbol: Symbol) -> Expr:
    return call(Term.NAME, symbol, shape=symbol.shape)


def symbols_in(*expressions: Expr) -> dict[Symbol, None]:
    """The symbols of all names in them, in the order of reading."""
    found: dict[Symbol, None] = {}
    seen: set[Expr] = set()
    stack = list(expressions[::-1])
    while stack:
        e = stack.pop()
        if e in seen:
            continue
        seen.add(e)
        if e.head is Term.NAME:
            found[e.args[0]] = None
        stack += list(e.parts)[::-1]
    return found


def first(e: Expr) -> Expr:
    inner: Expr = e.args[0]
    return inner

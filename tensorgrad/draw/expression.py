"""Expressions of names, numbers and ops: what formulas are made of."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, TypeAlias

import numpy as np

from tensorgrad.core.op import Op
from tensorgrad.core.signature import Shape


class Term(Enum):
    """What a formula holds besides ops. These are told by what they are, never by a name: an op of the user's may have any."""

    NAME = auto()  # of a value; the argument is text
    NUMBER = auto()  # the argument
    FULL = auto()  # the argument, a number, everywhere
    TRANSPOSED = auto()  # the last two axes exchanged


Head: TypeAlias = Op | Term


@dataclass(frozen=True)
class Expr:
    """A formula: a name, a number, or an op applied to formulas."""

    head: Head
    args: tuple[Any, ...] = ()
    attrs: tuple[tuple[str, Any], ...] = ()
    shape: Shape = ()

    def __hash__(self) -> int:
        return id(self)


def constant(array: Any) -> Expr | None:
    """A given array as a number, or as one number everywhere; None if it is neither."""
    array = np.asarray(array)
    if array.dtype.kind == "b":
        return None
    if array.ndim == 0:
        return number(float(array))
    if array.size and (array == array.flat[0]).all():
        return full(float(array.flat[0]), array.shape)
    return None


def names_in(e: Expr) -> list[str]:
    if e.head is Term.NAME:
        return [e.args[0]]
    return [name for a in e.args if isinstance(a, Expr) for name in names_in(a)]


def replaced(e: Expr, by: dict[str, Expr]) -> Expr:
    if e.head is Term.NAME:
        return by.get(e.args[0], e)
    return Expr(e.head, tuple(replaced(a, by) if isinstance(a, Expr) else a for a in e.args), e.attrs, e.shape)


def first(e: Expr) -> Expr:
    inner: Expr = e.args[0]
    return inner


def operands(e: Expr) -> tuple[Expr, Expr]:
    a, b = e.args
    return a, b


def is_number(e: Expr, value: float | None = None) -> bool:
    return e.head is Term.NUMBER and (value is None or e.args[0] == value)


def uniform(e: Expr) -> float | None:
    """The one value that all elements of an expression have, if it is written with it."""
    return float(e.args[0]) if e.head in (Term.NUMBER, Term.FULL) else None


def call(head: Head, *args: Expr, shape: Shape, **attrs: Any) -> Expr:
    return Expr(head, args, tuple(attrs.items()), shape)


def number(x: float) -> Expr:
    return Expr(Term.NUMBER, (float(x),))


def full(x: float, shape: Shape) -> Expr:
    return Expr(Term.FULL, (float(x),), shape=shape)


def named(title: str, shape: Shape = ()) -> Expr:
    return Expr(Term.NAME, (title,), shape=shape)

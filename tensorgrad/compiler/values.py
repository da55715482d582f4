"""Values: the arrays of a plan. Each is computed once and does not move."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from tensorgrad.core.backend import Array, may_overlap
from tensorgrad.core.node import Node
from tensorgrad.core.signature import Shape

ViewFunction: TypeAlias = Callable[[Array, Shape], Array]


@dataclass(eq=False)
class Value:
    """An array of the plan.

    kind    "argument": passed in each call;  "outside": memory outside the plan (parameters, constants), after a number of
            assignments;  "number": a 0-d array that is set before each run;  "buffer": memory of the plan;
            "fresh": an array allocated by an operation without `out`;  "view": a view of another value
    array   the array, if known before a run
    base, make_view, view_kind   of a view: the base, a function from its array to one of this shape, and the kind of the
            view: "reshape", "broadcast_to", "transpose" (of a matrix), "permute" or "getitem"
    node    the node that it is the result of, for names
    after   of outside memory: the number of assignments of the program before it is read
    """

    shape: Shape
    dtype: Any
    kind: str
    array: Array | None = None
    base: Value | None = None
    make_view: ViewFunction | None = None
    view_kind: str = ""
    contiguous: bool = True
    node: Node | None = None
    after: int = 0

    @property
    def root(self) -> Value:
        """The value that owns the memory."""
        value = self
        while value.base is not None:
            value = value.base
        return value

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * int(np.dtype(self.dtype).itemsize)


def lineage(v: Value) -> list[Value]:
    """A value and its bases."""
    values = [v]
    while values[-1].base is not None:
        values.append(values[-1].base)
    return values


def before_broadcast(value: Value) -> Value:
    """The source of a value that is broadcast along leading axes, or all axes; a number without axes of length 1."""
    while value.base is not None and (
        value.view_kind == "broadcast_to" or (value.view_kind == "reshape" and not value.base.shape)
    ):
        value = value.base
    return value


def overlap(a: Value, b: Value) -> bool:
    """Whether two values are, or may be, in the same outside memory."""
    return a.root.kind == b.root.kind == "outside" and may_overlap(a.root.array, b.root.array)

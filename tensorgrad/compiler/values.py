"""Values: the arrays of a plan. Each is made once, and lies in one place from then on."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from tensorgrad.core.backend import Array, may_overlap
from tensorgrad.core.node import Node
from tensorgrad.core.signature import Shape

Look: TypeAlias = Callable[[Array, Shape], Array]


@dataclass(eq=False)
class Value:
    """An array of the plan.

    kind    "argument": given at each call;  "outside": memory that lives outside of the plan (parameters, constants), as it is
            after so many assignments;  "number": a 0-d array that is set before each run;  "buffer": memory of the plan;
            "fresh": an array that an operation without `out` makes;  "view": another value, seen otherwise
    array   the array, where it is known before a run
    base, look, how   of a view: the value, what makes an array of this shape of an array of it, and what that is called:
            "reshape", "broadcast_to", "transpose" (of a matrix), "permute" or "getitem"
    node    what it is the result of, for names
    after   of memory outside: how many assignments the program has made when it is read
    """

    shape: Shape
    dtype: Any
    kind: str
    array: Array | None = None
    base: Value | None = None
    look: Look | None = None
    how: str = ""
    contiguous: bool = True
    node: Node | None = None
    after: int = 0

    @property
    def root(self) -> Value:
        """The value whose memory it is."""
        value = self
        while value.base is not None:
            value = value.base
        return value

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * int(np.dtype(self.dtype).itemsize)


def lineage(v: Value) -> list[Value]:
    """A value and those that it is a view of."""
    found = [v]
    while found[-1].base is not None:
        found.append(found[-1].base)
    return found


def before_broadcast(value: Value) -> Value:
    """What a value is that has been repeated along its first axes, or all of them; a number without axes of length 1."""
    while value.base is not None and (value.how == "broadcast_to" or (value.how == "reshape" and not value.base.shape)):
        value = value.base
    return value


def overlap(a: Value, b: Value) -> bool:
    """Whether two values lie, or may lie, in the same memory outside of the plan."""
    return a.root.kind == b.root.kind == "outside" and may_overlap(a.root.array, b.root.array)

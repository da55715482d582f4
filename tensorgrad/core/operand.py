"""Types of operands and results, and bases for ops that only take arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

import numpy as np

from tensorgrad.core.backend import Array, Numbers
from tensorgrad.core.op import Op
from tensorgrad.core.signature import Shape
from tensorgrad.core.tensor import Tensor

# Operands of ops are `Operand[T]`, and results `T | Array`: a Tensor if one of the operands is one, which T then stands for,
# else an array
T = TypeVar("T", bound=Tensor)
Operand: TypeAlias = T | Numbers


class TopK(NamedTuple):
    """The result of `topk`: the elements and their indices along the axis."""

    values: Any
    indices: Any


def shape_of(x: Any) -> Shape:
    """The shape of an operand."""
    return x.shape if hasattr(x, "shape") else np.shape(x)


class Unary(Op):
    """An op of one array, without attributes."""

    if TYPE_CHECKING:  # at run time `__call__` is that of Op, without another function in between

        def __call__(self, x: Operand[T], /) -> T | Array: ...


class Binary(Op):
    """An op of two arrays, without attributes."""

    if TYPE_CHECKING:

        def __call__(self, a: Operand[T], b: Operand[T], /) -> T | Array: ...


class Ternary(Op):
    """An op of three arrays, without attributes."""

    if TYPE_CHECKING:

        def __call__(self, a: Operand[T], b: Operand[T], c: Operand[T], /) -> T | Array: ...

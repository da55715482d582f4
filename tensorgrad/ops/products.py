"""Kronecker and cross products."""

from __future__ import annotations

from tensorgrad.core.arguments import axis_in, check_memory
from tensorgrad.core.backend import Array
from tensorgrad.core.operand import Operand, T
from tensorgrad.core.state import named, scoped
from tensorgrad.errors import ShapeError
from tensorgrad.ops.index import getitem
from tensorgrad.ops.linalg import as_operand
from tensorgrad.ops.rearrange import stack
from tensorgrad.ops.shape import reshape

__all__ = ["cross", "kron"]


@named
def kron(a: Operand[T], b: Operand[T]) -> T | Array:
    """The Kronecker product: each element of a is replaced by its product with b. The one with fewer axes gets leading axes
    of 1.
    """
    a, b = as_operand("kron", a), as_operand("kron", b)
    ndim = max(a.ndim, b.ndim)
    outer, inner = ((1,) * (ndim - x.ndim) + x.shape for x in (a, b))
    shape = tuple(n * m for n, m in zip(outer, inner, strict=True))
    check_memory("kron", shape, 8)
    blocks = reshape(a, tuple(k for n in outer for k in (n, 1))) * reshape(b, tuple(k for n in inner for k in (1, n)))
    return reshape(blocks, shape)


@named
def cross(a: Operand[T], b: Operand[T], *, axis: int = -1) -> T | Array:
    """The cross product of vectors of three elements along an axis of both; other axes broadcast.

    forward    y = (a₂b₃ - a₃b₂, a₃b₁ - a₁b₃, a₁b₂ - a₂b₁)
    """
    a, b = as_operand("cross", a), as_operand("cross", b)
    parts = []
    for i, x in enumerate((a, b)):
        at = axis_in("cross", axis, x.ndim)
        if x.shape[at] != 3:
            raise ShapeError(f"{scoped('cross')}: axis {axis} of argument {i} {x.shape} has {x.shape[at]} elements, expected 3")
        parts.append([getitem(x, (*[slice(None)] * at, k)) for k in range(3)])
    (a1, a2, a3), (b1, b2, b3) = parts
    y = [a2 * b3 - a3 * b2, a3 * b1 - a1 * b3, a1 * b2 - a2 * b1]
    return stack(y, axis)

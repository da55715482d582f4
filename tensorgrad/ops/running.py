"""Along an axis, from element to element: running products, differences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tensorgrad.core.arguments import axis_in, whole
from tensorgrad.core.backend import Array, Xp
from tensorgrad.core.op import Op, Rules, Sample, Tangents, Value
from tensorgrad.core.operand import Operand, T
from tensorgrad.core.state import named, scoped
from tensorgrad.errors import ShapeError
from tensorgrad.ops.assign import zeros_beside
from tensorgrad.ops.compare import not_equal
from tensorgrad.ops.elementwise import mul_grad
from tensorgrad.ops.index import getitem
from tensorgrad.ops.linalg import as_operand
from tensorgrad.ops.rearrange import concatenate, flatten, flip

__all__ = ["cumprod", "diff"]


class CumProd(Op):
    """Running products along an axis; of the flattened x when it is None. Nothing is divided, so that the gradient is right
    at zeros too.

    forward    y_i = x_1 x_2 ... x_i
    backward   gx_i = y_{i-1} s_i,   s_i = g_i + x_{i+1} s_{i+1}
    tangent    ty_i = y_{i-1} tx_i + x_i ty_{i-1}
    """

    name, signature, reads = "cumprod", "()->()", "y x"

    @named
    def __call__(self, x: Operand[T], axis: int | None = None) -> T | Array:
        return self.apply(flatten(x), axis=0) if axis is None else self.apply(x, axis=whole(self.name, "axis", axis))

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        shape = tuple(int(n) for n in rng.choice(sizes, rng.integers(1, 4)))
        x = self.values(rng, shape)
        return (np.where(rng.random(shape) < 0.1, 0.0, x),), {"axis": int(rng.integers(-len(shape), len(shape)))}

    def forward(self, xp: Xp, x: Array, *, axis: int) -> Array:
        return xp.cumprod(x, axis=axis)

    def backward(self, g: Value, y: Value, x: Value, *, axis: int) -> Rules:
        def gx() -> Value:
            after = shifted(flip(x, axis), axis, 0)  # at the place of i is x_{i+1}, seen from the end
            return mul_grad(flip(recurrence(after, flip(g, axis), axis), axis), shifted(y, axis, 1))

        return (gx,)

    def jvp(self, y: Value, x: Value, *, axis: int) -> Tangents:
        return (lambda t: recurrence(x, mul_grad(t, shifted(y, axis, 1)), axis),)


def shifted(x: Value, axis: int, first: int) -> Value:
    """x moved on by one place along an axis, with a number at the first."""
    before = (slice(None),) * (axis % x.ndim)
    if not x.shape[axis]:
        return x
    head = getitem(x, (*before, slice(0, 1)))
    return concatenate([zeros_beside(head, head.shape) + first, getitem(x, (*before, slice(0, -1)))], axis=axis)


def recurrence(a: Value, b: Value, axis: int) -> Value:
    """s_i = b_i + a_i s_{i-1} along an axis, s_0 being 0: in log2 n steps, each of which joins what it knows of neighbours."""
    before, d = (slice(None),) * (axis % a.ndim), 1
    while d < a.shape[axis]:
        ahead, behind = (*before, slice(d, None)), (*before, slice(0, -d))
        first = (*before, slice(0, d))
        later = getitem(a, ahead)
        b = concatenate([getitem(b, first), getitem(b, ahead) + mul_grad(getitem(b, behind), later)], axis=axis)
        a = concatenate([getitem(a, first), later * getitem(a, behind)], axis=axis)
        d *= 2
    return b


@named
def diff(x: Operand[T], n: int = 1, axis: int = -1) -> T | Array:
    """x_{i+1} - x_i along an axis, n times over; of booleans whether they differ."""
    y, n = as_operand("diff", x), whole("diff", "n", n, 0)
    if not y.ndim:
        raise ShapeError(f"{scoped('diff')}: expected one axis or more, got shape {y.shape}")
    axis = axis_in("diff", axis, y.ndim)
    before = (slice(None),) * axis
    for _ in range(min(n, y.shape[axis])):
        later, earlier = getitem(y, (*before, slice(1, None))), getitem(y, (*before, slice(0, -1)))
        y = not_equal(later, earlier) if y.dtype.kind == "b" else later - earlier
    return y


cumprod = CumProd()

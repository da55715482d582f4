"""Assignment to parts of an array."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tensorgrad.core.backend import Array, Xp, is_array, namespace, on
from tensorgrad.core.op import Op, Rules, Sample, Tangents, Value
from tensorgrad.core.operand import Operand, T, shape_of
from tensorgrad.core.signature import Shape
from tensorgrad.core.tensor import Tensor, raw
from tensorgrad.ops.elementwise import astype, where
from tensorgrad.ops.index import (
    as_traced,
    check_on_gpu,
    frozen,
    gather,
    getitem,
    has_tensors,
    may_repeat,
    on_device_of,
    put_in,
    split_index,
)
from tensorgrad.ops.shape import reshape

__all__ = ["setitem"]


class SetItem(Op):
    """x with v, broadcast, written at an index: the result of `x[index] = v`.

    If an element is indexed twice the last v counts, in row-major order, and the earlier ones have gradient 0.

    forward    y  = x, y[index] = v
    backward   gx = g with zeros at index,   gv = g[index] where v is not overwritten, 0 elsewhere
    tangent    ty = tx, ty[index] = tv
    """

    name, signature, symbol = "setitem", "(),(*)->()", "[ ]="
    moves = True

    def __call__(self, x: Operand[T], v: Operand[T], index: Any) -> T | Array:
        index = as_traced(index)
        if not has_tensors(index):
            return self.apply(x, v, index=on_device_of(frozen(self.name, index), x))
        if isinstance(index, Tensor) and index.dtype == bool and (arguments := where_arguments(index, x, v)) is not None:
            return where(*arguments)
        index, indices = split_index(self.name, index, x)
        return assign(x, v, *indices, index=index)

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        (x,), attrs = getitem.sample(rng, sizes)
        part = x[attrs["index"]].shape
        return (x, self.values(rng, tuple(n if rng.random() < 0.7 else 1 for n in part[rng.integers(len(part) + 1) :]))), attrs

    def forward(self, xp: Xp, x: Array, v: Array, *, index: Any) -> Array:
        y = xp.array(x)
        write(xp, y, index, v)
        return y

    def backward(self, g: Value, y: Value, x: Value, v: Value, *, index: Any) -> Rules:
        def gv() -> Value:
            gv = getitem(g, index)
            if may_repeat(index):
                outline, arrays = split_index(self.name, index, g)
                is_last = last_named(*arrays, index=outline, shape=y.shape)
                gv = gv if is_last.all() else where(is_last, gv, 0)
            return with_axes(gv, v.ndim)

        return lambda: setitem(g, 0.0, index), gv

    def jvp(self, y: Value, x: Value, v: Value, *, index: Any) -> Tangents:
        return lambda t: setitem(t, 0.0, index), lambda t: self.apply(zeros_matching(t, y.shape), t, index=index)


class Assign(Op):
    """`setitem` with Tensors of integers or booleans in the index, which are data. `index` has AT in the place of each.

    forward    y  = x, y[index] = v
    backward   gx = g with zeros at index,   gv = g[index] where v is not overwritten, 0 elsewhere
    tangent    ty = tx, ty[index] = tv
    """

    name, signature, symbol, reads, data = "assign", "(*),(*),(*)->(*)", "[ ]=", "indices", "indices"
    moves, public = True, "setitem"

    def __call__(self, x: Operand[T], v: Operand[T], *indices: Any, index: Any) -> T | Array:
        return self.apply(x, v, *indices, index=index)

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        (x, *indices), attrs = gather.sample(rng, sizes)
        part = x[put_in(attrs["index"], tuple(indices))].shape
        return (x, self.values(rng, part[rng.integers(len(part) + 1) :]), *indices), attrs

    def forward(self, xp: Xp, x: Array, v: Array, *indices: Array, index: Any) -> Array:
        y = xp.array(x)
        write(xp, y, put_in(index, indices), v)
        return y

    def backward(self, g: Value, y: Value, x: Value, v: Value, *indices: Value, index: Any) -> Rules:
        def gv() -> Value:
            is_last = last_named(*indices, index=index, shape=y.shape)
            return with_axes(where(is_last, gather(g, *indices, index=index), 0), v.ndim)

        return lambda: assign(g, 0.0, *indices, index=index), gv, *[None] * len(indices)

    def jvp(self, y: Value, x: Value, v: Value, *indices: Value, index: Any) -> Tangents:
        return (
            lambda t: assign(t, 0.0, *indices, index=index),
            lambda t: assign(zeros_matching(t, y.shape), t, *indices, index=index),
            *[None] * len(indices),
        )


class LastNamed(Op):
    """Whether an indexed element is not indexed again later, in row-major order, for each element that an index selects. No
    gradient.

    forward    y  = [no later index selects the same element]
    """

    name, signature, data = "last_named", "(*)->(*)", "indices"
    public = "setitem"

    def __call__(self, *indices: Any, index: Any, shape: Shape) -> Any:
        return self.apply(*indices, index=index, shape=tuple(shape))

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        (x, *indices), attrs = gather.sample(rng, sizes)
        return tuple(indices), {**attrs, "shape": x.shape}

    def forward(self, xp: Xp, *indices: Array, index: Any, shape: Shape) -> Array:
        at = put_in(index, indices)
        numbers, last = numbered(xp, at, shape)
        return last[at] == numbers


def numbered(xp: Xp, index: Any, shape: Shape) -> tuple[Array, Array]:
    """1, 2, 3, ... for the elements selected by an index in an array of a shape, in row-major order, and an array of that shape
    with the largest number of each element, 0 if it is not selected.
    """
    last = xp.zeros(shape, np.uint64)  # CuPy's maximum.at does not support int64
    part = last[index].shape
    numbers = xp.arange(1, math.prod(part) + 1, dtype=np.uint64).reshape(part)
    if xp is np:
        last[index] = numbers  # sequential, because it is all contiguous
    else:  # on a GPU the order is undefined
        xp.maximum.at(last, index, numbers)
    return numbers, last


def write(xp: Xp, y: Array, index: Any, v: Any) -> None:
    """y[index] = v, in place. If an element is indexed twice the last v counts, in row-major order, for any memory layout."""
    check_on_gpu("setitem", index, y.shape)
    if np.ndim(v) and may_repeat(index):
        if xp is np:
            part = (*index.shape, *y.shape[1:]) if is_array(index) else y[index].shape
        else:
            numbers, last = numbered(xp, index, y.shape)
            part = numbers.shape
        v = xp.broadcast_to(v.reshape(v.shape[v.ndim - len(part) :]) if v.ndim > len(part) else v, part)
        # NumPy writes in the order of memory
        v = np.ascontiguousarray(v) if xp is np else v.reshape(-1)[last[index].astype(np.int64) - 1]
    y[index] = v


def zeros_matching(t: Value, shape: Shape) -> Array:
    """Zeros of a shape, with dtype and device of `t`."""
    like = raw(t)
    with on(like):
        return namespace([like]).zeros(shape, t.dtype)


def with_axes(x: Value, ndim: int) -> Value:
    """x with leading axes of size 1 up to `ndim`: NumPy allows assigned values to have them."""
    return x if x.ndim >= ndim else reshape(x, (1,) * (ndim - x.ndim) + tuple(x.shape))


def where_arguments(mask: Tensor, x: Any, v: Any) -> tuple[Any, Any, Any] | None:
    """x[mask] = v as the arguments of `where`; None if the shape of v depends on the number of elements in the mask."""
    shape, trailing = shape_of(x), len(shape_of(x)) - mask.ndim
    if mask.shape != shape[: mask.ndim] or len(shape_of(v)) > trailing:
        return None
    dtype = raw(x).dtype if is_array(raw(x)) else raw(v).dtype
    if getattr(v, "dtype", None) != dtype and not isinstance(v, (int, float)):
        v = astype(v, dtype)
    return reshape(mask, (*mask.shape, *[1] * trailing)), v, x


setitem, assign, last_named = SetItem(), Assign(), LastNamed()

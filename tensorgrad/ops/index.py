"""Indexing and its transpose."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tensorgrad.core.arguments import check_memory, sizes
from tensorgrad.core.backend import Array, Xp, check, is_array, is_floating, on_gpu, on_gpu_of
from tensorgrad.core.op import Op, Rules, Sample, Value
from tensorgrad.core.operand import Binary, Operand, T
from tensorgrad.core.signature import Shape
from tensorgrad.core.state import describe, scoped, state
from tensorgrad.core.tensor import Tensor, raw, wrap
from tensorgrad.errors import OutOfRangeError
from tensorgrad.kernels import common, reference

__all__ = ["getitem", "put"]


class GetItem(Op):
    """x[index]: slices with steps, None, Ellipsis, integers, integer arrays and boolean masks, in any combination.

    forward    y  = x[index]
    backward   gx = zeros, gx[index] += g, accumulated for repeated elements
    """

    name, signature, symbol = "getitem", "()->()", "[ ]"
    linear = "x"
    moves = True

    def __call__(self, x: Operand[T], index: Any) -> T | Array:
        index = as_traced(index)
        if has_tensors(index):
            return gather(x, index)
        return self.apply(x, index=on_device_of(frozen(self.name, index), x))

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        (x,), _ = super().sample(rng, sizes)
        index: list[Any] = []
        for n in x.shape:
            kinds: list[Any] = [slice(None), slice(None, None, -1), slice(1, None, 2)]
            kinds += [int(rng.integers(-n, n)), rng.integers(-n, n, 3), rng.random(n) < 0.5] if n else []
            index.append(kinds[rng.integers(0, len(kinds))])
        if sum(is_array(i) for i in index) > 1:  # index arrays broadcast against each other
            index = [slice(None) if is_array(i) else i for i in index]
        return (x,), {"index": (*index, None) if rng.random() < 0.3 else (*index, ...)}

    def forward(self, xp: Xp, x: Array, *, index: Any) -> Array:
        check_on_gpu(self.name, index, x.shape)
        return xp.asarray(x)[index]

    def backward(self, g: Value, y: Value, x: Value, *, index: Any) -> Rules:
        return (lambda: put(g, index, x.shape),)


class Put(Op):
    """Zeros of a shape with x added at an index: the transpose of `getitem`.

    forward    y  = zeros(shape), y[index] += x, accumulated for repeated elements
    backward   gx = g[index]
    """

    name, signature, symbol = "put", "()->()", "[ ]="
    linear = "x"
    moves = True

    def __call__(self, x: Operand[T], index: Any, shape: Sequence[int]) -> T | Array:
        shape = sizes(self.name, shape)
        check_memory(self.name, shape, 8)
        return self.apply(x, index=on_device_of(frozen(self.name, index), x, shape), shape=shape)

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        (target,), attrs = getitem.sample(rng, sizes)
        return (self.values(rng, target[attrs["index"]].shape),), {**attrs, "shape": target.shape}

    def forward(self, xp: Xp, x: Array, *, index: Any, shape: Shape) -> Array:
        x = xp.asarray(x)
        y = xp.zeros(shape, x.dtype)
        check_on_gpu(self.name, index, shape)
        if not may_repeat(index):
            y[index] = x
        elif xp is np:
            add_at(y, index, x)
        elif x.dtype.itemsize < 4 and x.dtype.kind in "biu":  # add in a wider dtype and truncate, as NumPy does; CuPy refuses
            wide = y.astype(np.uint32)
            xp.add.at(wide, index, x.astype(np.uint32))
            y = wide.astype(x.dtype)
        else:
            xp.add.at(y, index, x)
        return y

    def backward(self, g: Value, y: Value, x: Value, *, index: Any, shape: Shape) -> Rules:
        return (lambda: getitem(g, index),)


class Gather(Op):
    """x[index] with Tensors of integers or booleans in the index: they are data, so that replays can use others. `index` has AT
    in the place of each.

    forward    y  = x[index]
    backward   gx = zeros, gx[index] += g, accumulated for repeated elements
    """

    name, signature, symbol, reads, data = "gather", "(*),(*)->(*)", "[ ]", "indices", "indices"
    linear = "x"
    moves, public = True, "getitem"

    def __call__(self, x: Operand[T], *indices: Any, index: Any = None) -> T | Array:
        if index is None:
            index, indices = split_index(self.public, indices[0], x)
        return self.apply(x, *indices, index=index)

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        rows, columns = (max(int(n), 1) for n in rng.choice(sizes, 2))  # empty arrays cannot be indexed
        x, at = self.values(rng, (rows, columns)), rng.integers(0, rows, 4)
        kinds: list[Sample] = [
            ((x, at), {"index": AT}),
            ((x, at), {"index": (AT, slice(None, None, -1))}),
            ((x, at, rng.integers(0, columns, 4)), {"index": (AT, AT)}),
            ((x, rng.random(rows) < 0.5), {"index": AT}),
        ]
        return kinds[rng.integers(len(kinds))]

    def forward(self, xp: Xp, x: Array, *indices: Array, index: Any) -> Array:
        index = put_in(index, indices)
        check_on_gpu(self.public, index, x.shape)
        return xp.asarray(x)[index]

    def backward(self, g: Value, y: Value, x: Value, *indices: Value, index: Any) -> Rules:
        return (lambda: scatter(g, *indices, index=index, shape=x.shape), *[None] * len(indices))


class Lookup(Binary):
    """Rows of a table, as for `embedding`. Raises LabelError for an index out of range, including negative ones.

    forward    y[...] = w[t[...]]                                 w (rows, dim), t (...) integers
    backward   gw = zeros with every row of g added at its index
    """

    name, signature, symbol, reads, data = "lookup", "(rows,dim),(*)->(*)", "[ ]", "t", "t"
    linear = "w"
    moves, public = True, "embedding"

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        rows, columns = max(int(rng.choice(sizes)), 1), int(rng.choice(sizes))
        at = tuple(int(n) for n in rng.choice(sizes, rng.integers(3)))
        return (self.values(rng, (rows, columns)), rng.integers(0, rows, at)), {}

    def forward(self, xp: Xp, w: Array, t: Array) -> Array:
        if on_gpu(t):
            check((t < 0) | (t >= len(w)), f"embedding: an index is out of range, expected 0 to {len(w) - 1}")
            return w[t]
        reference.check_rows(t, len(w))
        return w.take(t, 0)

    def backward(self, g: Value, y: Value, w: Value, t: Value) -> Rules:
        return lambda: scatter(g, t, index=AT, shape=w.shape), None


class SumNamed(Op):
    """Sums of the rows with the same index: t has the row of a table to which each row of x is to be added.

    forward    y[i] = sum of x[j] over all j with t[j] = t[i]           x (n, ...), t (n) integers
    backward   gx[i] = sum of g[j] over all j with t[j] = t[i]
    """

    name, signature, symbol, reads, data = "sum_named", "(*),(*)->(*)", "Σ", "t", "t"
    linear = "x"

    def __call__(self, x: Operand[T], t: Any, rows: int) -> T | Array:
        return self.apply(x, t, rows=rows)

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        n, columns = (int(s) for s in rng.choice(sizes, 2))
        return (self.values(rng, (n, columns)), rng.integers(-3, 3, n)), {"rows": 3}

    def forward(self, xp: Xp, x: Array, t: Array, *, rows: int) -> Array:
        if xp is not np:
            return put.forward(xp, x, index=t, shape=(rows, *x.shape[1:]))[t]
        places, first = np.arange(len(t)), np.empty(rows, np.intp)
        first[t[::-1]] = places[::-1]  # reversed, because the last write counts
        at = first[t]
        repeated = np.flatnonzero(at != places)
        if not repeated.size:
            return x
        y = np.array(x, order="C")
        add_at(y, at[repeated], x[repeated])
        return y[at]

    def backward(self, g: Value, y: Value, x: Value, t: Value, *, rows: int) -> Rules:
        return lambda: sum_named(g, t, rows), None


class Scatter(Op):
    """Zeros of a shape with x added at an index with Tensors: the transpose of `gather`.

    forward    y  = zeros(shape), y[index] += x, accumulated for repeated elements
    backward   gx = g[index]
    """

    name, signature, symbol, reads, data = "scatter", "(*),(*)->(*)", "[ ]=", "indices", "indices"
    linear = "x"
    moves, public = True, "put"

    def __call__(self, x: Operand[T], *indices: Any, index: Any, shape: Sequence[int]) -> T | Array:
        y = self.apply(x, *indices, index=index, shape=tuple(shape))
        if state.trace is not None and index == AT and all(isinstance(a, Tensor) for a in (y, x, indices[0])):
            state.trace.scattered(y, x, indices[0])
        return y

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        (target, *indices), attrs = gather.sample(rng, sizes)
        part = target[put_in(attrs["index"], tuple(indices))]
        return (self.values(rng, part.shape), *indices), {**attrs, "shape": target.shape}

    def forward(self, xp: Xp, x: Array, *indices: Array, index: Any, shape: Shape) -> Array:
        return put.forward(xp, x, index=put_in(index, indices), shape=shape)

    def backward(self, g: Value, y: Value, x: Value, *indices: Value, index: Any, shape: Shape) -> Rules:
        return (lambda: gather(g, *indices, index=index), *[None] * len(indices))


def of_lists(index: Any) -> str:
    """A hint about the origin of floating numbers used as indices or labels."""
    return (
        "; lists become float32 without a dtype: Tensor([0, 2], dtype=int)"
        if getattr(index, "dtype", None) == np.float32
        else ""
    )


def has_tensors(index: Any) -> bool:
    """Whether an index has a Tensor in it."""
    return isinstance(index, Tensor) or (isinstance(index, tuple) and any(isinstance(i, Tensor) for i in index))


def as_traced(index: Any) -> Any:
    """An index in a traced step: integer arrays become Tensors on their memory, which each replay reads."""
    if state.trace is None:
        return index
    if isinstance(index, tuple):
        return tuple(as_traced(i) for i in index)
    return wrap(index, None) if is_array(index) and not isinstance(index, np.generic) and index.dtype.kind in "iu" else index


def frozen(op: str, index: Any) -> Any:
    """An immutable index: arrays are copied, lists converted to arrays."""
    if isinstance(index, tuple):
        return tuple([frozen(op, i) for i in index])
    if isinstance(index, list):
        try:
            index = np.asarray(index) if index else np.zeros(0, int)
        except ValueError as error:
            raise OutOfRangeError(f"{scoped(op)}: an index is not an array of integers or booleans: {error}") from error
    if not is_array(index):
        return index
    if state.trace is not None:
        state.trace.uses_constant(index)
    return index.copy()


def on_device_of(index: Any, x: Any, shape: Shape | None = None) -> Any:
    """The index with its arrays on the device of x. Raises OutOfRangeError before moving one to a GPU, which does not check.

    shape   of the indexed array, if not x
    """
    parts = index if isinstance(index, tuple) else (index,)
    arrays = [raw(x)]
    if not any(is_array(i) for i in parts):
        return index
    if on_gpu(arrays[0]):
        shape = arrays[0].shape if shape is None else shape
        for i, axis in integer_arrays(index, len(shape)):
            size = shape[axis]
            if isinstance(i, np.ndarray) and i.size and not (i.min() >= -size and i.max() < size):
                wrong = i[(i < -size) | (i >= size)].reshape(-1)[0]
                raise OutOfRangeError(f"{scoped('getitem')}: index {wrong} is out of bounds for axis {axis} with size {size}")
    if not isinstance(index, tuple):
        return on_gpu_of(index, arrays)
    return tuple(on_gpu_of(i, arrays) if is_array(i) else i for i in index)


def check_on_gpu(op: str, index: Any, shape: Shape) -> None:
    """Check integer index arrays on a GPU against a shape when values are next read: CuPy does not check."""
    for i, axis in integer_arrays(index, len(shape)):
        if on_gpu(i):
            size = shape[axis]
            message = f"{scoped(op)}: an index is out of bounds for axis {axis} with size {size}"
            check((i < -size) | (i >= size), message, OutOfRangeError)


def integer_arrays(index: Any, ndim: int) -> list[tuple[Any, int]]:
    """The integer arrays in an index, each with its axis."""
    parts = index if isinstance(index, tuple) else (index,)

    def width(i: Any) -> int:
        return 0 if i is None or i is Ellipsis else i.ndim if hasattr(i, "dtype") and i.dtype == bool else 1

    result, axis, used = [], 0, sum(map(width, parts))
    for i in parts:
        if is_array(i) and i.dtype.kind in "iu" and axis < ndim:
            result.append((i, axis))
        axis += ndim - used if i is Ellipsis else width(i)
    return result


AT = "at"  # placeholder in an index for an array argument


def split_index(op: str, index: Any, x: Any) -> tuple[Any, tuple[Any, ...]]:
    """An index of x with AT for its Tensors, arrays and lists, and these as arguments, arrays on the device of x."""
    parts = index if isinstance(index, tuple) else (index,)
    arrays = [i for i in parts if isinstance(i, (Tensor, list)) or is_array(i)]
    outline = tuple(AT if isinstance(i, (Tensor, list)) or is_array(i) else i for i in parts)
    for i in arrays:
        if isinstance(i, Tensor):
            if is_floating(i.dtype):
                raise OutOfRangeError(f"{scoped(op)}: an index must be integers or booleans, got {describe(i)}{of_lists(i)}")
            if i.dtype == bool and state.trace is not None:
                state.trace.needs_value(i, "a boolean index, whose number of True values is a shape,")
    indices = tuple(i if isinstance(i, Tensor) else frozen(op, i) for i in arrays)
    on_device = on_device_of(put_in(outline, indices), x)
    indices = tuple(i for i, at in zip(on_device, outline, strict=True) if isinstance(at, str))
    return outline if isinstance(index, tuple) else outline[0], indices


def put_in(index: Any, arrays: tuple[Array, ...]) -> Any:
    """Replace AT in an index by the arrays."""
    if not isinstance(index, tuple):
        return arrays[0]
    rest = iter(arrays)
    return tuple(next(rest) if isinstance(i, str) else i for i in index)


def add_at(y: Array, index: Any, x: Array) -> None:
    """y[index] += x in place, with repeated elements added each time; y is C-contiguous.

    Rows are added by a kernel or number by number, which in NumPy is several times as fast as row by row.
    """
    rows, width = len(y) if y.ndim else 0, math.prod(y.shape[1:])
    if width and is_array(index) and index.dtype.kind in "iu" and index.size and x.shape == (*index.shape, *y.shape[1:]):
        starts = index.reshape(-1).astype(np.intp, copy=False)
        if common.add_rows(y.reshape(rows, width), starts, x.reshape(-1, width)):
            return
        if index.min() >= -rows and index.max() < rows:
            starts = np.where(starts < 0, starts + rows, starts) * width
            np.add.at(y.reshape(-1), (starts[:, None] + np.arange(width)).reshape(-1), x.reshape(-1))
            return
    np.add.at(y, index, x)


def may_repeat(index: Any) -> bool:
    """Whether an index may select an element twice: whether it has integer arrays."""
    return any(is_array(i) and i.dtype != bool for i in (index if isinstance(index, tuple) else (index,)))


getitem, put = GetItem(), Put()
gather, scatter, lookup, sum_named = Gather(), Scatter(), Lookup(), SumNamed()

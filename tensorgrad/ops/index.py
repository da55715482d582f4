"""Parts of an array, and arrays put together from parts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, overload

import numpy as np

from tensorgrad.core.arguments import axes_in, axis_in, is_sequence, is_whole, number, room_for, sizes, whole, wholes
from tensorgrad.core.backend import Array, Numbers, Xp, beside, check, is_array, namespace, on_gpu
from tensorgrad.core.op import Op, Rules, Sample, Value
from tensorgrad.core.operand import Binary, Operand, T, shape_of
from tensorgrad.core.signature import Axis, Shape
from tensorgrad.core.state import named, scoped, shown, state
from tensorgrad.core.tensor import Tensor, raw, wrap
from tensorgrad.errors import DTypeError, LabelError, OutOfRangeError, ShapeError
from tensorgrad.ops.elementwise import astype, where
from tensorgrad.ops.linalg import as_operand
from tensorgrad.ops.shape import broadcast_to, reshape, transpose

__all__ = [
    "concatenate", "diagonal", "expand_dims", "flatten", "flip", "getitem", "moveaxis", "pad", "put", "repeat", "roll",
    "setitem", "split", "squeeze", "stack", "take", "take_along_axis", "tile", "trace", "tril", "triu",
]  # fmt: skip


class GetItem(Op):
    """x[index]: slices with steps, None, Ellipsis, integers, integer arrays and boolean masks, in any mixture.

    forward    y  = x[index]
    backward   gx = zeros with g added at index, where an element was taken twice both times
    """

    name, signature, symbol = "getitem", "()->()", "[ ]"
    moves = True

    def __call__(self, x: Operand[T], index: Any) -> T | Array:
        index = followed(index)
        if has_tensors(index):
            return gather(x, index)
        return self.apply(x, index=placed(frozen(self.name, index), x))

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        (x,), _ = super().sample(rng, sizes)
        index: list[Any] = []
        for n in x.shape:
            kinds: list[Any] = [slice(None), slice(None, None, -1), slice(1, None, 2)]
            kinds += [int(rng.integers(-n, n)), rng.integers(-n, n, 3), rng.random(n) < 0.5] if n else []
            index.append(kinds[rng.integers(0, len(kinds))])
        if sum(is_array(i) for i in index) > 1:  # arrays of an index broadcast against each other
            index = [slice(None) if is_array(i) else i for i in index]
        return (x,), {"index": (*index, None) if rng.random() < 0.3 else (*index, ...)}

    def forward(self, xp: Xp, x: Array, *, index: Any) -> Array:
        return xp.asarray(x)[index]

    def backward(self, g: Value, y: Value, x: Value, *, index: Any) -> Rules:
        return (lambda: put(g, index, x.shape),)


class Put(Op):
    """Zeros of a shape with x added at an index: what undoes `getitem`.

    forward    y  = zeros(shape), y[index] += x, each time an element stands in the index
    backward   gx = g[index]
    """

    name, signature, symbol = "put", "()->()", "[ ]="
    moves = True

    def __call__(self, x: Operand[T], index: Any, shape: Sequence[int]) -> T | Array:
        shape = sizes(self.name, shape)
        room_for(self.name, shape, 8)
        return self.apply(x, index=placed(frozen(self.name, index), x), shape=shape)

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        (whole,), attrs = getitem.sample(rng, sizes)
        return (self.values(rng, whole[attrs["index"]].shape),), {**attrs, "shape": whole.shape}

    def forward(self, xp: Xp, x: Array, *, index: Any, shape: Shape) -> Array:
        x = xp.asarray(x)
        y = xp.zeros(shape, x.dtype)
        if not may_repeat(index):
            y[index] = x
        else:
            xp.add.at(y, index, x)
        return y

    def backward(self, g: Value, y: Value, x: Value, *, index: Any, shape: Shape) -> Rules:
        return (lambda: getitem(g, index),)


class Gather(Op):
    """x[index] where the index has Tensors of integers or booleans in it: they are data, so that a program can be run again
    with others. `index` has the AT of each in its place.

    forward    y  = x[index]
    backward   gx = zeros with g added at index, where an element was taken twice both times
    """

    name, signature, symbol, reads, data = "gather", "(*),(*)->(*)", "[ ]", "indices", "indices"
    moves, public = True, "getitem"

    def __call__(self, x: Operand[T], *indices: Any, index: Any = None) -> T | Array:
        if index is None:
            index, indices = taken_out(self.public, indices[0])
        return self.apply(x, *indices, index=index)

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        rows, columns = (max(int(n), 1) for n in rng.choice(sizes, 2))  # there is no index into nothing
        x, at = self.values(rng, (rows, columns)), rng.integers(0, rows, 4)
        kinds: list[Sample] = [
            ((x, at), {"index": AT}),
            ((x, at), {"index": (AT, slice(None, None, -1))}),
            ((x, at, rng.integers(0, columns, 4)), {"index": (AT, AT)}),
            ((x, rng.random(rows) < 0.5), {"index": AT}),
        ]
        return kinds[rng.integers(len(kinds))]

    def forward(self, xp: Xp, x: Array, *indices: Array, index: Any) -> Array:
        return xp.asarray(x)[put_in(index, indices)]

    def backward(self, g: Value, y: Value, x: Value, *indices: Value, index: Any) -> Rules:
        return (lambda: scatter(g, *indices, index=index, shape=x.shape), *[None] * len(indices))


class Lookup(Binary):
    """Rows of a table: what `embedding` does. Raises LabelError for an index out of range; a negative one is.

    forward    y[...] = w[t[...]]                                 w (rows, dim), t (...) integers
    backward   gw = zeros with every row of g added at its index
    """

    name, signature, symbol, reads, data = "lookup", "(rows,dim),(*)->(*)", "[ ]", "t", "t"
    moves, public = True, "embedding"

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        rows, columns = max(int(rng.choice(sizes)), 1), int(rng.choice(sizes))
        at = tuple(int(n) for n in rng.choice(sizes, rng.integers(3)))
        return (self.values(rng, (rows, columns)), rng.integers(0, rows, at)), {}

    def forward(self, xp: Xp, w: Array, t: Array) -> Array:
        if on_gpu(t):
            check((t < 0) | (t >= len(w)), f"embedding: an index is out of range, expected 0 to {len(w) - 1}")
        # read as unsigned, a negative index is a huge one: a single pass finds both ends
        elif t.size and t.view(t.dtype.str.replace("i", "u")).max() >= len(w):
            outside = t[(t < 0) | (t >= len(w))].reshape(-1)[0]
            raise LabelError(f"embedding: index {outside} is out of range, expected 0 to {len(w) - 1}")
        return w[t]

    def backward(self, g: Value, y: Value, w: Value, t: Value) -> Rules:
        return lambda: scatter(g, t, index=AT, shape=w.shape), None


class Scatter(Op):
    """Zeros of a shape with x added at an index with Tensors in it: what undoes `gather`.

    forward    y  = zeros(shape), y[index] += x, each time an element stands in the index
    backward   gx = g[index]
    """

    name, signature, symbol, reads, data = "scatter", "(*),(*)->(*)", "[ ]=", "indices", "indices"
    moves, public = True, "put"

    def __call__(self, x: Operand[T], *indices: Any, index: Any, shape: Sequence[int]) -> T | Array:
        return self.apply(x, *indices, index=index, shape=tuple(shape))

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        (whole, *indices), attrs = gather.sample(rng, sizes)
        part = whole[put_in(attrs["index"], tuple(indices))]
        return (self.values(rng, part.shape), *indices), {**attrs, "shape": whole.shape}

    def forward(self, xp: Xp, x: Array, *indices: Array, index: Any, shape: Shape) -> Array:
        return put.forward(xp, x, index=put_in(index, indices), shape=shape)

    def backward(self, g: Value, y: Value, x: Value, *indices: Value, index: Any, shape: Shape) -> Rules:
        return (lambda: gather(g, *indices, index=index), *[None] * len(indices))


class SetItem(Op):
    """x with v, broadcast, at an index: what `x[index] = v` makes of x.

    Of an element named twice the last v stays, in the order of rows, and the earlier ones have gradient 0.

    forward    y  = x, y[index] = v
    backward   gx = g with zeros at index,   gv = g[index] where v has stayed, 0 where it has not
    """

    name, signature, symbol = "setitem", "(),(*)->()", "[ ]="
    moves = True

    def __call__(self, x: Operand[T], v: Operand[T], index: Any) -> T | Array:
        index = followed(index)
        if not has_tensors(index):
            return self.apply(x, v, index=placed(frozen(self.name, index), x))
        if isinstance(index, Tensor) and index.dtype == bool and (fits := beneath(index, x, v)) is not None:
            return where(*fits)
        index, indices = taken_out(self.name, index)
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
                outline, arrays = taken_out(self.name, index)
                stays = last_named(*arrays, index=outline, shape=y.shape)
                gv = gv if stays.all() else where(stays, gv, 0)
            return with_axes(gv, v.ndim)

        return lambda: setitem(g, 0.0, index), gv


class Assign(Op):
    """`setitem` where the index has Tensors of integers or booleans in it, which are data. `index` has the AT of each in its
    place.

    forward    y  = x, y[index] = v
    backward   gx = g with zeros at index,   gv = g[index] where v has stayed, 0 where it has not
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
            stays = last_named(*indices, index=index, shape=y.shape)
            return with_axes(where(stays, gather(g, *indices, index=index), 0), v.ndim)

        return lambda: assign(g, 0.0, *indices, index=index), gv, *[None] * len(indices)


class LastNamed(Op):
    """For each element that an index takes of an array of a shape, whether it is not named again further on, in the order of
    rows. No gradient.

    forward    y  = [what would be written there stays]
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
        taken, last = numbered(xp, at, shape)
        return last[at] == taken


def may_repeat(index: Any) -> bool:
    """Whether an index can name an element twice: whether there are arrays of integers in it."""
    return any(is_array(i) and i.dtype != bool for i in (index if isinstance(index, tuple) else (index,)))


def numbered(xp: Xp, index: Any, shape: Shape) -> tuple[Array, Array]:
    """0, 1, 2, ... for the elements that an index takes of an array of a shape, in the order of rows, and that array: in each
    element the largest of the numbers by which it is named, -1 where it is not."""
    last = xp.full(shape, -1)
    part = last[index].shape
    taken = xp.arange(math.prod(part)).reshape(part)
    if xp is np:
        last[index] = taken  # one after the other, since all of it lies in that order
    else:  # on a GPU anyone may come last
        xp.maximum.at(last, index, taken)
    return taken, last


def write(xp: Xp, y: Array, index: Any, v: Any) -> None:
    """y[index] = v, in place. Of an element named twice the last v stays, in the order of rows, however v lies in memory."""
    if np.ndim(v) and may_repeat(index):
        if xp is np:
            part = y[index].shape
        else:
            taken, last = numbered(xp, index, y.shape)
            part = taken.shape
        v = xp.broadcast_to(v.reshape(v.shape[v.ndim - len(part) :]) if v.ndim > len(part) else v, part)
        v = xp.array(v, order="C") if xp is np else v.reshape(-1)[last[index]]
    y[index] = v


def with_axes(x: Value, ndim: int) -> Value:
    """x with axes of size 1 before its own, so that there are `ndim`: what is written may have them, as in NumPy."""
    return x if x.ndim >= ndim else reshape(x, (1,) * (ndim - x.ndim) + tuple(x.shape))


def beneath(mask: Tensor, x: Any, v: Any) -> tuple[Any, Any, Any] | None:
    """x[mask] = v as the arguments of `where`; None if the shape of v depends on how many elements the mask takes."""
    shape, rest = shape_of(x), len(shape_of(x)) - mask.ndim
    if mask.shape != shape[: mask.ndim] or len(shape_of(v)) > rest:
        return None
    dtype = raw(x).dtype if is_array(raw(x)) else raw(v).dtype
    if getattr(v, "dtype", None) != dtype and not isinstance(v, (int, float)):
        v = astype(v, dtype)
    return reshape(mask, (*mask.shape, *[1] * rest)), v, x


class Concatenate(Op):
    """Arrays one after the other along an axis.

    forward    y  = x_1, x_2, ... along axis
    backward   gx_i = the part of g that x_i became
    """

    name, signature = "concatenate", "()->()"
    moves = True

    @overload
    def __call__(self, xs: Sequence[Numbers], axis: int | None = 0, /) -> Array: ...
    @overload
    def __call__(self, xs: Sequence[Operand[Tensor]], axis: int | None = 0, /) -> Tensor: ...
    @overload
    def __call__(self, xs: Sequence[Numbers], /, *, axis: int | None = 0) -> Array: ...
    @overload
    def __call__(self, xs: Sequence[Operand[Tensor]], /, *, axis: int | None = 0) -> Tensor: ...
    @overload
    def __call__(self, *xs: Operand[T], axis: int | None = 0) -> T | Array: ...
    def __call__(self, *xs: Any, axis: int | None = 0) -> Tensor | Array:
        """Arrays in a list, with the axis after it or by its name, or one by one. axis: None for all elements in a row."""
        if len(xs) == 2 and isinstance(xs[0], (list, tuple)) and (xs[1] is None or is_whole(xs[1])):
            parts, axis = xs
            xs = tuple(parts)
        elif len(xs) == 1 and isinstance(xs[0], (list, tuple)):
            xs = tuple(xs[0])
        if not xs:
            raise ShapeError(f"{scoped(self.name)}: no arrays were given")
        if axis is None:
            xs, axis = tuple(flatten(x) for x in xs), 0
        return self.apply(*xs, axis=whole(self.name, "axis", axis))

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        shape = [int(n) for n in rng.choice(sizes, rng.integers(1, 4))]
        axis = int(rng.integers(-len(shape), len(shape)))
        parts = []
        for n in rng.choice(sizes, 3):
            shape[axis] = int(n)
            parts.append(self.values(rng, tuple(shape)))
        return tuple(parts), {"axis": axis}

    def forward(self, xp: Xp, *xs: Array, axis: int) -> Array:
        return xp.concatenate(xs, axis=axis)

    def backward(self, g: Value, y: Value, *xs: Value, axis: int) -> Rules:
        before = (slice(None),) * (axis % y.ndim)
        ends = np.cumsum([x.shape[axis] for x in xs]).tolist()
        return tuple(
            (lambda a=end - x.shape[axis], b=end: getitem(g, (*before, slice(a, b)))) for x, end in zip(xs, ends, strict=True)
        )


@overload
def stack(xs: Sequence[Numbers], axis: int = 0) -> Array: ...
@overload
def stack(xs: Sequence[Operand[Tensor]], axis: int = 0) -> Tensor: ...
@named
def stack(xs: Sequence[Operand[Tensor]], axis: int = 0) -> Tensor | Array:
    """Arrays of one shape along a new axis."""
    xs = list(xs)
    shapes = {shape_of(x) for x in xs}
    if len(shapes) != 1:
        raise ShapeError(f"{scoped('stack')}: expected arrays of one shape, got {[shape_of(x) for x in xs]}")
    axis = axis_in("stack", axis, len(shapes.pop()) + 1)
    return concatenate([expand_dims(x, axis) for x in xs], axis=axis)


@named
def split(x: Operand[T], sections: int | Sequence[int], axis: int = 0) -> tuple[T | Array, ...]:
    """x cut along an axis: into so many equal parts, or before each of the indices given."""
    shape = shape_of(x)
    axis = axis_in("split", axis, len(shape))
    n = shape[axis]
    if is_sequence(sections):
        cuts = list(wholes("split", "an index", sections))
    else:
        parts = whole("split", "sections", sections, 1)
        room_for("split", (parts,), 256)
        if n % parts:
            raise ShapeError(f"{scoped('split')}: axis {axis} of {shape} has {n} elements, which are not {parts} equal parts")
        cuts = [n // parts * i for i in range(1, parts)]
    before = (slice(None),) * axis
    return tuple(getitem(x, (*before, slice(a, b))) for a, b in zip([0, *cuts], [*cuts, n], strict=True))


@named
def flip(x: Operand[T], axis: Axis = None) -> T | Array:
    """x with the order of its elements reversed along the axes, all of them by default."""
    ndim = len(shape_of(x))
    axes = axes_in("flip", axis, ndim)
    return getitem(x, tuple(slice(None, None, -1) if i in axes else slice(None) for i in range(ndim)))


@named
def roll(x: Operand[T], shift: int, axis: int | None = None) -> T | Array:
    """x moved along an axis, what leaves it at one end coming in at the other; of the flattened x by default."""
    shape, shift = shape_of(x), whole("roll", "shift", shift)
    if axis is None:
        return reshape(roll(flatten(x), shift, 0), shape)
    axis = axis_in("roll", axis, len(shape))
    n = max(shape[axis], 1)
    return take(x, (np.arange(shape[axis]) - shift % n) % n, axis)


@named
def repeat(x: Operand[T], repeats: int | Sequence[int], axis: int | None = None) -> T | Array:
    """Every element so many times, one after the other, along an axis; of the flattened x by default.

    repeats   one number for all, or one for each element along the axis
    """
    if axis is None:
        return repeat(flatten(x), repeats, 0)
    shape = shape_of(x)
    axis = axis_in("repeat", axis, len(shape))
    counts = wholes("repeat", "repeats", repeats, 0)
    if len(counts) not in (1, shape[axis]):
        raise ShapeError(f"{scoped('repeat')}: {len(counts)} repeats for the {shape[axis]} elements of axis {axis} of {shape}")
    total = sum(counts) if len(counts) > 1 else shape[axis] * sum(counts)
    room_for("repeat", (*shape[:axis], total, *shape[axis + 1 :]), 8)
    return take(x, np.repeat(np.arange(shape[axis]), counts), axis)


@named
def tile(x: Operand[T], reps: int | Sequence[int]) -> T | Array:
    """The whole of x so many times along each axis, as NumPy's tile."""
    reps = wholes("tile", "reps", reps, 0)
    shape = shape_of(x)
    ndim = max(len(shape), len(reps))
    shape, reps = (1,) * (ndim - len(shape)) + shape, (1,) * (ndim - len(reps)) + reps
    result = tuple(r * n for r, n in zip(reps, shape, strict=True))
    room_for("tile", result, 8)
    spread = reshape(x, tuple(n for size in shape for n in (1, size)))
    wide = broadcast_to(spread, tuple(n for pair in zip(reps, shape, strict=True) for n in pair))
    return reshape(wide, result)


@named
def pad(x: Operand[T], width: int | Sequence[int] | Sequence[Sequence[int]], value: float = 0.0) -> T | Array:
    """x with `value`, in the dtype of x, around it; width as in NumPy: n, (before, after), or one such pair for each axis."""
    shape = shape_of(x)
    if isinstance(width, (tuple, list)) and any(map(is_sequence, width)):
        pairs = [wholes("pad", "width", w) for w in width]
    else:
        pairs = [wholes("pad", "width", width)]
    if any(n < 0 for p in pairs for n in p):
        raise ShapeError(f"{scoped('pad')}: width must not be negative, got {shown(width)}")
    if len(pairs) not in (1, len(shape)) or any(len(p) not in (1, 2) for p in pairs):
        expected = f"n, (before, after), or a pair for each of the {len(shape)} axes of {shape}"
        raise ShapeError(f"{scoped('pad')}: width is {shown(width)}, expected {expected}")
    pairs = [p * 2 if len(p) == 1 else p for p in (pairs * len(shape) if len(pairs) == 1 else pairs)]
    if not isinstance(value, (bool, np.bool_)):
        value = number("pad", "value", value)
    inside = tuple(slice(a, a + n) for (a, _), n in zip(pairs, shape, strict=True))
    around = tuple(a + n + b for (a, b), n in zip(pairs, shape, strict=True))
    room_for("pad", around, 8)
    if not value:
        return put(x, inside, around)
    x = as_operand("pad", x)
    return setitem(namespace([raw(x)]).full(around, value, x.dtype), x, inside)


@named
def take(x: Operand[T], indices: Operand[Tensor], axis: int | None = None) -> T | Array:
    """The elements at integer indices along an axis; of the flattened x by default."""
    if axis is None:
        return getitem(flatten(x), as_index("take", indices))
    return getitem(x, ((slice(None),) * axis_in("take", axis, len(shape_of(x))) + (as_index("take", indices),)))


@named
def take_along_axis(x: Operand[T], indices: Operand[Tensor], axis: int | None = -1) -> T | Array:
    """For every place of `indices` the element that it names along the axis; as NumPy's."""
    indices = as_index("take_along_axis", indices)
    if axis is None:
        return getitem(flatten(x), indices)
    shape, at = shape_of(x), shape_of(indices)
    axis = axis_in("take_along_axis", axis, len(shape))
    if len(at) != len(shape):
        raise ShapeError(f"{scoped('take_along_axis')}: indices have shape {at}, expected as many axes as {shape}")
    if any(1 != n != m != 1 for i, (n, m) in enumerate(zip(at, shape, strict=True)) if i != axis):
        expected = f"the shape of x, {shape}, but along axis {axis}"
        raise ShapeError(f"{scoped('take_along_axis')}: indices have shape {at}, expected {expected}")
    grids = np.ogrid[tuple(slice(n) for n in shape)]
    return getitem(x, tuple(indices if i == axis else grids[i] for i in range(len(shape))))


@named
def diagonal(x: Operand[T], offset: int = 0, axis1: int = 0, axis2: int = 1) -> T | Array:
    """The elements at (i, i + offset) of two axes, along a new last axis."""
    ndim, offset = len(shape_of(x)), whole("diagonal", "offset", offset)
    if ndim < 2:
        raise ShapeError(f"{scoped('diagonal')}: expected two axes or more, got shape {shape_of(x)}")
    axis1, axis2 = axis_in("diagonal", axis1, ndim, "axis1"), axis_in("diagonal", axis2, ndim, "axis2")
    if axis1 == axis2:
        raise ShapeError(f"{scoped('diagonal')}: axis1 and axis2 are both axis {axis1}, of {shape_of(x)}")
    rest = [i for i in range(ndim) if i not in (axis1, axis2)]
    moved = transpose(x, (*rest, axis1, axis2))
    rows, columns = shape_of(moved)[-2:]
    i = np.arange(max(-offset, 0), max(min(rows, columns - offset), max(-offset, 0)))
    return getitem(moved, (..., i, i + offset))


@named
def trace(x: Operand[T], offset: int = 0, axis1: int = 0, axis2: int = 1) -> T | Array:
    """The sum of a `diagonal`."""
    return diagonal(x, offset, axis1, axis2).sum(axis=-1)


@named
def tril(x: Operand[T], k: int = 0) -> T | Array:
    """x with zeros above its k-th diagonal, in the last two axes."""
    x = as_operand("tril", x)
    return where(lower("tril", x, k), x, False)  # of any dtype False is 0


@named
def triu(x: Operand[T], k: int = 0) -> T | Array:
    """x with zeros below its k-th diagonal, in the last two axes."""
    x = as_operand("triu", x)
    return where(lower("triu", x, k, 1), False, x)


def lower(op: str, x: Any, k: int, above: int = 0) -> Array:
    """Whether an element of a matrix like x lies at or below the k-th diagonal; less `above`, at or below one further down."""
    k = whole(op, "k", k)
    if x.ndim < 2:
        raise ShapeError(f"{scoped(op)}: expected two axes or more, got shape {x.shape}")
    n, m = x.shape[-2:]
    return namespace([raw(x)]).tri(n, m, min(max(k - above, -n), m), bool)


@named
def flatten(x: Operand[T], start_axis: int = 0) -> T | Array:
    """x with its axes from `start_axis` on made one."""
    shape = shape_of(x)
    start = axis_in("flatten", start_axis, max(len(shape), 1), "start_axis")
    return reshape(x, (*shape[:start], math.prod(shape[start:])))


@named
def squeeze(x: Operand[T], axis: Axis = None) -> T | Array:
    """x without its axes of size 1, or without those given."""
    shape = shape_of(x)
    axes = [i for i, n in enumerate(shape) if n == 1] if axis is None else axes_in("squeeze", axis, len(shape))
    if any(shape[i] != 1 for i in axes):
        raise ShapeError(f"{scoped('squeeze')}: axis {shown(axis)} of shape {shape} is not of size 1")
    return reshape(x, tuple(n for i, n in enumerate(shape) if i not in axes))


@named
def expand_dims(x: Operand[T], axis: int | tuple[int, ...]) -> T | Array:
    """x with new axes of size 1, at the places given in the result."""
    shape = shape_of(x)
    added = wholes("expand_dims", "axis", axis)
    axes = axes_in("expand_dims", added, len(shape) + len(added))
    rest = iter(shape)
    return reshape(x, tuple([1 if i in axes else next(rest) for i in range(len(shape) + len(added))]))


@named
def moveaxis(x: Operand[T], source: int | Sequence[int], destination: int | Sequence[int]) -> T | Array:
    """x with some axes moved to other places, the others staying in order."""
    ndim = len(shape_of(x))
    sources = wholes("moveaxis", "source", source)
    targets = wholes("moveaxis", "destination", destination)
    sources = axes_in("moveaxis", sources, ndim, "source")
    targets = axes_in("moveaxis", targets, ndim, "destination")
    if len(sources) != len(targets):
        raise ShapeError(f"{scoped('moveaxis')}: {len(sources)} axes to move to {len(targets)} places")
    order = [i for i in range(ndim) if i not in sources]
    for target, origin in sorted(zip(targets, sources, strict=True)):
        order.insert(target, origin)
    return transpose(x, tuple(order))


def as_index(op: str, indices: Operand[Tensor]) -> Any:
    """Integers as they are, lists of them as arrays."""
    found = frozen(op, indices) if isinstance(indices, list) else followed(indices)
    if getattr(found, "dtype", np.dtype(bool)).kind not in "iu" and not is_whole(found):
        raise DTypeError(f"{scoped(op)}: indices must be whole numbers, got {shown(indices)}{of_lists(found)}")
    return found


def of_lists(index: Any) -> str:
    """Where the floating numbers of a Tensor may come from that is to be an index."""
    return "; lists become float32, Tensor([0, 2], dtype=int) does not" if getattr(index, "dtype", None) == np.float32 else ""


def has_tensors(index: Any) -> bool:
    """Whether there is a Tensor in an index."""
    return isinstance(index, Tensor) or (isinstance(index, tuple) and any(isinstance(i, Tensor) for i in index))


def followed(index: Any) -> Any:
    """An index in a traced step: arrays of integers as Tensors on their memory, which each replay reads anew."""
    if state.trace is None:
        return index
    if isinstance(index, tuple):
        return tuple(followed(i) for i in index)
    return wrap(index, None) if is_array(index) and not isinstance(index, np.generic) and index.dtype.kind in "iu" else index


def frozen(op: str, index: Any) -> Any:
    """An index that nobody else can change: its arrays copied, lists made arrays."""
    if isinstance(index, tuple):
        return tuple([frozen(op, i) for i in index])
    if isinstance(index, list):
        try:
            index = np.asarray(index) if index else np.zeros(0, int)
        except ValueError as error:
            raise OutOfRangeError(f"{scoped(op)}: an index is no array of integers or booleans: {error}") from error
    if not is_array(index):
        return index
    if state.trace is not None:
        state.trace.freezes(index)
    return index.copy()


def placed(index: Any, x: Any) -> Any:
    """The index with its arrays where x is."""
    if not any(is_array(i) for i in (index if isinstance(index, tuple) else (index,))):
        return index
    near = [raw(x)]
    if not isinstance(index, tuple):
        return beside(index, near)
    return tuple(beside(i, near) if is_array(i) else i for i in index)


AT = "at"  # stands in an index for an array that comes as an argument


def taken_out(op: str, index: Any) -> tuple[Any, tuple[Any, ...]]:
    """An index with AT in the place of its Tensors, arrays and lists, and those."""
    parts = index if isinstance(index, tuple) else (index,)
    arrays = [i for i in parts if isinstance(i, (Tensor, list)) or is_array(i)]
    outline = tuple(AT if isinstance(i, (Tensor, list)) or is_array(i) else i for i in parts)
    for i in arrays:
        if isinstance(i, Tensor):
            if i.dtype.kind == "f":
                raise OutOfRangeError(f"{scoped(op)}: an index must be integers or booleans, got {shown(i)}{of_lists(i)}")
            if i.dtype == bool and state.trace is not None:
                state.trace.refuse(i, "an index of booleans, whose number of True is a shape,")
    found = tuple(i if isinstance(i, Tensor) else frozen(op, i) for i in arrays)
    return outline if isinstance(index, tuple) else outline[0], found


def put_in(index: Any, arrays: tuple[Array, ...]) -> Any:
    """The index with the arrays in the places of AT."""
    if not isinstance(index, tuple):
        return arrays[0]
    rest = iter(arrays)
    return tuple(next(rest) if isinstance(i, str) else i for i in index)


getitem, put, setitem, concatenate = GetItem(), Put(), SetItem(), Concatenate()
gather, scatter, lookup = Gather(), Scatter(), Lookup()
assign, last_named = Assign(), LastNamed()

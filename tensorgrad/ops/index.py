"""Parts of an array, and arrays put together from parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

import numpy as np

from tensorgrad.core.backend import Array, Numbers, Xp, beside, check, is_array, namespace, on_gpu
from tensorgrad.core.op import Op, Rules, Sample, Value
from tensorgrad.core.operand import Binary, Operand, T, shape_of
from tensorgrad.core.signature import Axis, Shape
from tensorgrad.core.state import state
from tensorgrad.core.tensor import Tensor, raw, wrap
from tensorgrad.errors import LabelError, ShapeError
from tensorgrad.ops.elementwise import where
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
        if any(isinstance(i, Tensor) for i in (index if isinstance(index, tuple) else (index,))):
            return gather(x, index)
        return self.apply(x, index=placed(frozen(index), x))

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
        return self.apply(x, index=placed(frozen(index), x), shape=tuple(shape))

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        (whole,), attrs = getitem.sample(rng, sizes)
        return (self.values(rng, whole[attrs["index"]].shape),), {**attrs, "shape": whole.shape}

    def forward(self, xp: Xp, x: Array, *, index: Any, shape: Shape) -> Array:
        y = xp.zeros(shape, x.dtype)
        parts = index if isinstance(index, tuple) else (index,)
        if all(i.dtype == bool for i in parts if is_array(i)):  # nothing is named twice
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
    moves = True

    def __call__(self, x: Operand[T], *indices: Any, index: Any = None) -> T | Array:
        if index is None:
            index, indices = taken_out(indices[0])
            if state.trace is not None:
                for mask in indices:
                    if isinstance(mask, Tensor) and mask.dtype == bool:
                        state.trace.refuse(mask, "an index of booleans, whose number of True is a shape,")
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
    moves = True

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
    moves = True

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
    """x with v, broadcast, at an index: what `x[index] = v` makes of x. Of an element named twice the last v stays.

    forward    y  = x, y[index] = v
    backward   gx = g with zeros at index,   gv = g[index]
    """

    name, signature, symbol = "setitem", "(),(*)->()", "[ ]="
    moves = True

    def __call__(self, x: Operand[T], v: Operand[T], index: Any) -> T | Array:
        return self.apply(x, v, index=placed(frozen(index), x))

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        (x,), _ = getitem.sample(rng, sizes)
        index = tuple(slice(0, max(n - 1, 1)) for n in x.shape)
        return (x, self.values(rng, x[index].shape)), {"index": index}

    def forward(self, xp: Xp, x: Array, v: Array, *, index: Any) -> Array:
        y = xp.array(x)
        y[index] = v
        return y

    def backward(self, g: Value, y: Value, x: Value, v: Value, *, index: Any) -> Rules:
        def gx() -> Value:
            keep = namespace([raw(g)]).ones(x.shape, bool)
            keep[index] = False
            return where(keep, g, 0.0)

        return gx, lambda: getitem(g, index)


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
        if len(xs) == 2 and isinstance(xs[0], (list, tuple)) and (xs[1] is None or isinstance(xs[1], (int, np.integer))):
            parts, axis = xs
            xs = tuple(parts)
        elif len(xs) == 1 and isinstance(xs[0], (list, tuple)):
            xs = tuple(xs[0])
        if not xs:
            raise ShapeError("concatenate: no arrays were given")
        if axis is None:
            xs, axis = tuple(reshape(x, (-1,)) for x in xs), 0
        return self.apply(*xs, axis=axis)

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
def stack(xs: Sequence[Operand[Tensor]], axis: int = 0) -> Tensor | Array:
    """Arrays of one shape along a new axis."""
    shapes = {shape_of(x) for x in xs}
    if len(shapes) != 1:
        raise ShapeError(f"stack: expected arrays of one shape, got {[shape_of(x) for x in xs]}")
    return concatenate([expand_dims(x, axis) for x in xs], axis=axis)


def split(x: Operand[T], sections: int | Sequence[int], axis: int = 0) -> tuple[T | Array, ...]:
    """x cut along an axis: into so many equal parts, or before each of the indices given."""
    n = shape_of(x)[axis]
    if isinstance(sections, int):
        if sections < 1 or n % sections:
            raise ShapeError(f"split: axis {axis} of {shape_of(x)} has {n} elements, which are not {sections} equal parts")
        cuts = [n // sections * i for i in range(1, sections)]
    else:
        cuts = list(sections)
    before = (slice(None),) * (axis % len(shape_of(x)))
    return tuple(getitem(x, (*before, slice(a, b))) for a, b in zip([0, *cuts], [*cuts, n], strict=True))


def flip(x: Operand[T], axis: Axis = None) -> T | Array:
    """x with the order of its elements reversed along the axes, all of them by default."""
    axes = axes_of("flip", axis, len(shape_of(x)))
    return getitem(x, tuple(slice(None, None, -1) if i in axes else slice(None) for i in range(len(shape_of(x)))))


def roll(x: Operand[T], shift: int, axis: int | None = None) -> T | Array:
    """x moved along an axis, what leaves it at one end coming in at the other; of the flattened x by default."""
    shape = shape_of(x)
    if axis is None:
        return reshape(roll(reshape(x, (-1,)), shift, 0), shape)
    order = (np.arange(shape[axis]) - shift) % max(shape[axis], 1)
    return take(x, order, axis)


def repeat(x: Operand[T], repeats: int, axis: int | None = None) -> T | Array:
    """Every element so many times, one after the other, along an axis; of the flattened x by default."""
    if axis is None:
        return repeat(reshape(x, (-1,)), repeats, 0)
    return take(x, np.repeat(np.arange(shape_of(x)[axis]), repeats), axis)


def tile(x: Operand[T], reps: int | Sequence[int]) -> T | Array:
    """The whole of x so many times along each axis, as NumPy's tile."""
    reps = (reps,) if isinstance(reps, int) else tuple(reps)
    shape = shape_of(x)
    ndim = max(len(shape), len(reps))
    shape, reps = (1,) * (ndim - len(shape)) + shape, (1,) * (ndim - len(reps)) + reps
    spread = reshape(x, tuple(n for size in shape for n in (1, size)))
    wide = broadcast_to(spread, tuple(n for pair in zip(reps, shape, strict=True) for n in pair))
    return reshape(wide, tuple(r * n for r, n in zip(reps, shape, strict=True)))


def pad(x: Operand[T], width: int | Sequence[int] | Sequence[Sequence[int]], value: float = 0.0) -> T | Array:
    """x with `value` around it; width as in NumPy: n, (before, after), or one such pair for each axis."""
    shape = shape_of(x)
    pairs = np.broadcast_to(np.asarray(width, int), (len(shape), 2)).tolist()
    if any(n < 0 for p in pairs for n in p):
        raise ShapeError(f"pad: width must not be negative, got {width}")
    inside = tuple(slice(a, a + n) for (a, _), n in zip(pairs, shape, strict=True))
    whole = tuple(a + n + b for (a, b), n in zip(pairs, shape, strict=True))
    y = put(x, inside, whole)
    if not value:
        return y
    around = namespace([raw(y)]).full(whole, value, y.dtype)
    around[inside] = 0
    return y + around


def take(x: Operand[T], indices: Operand[Tensor], axis: int | None = None) -> T | Array:
    """The elements at integer indices along an axis; of the flattened x by default."""
    if axis is None:
        return getitem(reshape(x, (-1,)), as_index(indices))
    return getitem(x, ((slice(None),) * (axis % len(shape_of(x))) + (as_index(indices),)))


def take_along_axis(x: Operand[T], indices: Operand[Tensor], axis: int | None = -1) -> T | Array:
    """For every place of `indices` the element that it names along the axis; as NumPy's."""
    indices = as_index(indices)
    if axis is None:
        return getitem(reshape(x, (-1,)), indices)
    shape, axis = shape_of(x), axis % len(shape_of(x))
    if indices.ndim != len(shape):
        raise ShapeError(f"take_along_axis: indices have shape {indices.shape}, expected as many axes as {shape}")
    grids = list(np.ogrid[tuple(slice(n) for n in indices.shape)])
    return getitem(x, tuple(indices if i == axis else np.broadcast_to(grids[i], indices.shape) for i in range(len(shape))))


def diagonal(x: Operand[T], offset: int = 0, axis1: int = 0, axis2: int = 1) -> T | Array:
    """The elements at (i, i + offset) of two axes, along a new last axis."""
    ndim = len(shape_of(x))
    if ndim < 2:
        raise ShapeError(f"diagonal: expected two axes or more, got shape {shape_of(x)}")
    axis1, axis2 = axis1 % ndim, axis2 % ndim
    rest = [i for i in range(ndim) if i not in (axis1, axis2)]
    moved = transpose(x, (*rest, axis1, axis2))
    rows, columns = shape_of(moved)[-2:]
    i = np.arange(max(-offset, 0), max(min(rows, columns - offset), max(-offset, 0)))
    return getitem(moved, (..., i, i + offset))


def trace(x: Operand[T], offset: int = 0, axis1: int = 0, axis2: int = 1) -> T | Array:
    """The sum of a `diagonal`."""
    return diagonal(x, offset, axis1, axis2).sum(axis=-1)


def tril(x: Operand[T], k: int = 0) -> T | Array:
    """x with zeros above its k-th diagonal, in the last two axes."""
    return where(namespace([raw(x)]).tri(shape_of(x)[-2], shape_of(x)[-1], k, bool), x, 0.0)


def triu(x: Operand[T], k: int = 0) -> T | Array:
    """x with zeros below its k-th diagonal, in the last two axes."""
    return where(~namespace([raw(x)]).tri(shape_of(x)[-2], shape_of(x)[-1], k - 1, bool), x, 0.0)


def flatten(x: Operand[T], start_axis: int = 0) -> T | Array:
    """x with its axes from `start_axis` on made one."""
    shape = shape_of(x)
    start = start_axis % max(len(shape), 1)
    return reshape(x, (*shape[:start], int(np.prod(shape[start:], dtype=int))))


def squeeze(x: Operand[T], axis: Axis = None) -> T | Array:
    """x without its axes of size 1, or without those given."""
    shape = shape_of(x)
    axes = {i for i, n in enumerate(shape) if n == 1} if axis is None else axes_of("squeeze", axis, len(shape))
    if any(shape[i] != 1 for i in axes):
        raise ShapeError(f"squeeze: axis {axis} of shape {shape} is not of size 1")
    return reshape(x, tuple(n for i, n in enumerate(shape) if i not in axes))


def expand_dims(x: Operand[T], axis: int | tuple[int, ...]) -> T | Array:
    """x with new axes of size 1, at the places given in the result."""
    added = (axis,) if isinstance(axis, int) else tuple(axis)
    axes = axes_of("expand_dims", added, len(shape_of(x)) + len(added))
    rest = iter(shape_of(x))
    return reshape(x, tuple(1 if i in axes else next(rest) for i in range(len(shape_of(x)) + len(added))))


def moveaxis(x: Operand[T], source: int | Sequence[int], destination: int | Sequence[int]) -> T | Array:
    """x with some axes moved to other places, the others staying in order."""
    ndim = len(shape_of(x))
    sources = [source] if isinstance(source, int) else list(source)
    targets = [destination] if isinstance(destination, int) else list(destination)
    if len(sources) != len(targets):
        raise ShapeError(f"moveaxis: {len(sources)} axes to move to {len(targets)} places")
    sources, targets = [s % ndim for s in sources], [t % ndim for t in targets]
    order = [i for i in range(ndim) if i not in sources]
    for target, origin in sorted(zip(targets, sources, strict=True)):
        order.insert(target, origin)
    return transpose(x, tuple(order))


def axes_of(op: str, axis: Axis, ndim: int) -> set[int]:
    """The axes that `axis` names, counted from the front."""
    axes = range(ndim) if axis is None else (axis,) if isinstance(axis, int) else axis
    for a in axes:
        if not -ndim <= a < ndim:
            raise ShapeError(f"{op}: axis {a} is out of bounds for {ndim} axes")
    return {a % ndim for a in axes}


def as_index(indices: Operand[Tensor]) -> Tensor | Array:
    """Tensors as they are, lists as arrays."""
    indices = followed(indices)
    return indices if isinstance(indices, Tensor) else frozen(indices)


def followed(index: Any) -> Any:
    """An index in a traced step: arrays of integers as Tensors on their memory, which each replay reads anew."""
    if state.trace is None:
        return index
    if isinstance(index, tuple):
        return tuple(followed(i) for i in index)
    return wrap(index, None) if is_array(index) and not isinstance(index, np.generic) and index.dtype.kind in "iu" else index


def frozen(index: Any) -> Any:
    """An index that nobody else can change: its arrays copied, lists made arrays."""
    if isinstance(index, tuple):
        return tuple(frozen(i) for i in index)
    if isinstance(index, list):
        index = np.asarray(index) if index else np.zeros(0, int)
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


def taken_out(index: Any) -> tuple[Any, tuple[Any, ...]]:
    """An index with AT in the place of its Tensors, arrays and lists, and those."""
    parts = index if isinstance(index, tuple) else (index,)
    arrays = [i for i in parts if isinstance(i, (Tensor, list)) or is_array(i)]
    outline = tuple(AT if isinstance(i, (Tensor, list)) or is_array(i) else i for i in parts)
    found = tuple(i if isinstance(i, Tensor) else frozen(i) for i in arrays)
    return outline if isinstance(index, tuple) else outline[0], found


def put_in(index: Any, arrays: tuple[Array, ...]) -> Any:
    """The index with the arrays in the places of AT."""
    if not isinstance(index, tuple):
        return arrays[0]
    rest = iter(arrays)
    return tuple(next(rest) if isinstance(i, str) else i for i in index)


getitem, put, setitem, concatenate = GetItem(), Put(), SetItem(), Concatenate()
gather, scatter, lookup = Gather(), Scatter(), Lookup()

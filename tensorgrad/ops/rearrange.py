"""Rearranging, joining and splitting arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, overload

import numpy as np

from tensorgrad.core.arguments import axes_in, axis_in, check_memory, integer, integers, is_integer, is_sequence
from tensorgrad.core.backend import Array, Numbers, Xp, namespace, on_gpu_of
from tensorgrad.core.op import Op, Rules, Sample, Tangents, Value
from tensorgrad.core.operand import Operand, T, shape_of
from tensorgrad.core.signature import Axis
from tensorgrad.core.state import describe, named, scoped, suggesting_keywords
from tensorgrad.core.tensor import Tensor, raw
from tensorgrad.errors import DTypeError, ShapeError
from tensorgrad.ops.assign import with_axes, zeros_matching
from tensorgrad.ops.elementwise import where
from tensorgrad.ops.index import as_traced, frozen, getitem, of_lists, put
from tensorgrad.ops.linalg import as_operand
from tensorgrad.ops.shape import broadcast_to, reshape, transpose

__all__ = [
    "column_stack", "concatenate", "diag", "diagonal", "expand_dims", "flatten", "flip", "hstack", "moveaxis", "repeat", "roll",
    "split", "squeeze", "stack", "take", "take_along_axis", "tile", "trace", "tril", "triu", "vstack",
]  # fmt: skip


class Concatenate(Op):
    """Concatenate arrays along an axis.

    forward    y  = x_1, x_2, ... along axis
    backward   gx_i = the part of g at the position of x_i
    tangent    ty = tx_1, tx_2, ... along axis
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
    @suggesting_keywords
    def __call__(self, *xs: Any, axis: int | None = 0) -> Tensor | Array:
        """Pass arrays in a list, with the axis by position or name, or as separate arguments. axis: None to flatten them
        first.
        """
        lists = [isinstance(x, (list, tuple)) for x in xs]
        if lists == [True, False] and not np.ndim(raw(xs[1])):
            parts, axis = xs
            xs = tuple(parts)
        elif lists == [True]:
            xs = tuple(xs[0])
        elif len(xs) == 1 and np.ndim(raw(xs[0])) > 1:  # a single array is split along its first axis, as in NumPy
            xs = tuple(xs[0][i] for i in range(len(xs[0])))
        if not xs:
            raise ShapeError(f"{scoped(self.name)}: expected at least one array")
        if axis is None:
            xs, axis = tuple(flatten(x) for x in xs), 0
        return self.apply(*xs, axis=integer(self.name, "axis", axis))

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

    def jvp(self, y: Value, *xs: Value, axis: int) -> Tangents:
        def ty(*ts: Value) -> Value:
            tangent = next(t for t in ts if t is not None)
            parts = [zeros_matching(tangent, x.shape) if t is None else t for x, t in zip(xs, ts, strict=True)]
            return self.apply(*parts, axis=axis)

        return ty


@overload
def stack(xs: Sequence[Numbers], axis: int = 0) -> Array: ...
@overload
def stack(xs: Sequence[Operand[Tensor]], axis: int = 0) -> Tensor: ...
@named
def stack(xs: Sequence[Operand[Tensor]], axis: int = 0) -> Tensor | Array:
    """Stack arrays of the same shape along a new axis."""
    xs = list(xs)
    shapes = {shape_of(x) for x in xs}
    if len(shapes) != 1:
        raise ShapeError(f"{scoped('stack')}: expected arrays of the same shape, got {[shape_of(x) for x in xs]}")
    axis = axis_in("stack", axis, len(shapes.pop()) + 1)
    return concatenate([expand_dims(x, axis) for x in xs], axis=axis)


@named
def vstack(xs: Sequence[Operand[T]]) -> T | Array:
    """Stack arrays vertically: along the first axis, 1-d arrays as rows."""
    return concatenate([with_axes(as_operand("vstack", x), 2) for x in xs], axis=0)


@named
def hstack(xs: Sequence[Operand[T]]) -> T | Array:
    """Stack arrays horizontally: along the second axis, 1-d arrays along their only one."""
    parts = [with_axes(as_operand("hstack", x), 1) for x in xs]
    return concatenate(parts, axis=0 if parts and parts[0].ndim == 1 else 1)


@named
def column_stack(xs: Sequence[Operand[T]]) -> T | Array:
    """Join matrices side by side, 1-d arrays as columns."""
    parts = [as_operand("column_stack", x) for x in xs]
    return concatenate([x if x.ndim > 1 else reshape(x, (x.size, 1)) for x in parts], axis=1)


@named
def split(x: Operand[T], sections: int | Sequence[int], axis: int = 0) -> tuple[T | Array, ...]:
    """Split x along an axis, into equal parts or before each of the given indices."""
    shape = shape_of(x)
    axis = axis_in("split", axis, len(shape))
    n = shape[axis]
    if is_sequence(sections):
        cuts = list(integers("split", "an index", sections))
    else:
        parts = integer("split", "sections", sections, 1)
        check_memory("split", (parts,), 256)
        if n % parts:
            raise ShapeError(
                f"{scoped('split')}: axis {axis} of {shape} has {n} elements, which cannot be split into {parts} equal parts"
            )
        cuts = [n // parts * i for i in range(1, parts)]
    before = (slice(None),) * axis
    return tuple(getitem(x, (*before, slice(a, b))) for a, b in zip([0, *cuts], [*cuts, n], strict=True))


@named
def flip(x: Operand[T], axis: Axis = None) -> T | Array:
    """Reverse the order of elements along the given axes, by default all."""
    ndim = len(shape_of(x))
    axes = axes_in("flip", axis, ndim)
    return getitem(x, tuple(slice(None, None, -1) if i in axes else slice(None) for i in range(ndim)))


@named
def roll(x: Operand[T], shift: int, axis: int | None = None) -> T | Array:
    """Shift x circularly along an axis; by default the flattened x."""
    shape, shift = shape_of(x), integer("roll", "shift", shift)
    if axis is None:
        return reshape(roll(flatten(x), shift, 0), shape)
    axis = axis_in("roll", axis, len(shape))
    n = max(shape[axis], 1)
    return take(x, (np.arange(shape[axis]) - shift % n) % n, axis)


@named
def repeat(x: Operand[T], repeats: int | Sequence[int], axis: int | None = None) -> T | Array:
    """Repeat each element along an axis; by default of the flattened x.

    repeats   one number for all, or one for each element along the axis
    """
    if axis is None:
        return repeat(flatten(x), repeats, 0)
    shape = shape_of(x)
    axis = axis_in("repeat", axis, len(shape))
    counts = integers("repeat", "repeats", repeats, 0)
    if len(counts) not in (1, shape[axis]):
        raise ShapeError(f"{scoped('repeat')}: {len(counts)} repeats for the {shape[axis]} elements of axis {axis} of {shape}")
    total = sum(counts) if len(counts) > 1 else shape[axis] * sum(counts)
    check_memory("repeat", (*shape[:axis], total, *shape[axis + 1 :]), 8)
    return take(x, np.repeat(np.arange(shape[axis]), counts), axis)


@named
def tile(x: Operand[T], reps: int | Sequence[int]) -> T | Array:
    """Repeat the whole of x along each axis, like NumPy's tile."""
    reps = integers("tile", "reps", reps, 0)
    shape = shape_of(x)
    ndim = max(len(shape), len(reps))
    shape, reps = (1,) * (ndim - len(shape)) + shape, (1,) * (ndim - len(reps)) + reps
    result = tuple(r * n for r, n in zip(reps, shape, strict=True))
    check_memory("tile", result, 8)
    expanded = reshape(x, tuple(n for size in shape for n in (1, size)))
    repeated = broadcast_to(expanded, tuple(n for pair in zip(reps, shape, strict=True) for n in pair))
    return reshape(repeated, result)


@named
def take(x: Operand[T], indices: Operand[Tensor], axis: int | None = None) -> T | Array:
    """The elements at integer indices along an axis; by default of the flattened x."""
    if axis is None:
        return getitem(flatten(x), as_index("take", indices))
    return getitem(x, ((slice(None),) * axis_in("take", axis, len(shape_of(x))) + (as_index("take", indices),)))


@named
def take_along_axis(x: Operand[T], indices: Operand[Tensor], axis: int | None = -1) -> T | Array:
    """Select one element along the axis for each entry of `indices`, like NumPy's."""
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
    grids = [on_gpu_of(grid, [raw(x)]) for grid in np.ogrid[tuple(slice(n) for n in shape)]]
    return getitem(x, tuple(indices if i == axis else grids[i] for i in range(len(shape))))


@named
def diagonal(x: Operand[T], offset: int = 0, axis1: int = 0, axis2: int = 1) -> T | Array:
    """The elements at (i, i + offset) of two axes, along a new last axis."""
    ndim, offset = len(shape_of(x)), integer("diagonal", "offset", offset)
    if ndim < 2:
        raise ShapeError(f"{scoped('diagonal')}: expected at least two axes, got shape {shape_of(x)}")
    axis1, axis2 = axis_in("diagonal", axis1, ndim, "axis1"), axis_in("diagonal", axis2, ndim, "axis2")
    if axis1 == axis2:
        raise ShapeError(f"{scoped('diagonal')}: axis1 and axis2 are both axis {axis1}, of {shape_of(x)}")
    rest = [i for i in range(ndim) if i not in (axis1, axis2)]
    transposed = transpose(x, (*rest, axis1, axis2))
    rows, columns = shape_of(transposed)[-2:]
    i = np.arange(max(-offset, 0), max(min(rows, columns - offset), max(-offset, 0)))
    return getitem(transposed, (..., i, i + offset))


@named
def diag(x: Operand[T], k: int = 0) -> T | Array:
    """For a 1-d array the square matrix with x on its k-th diagonal and zeros elsewhere; for a matrix its k-th diagonal."""
    x, k = as_operand("diag", x), integer("diag", "k", k)
    if x.ndim == 2:
        return diagonal(x, k)
    if x.ndim != 1:
        raise ShapeError(f"{scoped('diag')}: expected one or two axes, got shape {x.shape}")
    side = x.size + abs(k)
    check_memory("diag", (side, side), 8)
    i = np.arange(x.size)
    return put(x, (i + max(-k, 0), i + max(k, 0)), (side, side))


@named
def trace(x: Operand[T], offset: int = 0, axis1: int = 0, axis2: int = 1) -> T | Array:
    """The sum of the diagonal; see `diagonal`."""
    return diagonal(x, offset, axis1, axis2).sum(axis=-1)


@named
def tril(x: Operand[T], k: int = 0) -> T | Array:
    """x with zeros above the k-th diagonal of the last two axes."""
    x = as_operand("tril", x)
    return where(lower_mask("tril", x, k), x, False)  # False is 0 in any dtype


@named
def triu(x: Operand[T], k: int = 0) -> T | Array:
    """x with zeros below the k-th diagonal of the last two axes."""
    x = as_operand("triu", x)
    return where(lower_mask("triu", x, k, 1), False, x)


def lower_mask(op: str, x: Any, k: int, above: int = 0) -> Array:
    """A mask of the elements of matrices like x on or below the k-th diagonal, lowered by `above`."""
    k = integer(op, "k", k)
    if x.ndim < 2:
        raise ShapeError(f"{scoped(op)}: expected at least two axes, got shape {x.shape}")
    n, m = x.shape[-2:]
    return namespace([raw(x)]).tri(n, m, min(max(k - above, -n), m), bool)


@named
def flatten(x: Operand[T], start_axis: int = 0, end_axis: int = -1) -> T | Array:
    """Merge the axes of x from `start_axis` to `end_axis` into one."""
    shape = shape_of(x)
    start = axis_in("flatten", start_axis, max(len(shape), 1), "start_axis")
    end = axis_in("flatten", end_axis, max(len(shape), 1), "end_axis") + 1
    if end <= start:
        raise ShapeError(f"{scoped('flatten')}: end_axis {end_axis} of {shape} comes before start_axis {start_axis}")
    return reshape(x, (*shape[:start], math.prod(shape[start:end]), *shape[end:]))


@named
def squeeze(x: Operand[T], axis: Axis = None) -> T | Array:
    """Remove axes of size 1, all or the given ones."""
    shape = shape_of(x)
    axes = [i for i, n in enumerate(shape) if n == 1] if axis is None else axes_in("squeeze", axis, len(shape))
    if any(shape[i] != 1 for i in axes):
        raise ShapeError(f"{scoped('squeeze')}: axis {describe(axis)} of shape {shape} does not have size 1")
    return reshape(x, tuple(n for i, n in enumerate(shape) if i not in axes))


@named
def expand_dims(x: Operand[T], axis: int | tuple[int, ...]) -> T | Array:
    """Insert axes of size 1, at the given positions in the result."""
    shape = shape_of(x)
    added = integers("expand_dims", "axis", axis)
    axes = axes_in("expand_dims", added, len(shape) + len(added))
    rest = iter(shape)
    return reshape(x, tuple([1 if i in axes else next(rest) for i in range(len(shape) + len(added))]))


@named
def moveaxis(x: Operand[T], source: int | Sequence[int], destination: int | Sequence[int]) -> T | Array:
    """Move some axes to other positions; the others keep their order."""
    ndim = len(shape_of(x))
    sources = integers("moveaxis", "source", source)
    targets = integers("moveaxis", "destination", destination)
    sources = axes_in("moveaxis", sources, ndim, "source")
    targets = axes_in("moveaxis", targets, ndim, "destination")
    if len(sources) != len(targets):
        raise ShapeError(f"{scoped('moveaxis')}: {len(sources)} source axes for {len(targets)} destinations")
    order = [i for i in range(ndim) if i not in sources]
    for target, origin in sorted(zip(targets, sources, strict=True)):
        order.insert(target, origin)
    return transpose(x, tuple(order))


def as_index(op: str, indices: Operand[Tensor]) -> Any:
    """Integers unchanged, lists of them as arrays."""
    index = frozen(op, indices) if isinstance(indices, list) else as_traced(indices)
    if getattr(index, "dtype", np.dtype(bool)).kind not in "iu" and not is_integer(index):
        raise DTypeError(f"{scoped(op)}: indices must be integers, got {describe(indices)}{of_lists(index)}")
    return index


concatenate = Concatenate()

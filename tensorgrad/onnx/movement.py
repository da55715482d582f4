"""ONNX counterparts of ops that only move data: shapes, indices, windows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tensorgrad.core.backend import is_array
from tensorgrad.onnx.elementwise import number, select
from tensorgrad.onnx.recording import Size
from tensorgrad.onnx.table import NoCounterpart, counterpart, unsupported
from tensorgrad.onnx.writer import Use, Value, Writer, wide
from tensorgrad.ops.index import AT

LAST = np.iinfo(np.int64).max  # an end beyond any size


@counterpart("reshape")
def reshape(w: Writer, u: Use) -> Value:
    return w.reshape(u.arguments()[0], u.shape)


@counterpart("transpose")
def transpose(w: Writer, u: Use) -> Value:
    (x,) = u.arguments()
    return w.transpose(x, [int(a) % len(x.shape) for a in u.attrs["axes"]])


@counterpart("broadcast_to")
def broadcast_to(w: Writer, u: Use) -> Value:
    return w.expand(u.arguments()[0], u.shape)


@counterpart("concatenate")
def concatenate(w: Writer, u: Use) -> Value:
    return w("Concat", *[w.as_value(v, u.dtype) for v in u.raw], axis=int(u.attrs["axis"]), shape=u.shape)


# Indices


def parts_of(index: Any, shape: Any) -> list[Any]:
    """An index with one part per axis of x, full slices for axes that it omits; None stays in place."""
    parts = list(index) if isinstance(index, tuple) and not isinstance(index, Size) else [index]
    ndim = len(shape)
    indexed_axes = sum(p.ndim if is_array(p) and p.dtype == bool else 1 for p in parts if p is not None and p is not Ellipsis)
    omitted = [slice(None)] * (ndim - indexed_axes)
    at = next((i for i, part in enumerate(parts) if part is Ellipsis), None)
    parts = [*parts, *omitted] if at is None else [*parts[:at], *omitted, *parts[at + 1 :]]
    axis = 0
    for i, part in enumerate(parts):
        if isinstance(part, slice) and part.start in (None, 0) and part.step in (None, 1) and part.stop == shape[axis]:
            parts[i] = slice(None)
        axis += part.ndim if is_array(part) and part.dtype == bool else part is not None
    return parts


def is_slice(part: Any) -> bool:
    return isinstance(part, slice) and part == slice(None)


def is_number(part: Any) -> bool:
    return isinstance(part, (int, np.integer, Size)) and not isinstance(part, bool)


def is_basic(index: Any) -> bool:
    """Whether an index consists of slices, numbers, None and Ellipsis."""
    parts = index if isinstance(index, tuple) and not isinstance(index, Size) else (index,)
    return all(p is None or p is Ellipsis or isinstance(p, slice) or is_number(p) for p in parts)


def sliced(w: Writer, x: Value, parts: list[Any], shape: Any) -> Value:
    """x indexed by a slice or a number for each axis, and None for new axes."""
    axes, starts, ends, steps, removed, new = [], [], [], [], [], []
    axis = out = 0
    for part in parts:
        if part is None:
            new.append(out)
            out += 1
            continue
        if is_number(part):
            axes.append(axis)
            starts.append(part)
            is_last = not isinstance(part, Size) and part == -1
            ends.append(Size(part.slope, part.offset + 1) if isinstance(part, Size) else LAST if is_last else part + 1)
            steps.append(1)
            removed.append(axis)
        else:
            if not is_slice(part):
                step = 1 if part.step is None else part.step
                axes.append(axis)
                starts.append((0 if step > 0 else LAST) if part.start is None else part.start)
                ends.append((LAST if step > 0 else -LAST) if part.stop is None else part.stop)
                steps.append(step)
            out += 1
        axis += 1
    if axes:
        x = w("Slice", x, w.sizes(starts), w.sizes(ends), w.constant(axes, np.int64), w.constant(steps, np.int64))
    if removed:
        x = w("Squeeze", x, w.constant(removed, np.int64))
    if new:
        x = w("Unsqueeze", x, w.constant(new, np.int64))
    return x._replace(shape=tuple(shape))


def flat_part(index: Any, shape: Any) -> tuple[int, Any, tuple[Any, ...]]:
    """The number of leading axes that an index takes in full; the flat indices, in row-major order, of the elements that it
    takes of the other axes; their sizes."""
    parts = parts_of(index, shape)
    lead = 0
    while lead < len(parts) and is_slice(parts[lead]):
        lead += 1
    rest = shape[lead:]
    if any(isinstance(n, Size) for n in rest):
        raise NoCounterpart("an array index along the axis of samples")
    advanced = [i for i, p in enumerate(parts) if p is not None and not isinstance(p, slice)]
    is_separated = bool(advanced) and advanced[-1] - advanced[0] + 1 != len(advanced)
    if is_separated and lead and any(is_array(parts[i]) for i in advanced):
        if any(isinstance(n, Size) for n in shape):
            raise NoCounterpart("an index by arrays that are not adjacent, next to the axis of samples")
        lead, rest = 0, shape
    numbers = np.arange(math.prod(rest)).reshape(rest)
    return lead, numbers[tuple(parts[lead:])], tuple(rest)


@counterpart("getitem")
def getitem(w: Writer, u: Use) -> Value:
    (x,) = u.arguments()
    index = u.attrs["index"]
    if is_basic(index):
        return sliced(w, x, parts_of(index, x.shape), u.shape)
    parts = parts_of(index, x.shape)
    arrays = [i for i, p in enumerate(parts) if is_array(p)]
    if len(arrays) == 1 and all(is_slice(p) for i, p in enumerate(parts) if i != arrays[0]) and parts[arrays[0]].ndim:
        at = parts[arrays[0]]
        if at.dtype != bool:
            return w("Gather", x, w.constant(at, np.int64), axis=arrays[0], shape=u.shape)
    lead, numbers, rest = flat_part(index, x.shape)
    flat = w.reshape(x, (*x.shape[:lead], math.prod(rest)))
    elements = w("Gather", flat, w.constant(numbers.reshape(-1), np.int64), axis=lead, shape=(*x.shape[:lead], numbers.size))
    return w.reshape(elements, u.shape)


def with_written(w: Writer, x: Value, v: Value, index: Any, shape: Any) -> Value:
    """x, of `shape` or a number, with v written at an index that does not depend on data."""
    lead, numbers, rest = flat_part(index, shape)
    front = tuple(shape[:lead])
    position = np.full(math.prod(rest), -1)
    position[numbers.reshape(-1)] = np.arange(numbers.size)  # the last write to an element wins
    extra_axes = len(v.shape) - lead - numbers.ndim
    v = w.reshape(v, v.shape[extra_axes:]) if extra_axes > 0 else v
    full = w.reshape(w.expand(v, (*front, *numbers.shape)), (*front, numbers.size))
    if not numbers.size:
        return w.expand(x, shape)
    written = w("Gather", full, w.constant(np.maximum(position, 0)), axis=lead, shape=(*front, position.size))
    old = w.reshape(x, (*front, position.size)) if x.shape else x
    y = select(w, w.constant(position >= 0), written, old, shape=(*front, position.size))
    return w.reshape(y, shape)


@counterpart("setitem")
def setitem(w: Writer, u: Use) -> Value:
    x, value = (w.as_value(a, wide(u.dtype)) for a in u.raw)
    return with_written(w, x, value, u.attrs["index"], u.shape)


@counterpart("put")
def put(w: Writer, u: Use) -> Value:
    x = w.cast(u.arguments()[0], wide(u.dtype))
    index = u.attrs["index"]
    zero = number(w, x, 0)
    parts = parts_of(index, u.shape)
    lead, numbers, rest = flat_part(index, u.shape)
    if len(np.unique(numbers)) == numbers.size:
        if all(isinstance(p, slice) and p.step in (None, 1) for p in parts) and x.dtype != bool:
            return padded(w, x, u, parts)
        return with_written(w, zero, x, index, u.shape)
    front = u.shape[:lead]
    updates = w.reshape(x, (*front, numbers.size))
    y = added_at(w, updates, numbers.reshape(-1), front, math.prod(rest))
    return w.reshape(y, u.shape)


def padded(w: Writer, x: Value, u: Use, parts: list[Any]) -> Value:
    """x padded with zeros, for an index of contiguous slices."""
    before, after = [], []
    for part, n in zip(parts, u.shape, strict=True):
        if isinstance(n, Size):
            if not is_slice(part):
                raise NoCounterpart("zeros along the axis of samples")
            start, stop = 0, 0
            n = 0
        else:
            start, stop, _ = part.indices(n)
        before.append(start)
        after.append(n - max(stop, start))
    if not any(before + after):
        return x
    return w("Pad", x, w.constant([*before, *after], np.int64), number(w, x, 0), shape=u.shape)


def added_at(w: Writer, updates: Value, numbers: Any, front: Any, size: int) -> Value:
    """Zeros (*front, size) with updates (*front, k) added at k indices."""
    updates = summable(w, updates)
    zeros = w.expand(number(w, updates, 0), (*front, size))
    at = w.expand(w.constant(numbers, np.int64), (*front, len(numbers)))
    return w("ScatterElements", zeros, at, updates, axis=len(front), reduction="add", shape=(*front, size))


def summable(w: Writer, x: Value) -> Value:
    """x in the dtype in which sums are computed; booleans as 0 and 1."""
    return w.cast(x, np.int32 if x.dtype == bool else wide(x.dtype))


def tensor_positions(index: Any) -> tuple[int, int, bool]:
    """The position of the argument arrays in an index: the first axis, their number, and whether all other parts are full
    slices."""
    parts = list(index) if isinstance(index, tuple) else [index]
    positions = [i for i, p in enumerate(parts) if isinstance(p, str) and p == AT]
    others = [p for i, p in enumerate(parts) if i not in positions and p is not Ellipsis]
    are_adjacent = positions[-1] - positions[0] + 1 == len(positions)
    is_simple = are_adjacent and all(map(is_slice, others)) and not any(p is Ellipsis for p in parts[: positions[0]])
    return positions[0], len(positions), is_simple


def indices(w: Writer, u: Use, values: list[Value]) -> Value:
    """The arrays of an index stacked, (..., count), counted from the start or from the end."""
    if any(v.dtype == bool for v in values):
        raise NoCounterpart("a boolean index, whose values determine a shape")
    values = [w.cast(v, np.int64) for v in values]
    if len(values) > 1:
        ndim = max(len(v.shape) for v in values)
        total: Value | None = None  # the common broadcast shape
        for v in values:
            part = w("Mul", v, w.constant(np.int64(0)))
            total = part if total is None else w("Add", total, part, shape=(None,) * ndim)
        assert total is not None
        values = [w("Add", v, total, shape=(None,) * ndim) for v in values]
    columns = [w("Unsqueeze", v, w.constant([-1], np.int64)) for v in values]
    return columns[0] if len(columns) == 1 else w("Concat", *columns, axis=-1)


@counterpart("gather")
def gather(w: Writer, u: Use) -> Value:
    x, *index_arrays = u.arguments()
    index = u.attrs["index"]
    first, count, is_simple = tensor_positions(index)
    if count == 1 and index_arrays[0].dtype != bool and index_arrays[0].shape:
        parts = parts_of(index, x.shape)
        tensor_axes = [i for i, p in enumerate(parts) if isinstance(p, str)]
        other_parts = [slice(None) if i in tensor_axes else p for i, p in enumerate(parts)]
        basic = all(isinstance(p, slice) for p in other_parts)
        if basic:
            if not all(map(is_slice, other_parts)):
                x = sliced(w, x, other_parts, [n if is_slice(p) else None for n, p in zip(x.shape, other_parts, strict=True)])
            return w("Gather", x, w.cast(index_arrays[0], np.int64), axis=tensor_axes[0], shape=u.shape)
    if not is_simple:
        raise NoCounterpart("an index by Tensors with slices between them")
    at = indices(w, u, index_arrays)
    if first:  # GatherND indexes leading axes: move the axes before the first array behind them
        axes = list(range(len(x.shape)))
        order = [*axes[first : first + count], *axes[:first], *axes[first + count :]]
        y = w("GatherND", w.transpose(x, order), at, shape=())
        rank = len(u.shape) - (len(x.shape) - count)
        back = [*range(rank, rank + first), *range(rank), *range(rank + first, len(u.shape))]
        return w("Transpose", y, perm=back, shape=u.shape)
    return w("GatherND", x, at, shape=u.shape)


@counterpart("scatter")
def scatter(w: Writer, u: Use) -> Value:
    x, *index_arrays = u.arguments()
    x = summable(w, x)
    first, _, is_simple = tensor_positions(u.attrs["index"])
    if not is_simple or first:
        raise NoCounterpart("an index by Tensors after other axes")
    zeros = w.expand(number(w, x, 0), u.shape)
    return w("ScatterND", zeros, indices(w, u, index_arrays), x, reduction="add", shape=u.shape)


@counterpart("lookup")
def lookup(w: Writer, u: Use) -> Value:
    table, t = u.arguments()
    return w("Gather", table, w.cast(t, np.int64), axis=0, shape=u.shape)


@counterpart("sum_named")
def sum_named(w: Writer, u: Use) -> Value:
    """A product with a matrix that marks the rows with the same index."""
    x, t = u.arguments()
    x = summable(w, x)
    t = w("Mod", w.cast(t, np.int64), w.constant(np.int64(u.attrs["rows"])))  # a negative index is counted from the end
    rows, columns = (w("Unsqueeze", t, w.constant([axis], np.int64)) for axis in (0, 1))
    same = w.cast(w("Equal", columns, rows, dtype=bool), x.dtype)
    if len(x.shape) == 2:
        return w("MatMul", same, x, shape=u.shape)
    flat = w("Reshape", x, w.constant([0, -1], np.int64))
    return w.reshape(w("MatMul", same, flat, shape=(None,)), u.shape)


unsupported("ONNX does not define which value is kept if an index names an element twice; use where()", "assign", "last_named")


# Windows


def taken_along(w: Writer, x: Value, axis: int, at: Any) -> Value:
    """The entries of x along an axis at the indices in an array."""
    shape = (*x.shape[:axis], *at.shape, *x.shape[axis + 1 :])
    return w("Gather", x, w.constant(at, np.int64), axis=axis, shape=shape)


@counterpart("extend")
def extend(w: Writer, u: Use) -> Value:
    (x,) = u.arguments()
    for axis, (width, n) in enumerate(zip(u.attrs["width"], x.shape, strict=True)):
        if any(width):
            if isinstance(n, Size):
                raise NoCounterpart("something along the axis of samples")
            x = taken_along(w, x, axis, np.pad(np.arange(n), width, mode=u.attrs["mode"]))
    return x


@counterpart("fold_back")
def fold_back(w: Writer, u: Use) -> Value:
    (x,) = u.arguments()
    lead = 0
    while lead < len(u.shape) and not any(u.attrs["width"][lead]):
        lead += 1
    front, rest = u.shape[:lead], u.shape[lead:]
    if any(isinstance(n, Size) for n in rest):
        raise NoCounterpart("something along the axis of samples")
    numbers = np.arange(math.prod(rest)).reshape(rest)
    if rest:
        numbers = np.pad(numbers, u.attrs["width"][lead:], mode=u.attrs["mode"])
    updates = w.reshape(x, (*front, numbers.size))
    return w.reshape(added_at(w, updates, numbers.reshape(-1), front, math.prod(rest)), u.shape)


def window_positions(size: int, kernel: int, stride: int, padding: int, dilation: int) -> Any:
    """The positions of each window's elements in the padded axis, (kernel, windows)."""
    count = (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    return dilation * np.arange(kernel)[:, None] + stride * np.arange(count)


@counterpart("windows")
def windows(w: Writer, u: Use) -> Value:
    (x,) = u.arguments()
    kernel, stride, padding, dilation = (u.attrs[key] for key in ("kernel", "stride", "padding", "dilation"))
    axes = len(kernel)
    sizes = x.shape[2:]
    if any(padding):
        wide = (*x.shape[:2], *[n + 2 * p for n, p in zip(sizes, padding, strict=True)])
        x = w("Pad", x, w.constant([0, 0, *padding] * 2, np.int64), number(w, x, 0), shape=wide)
    for i, window in enumerate(zip(sizes, kernel, stride, padding, dilation, strict=True)):
        x = taken_along(w, x, 2 + 2 * i, window_positions(*window))
    return w.transpose(x, [1, *range(2, 2 + 2 * axes, 2), 0, *range(3, 3 + 2 * axes, 2)])


@counterpart("fold")
def fold(w: Writer, u: Use) -> Value:
    (x,) = u.arguments()
    size, stride, padding, dilation = (u.attrs[key] for key in ("size", "stride", "padding", "dilation"))
    axes = len(size)
    kernel = x.shape[1 : 1 + axes]
    wide = tuple(n + 2 * p for n, p in zip(size, padding, strict=True))
    numbers = np.arange(math.prod(wide)).reshape(wide)
    for i, window in enumerate(zip(size, kernel, stride, padding, dilation, strict=True)):
        numbers = numbers.take(window_positions(*window), 2 * i)
    numbers = numbers.transpose(*range(0, 2 * axes, 2), *range(1, 2 * axes, 2))
    n = x.shape[1 + axes]
    transposed = w.transpose(x, [1 + axes, 0, *range(1, 1 + axes), *range(2 + axes, 2 + 2 * axes)])
    front = (n, x.shape[0])
    y = added_at(w, w.reshape(transposed, (*front, numbers.size)), numbers.reshape(-1), front, math.prod(wide))
    y = w.reshape(y, (*front, *wide))
    if any(padding):
        y = sliced(w, y, [slice(None)] * 2 + [slice(p, p + s) for p, s in zip(padding, size, strict=True)], u.shape)
    return y

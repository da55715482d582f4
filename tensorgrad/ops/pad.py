"""Padding of arrays, with a number or their own elements."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tensorgrad.core.arguments import check_memory, choice, integers, is_sequence, number
from tensorgrad.core.backend import Array, Xp, namespace
from tensorgrad.core.op import Op, Rules, Sample, Value
from tensorgrad.core.operand import Operand, T, shape_of
from tensorgrad.core.signature import Shape
from tensorgrad.core.state import describe, named, scoped
from tensorgrad.core.tensor import raw
from tensorgrad.errors import ArgumentError, DTypeError, ShapeError
from tensorgrad.ops.assign import setitem
from tensorgrad.ops.index import put
from tensorgrad.ops.linalg import as_operand

__all__ = ["pad"]

MODES = ("edge", "reflect", "symmetric", "wrap")  # NumPy's modes that pad with elements of x
Width = tuple[tuple[int, int], ...]


@named
def pad(
    x: Operand[T], width: int | Sequence[int] | Sequence[Sequence[int]], value: float = 0.0, mode: str = "constant"
) -> T | Array:
    """Pad x; width as in NumPy: n, (before, after), or one such pair for each axis.

    mode   "constant": `value`, in the dtype of x; "edge": the outermost element; "reflect": x mirrored at the outermost
           element; "symmetric": x mirrored beyond it, so that it is repeated; "wrap": x from its other end
    """
    mode = choice("pad", "mode", mode, ("constant", *MODES))
    shape = shape_of(x)
    if isinstance(width, (tuple, list)) and any(map(is_sequence, width)):
        pairs = [integers("pad", "width", w) for w in width]
    else:
        pairs = [integers("pad", "width", width)]
    if any(n < 0 for p in pairs for n in p):
        raise ShapeError(f"{scoped('pad')}: width must not be negative, got {describe(width)}")
    if len(pairs) not in (1, len(shape)) or any(len(p) not in (1, 2) for p in pairs):
        expected = f"n, (before, after), or a pair for each of the {len(shape)} axes of {shape}"
        raise ShapeError(f"{scoped('pad')}: width is {describe(width)}, expected {expected}")
    pairs = [p * 2 if len(p) == 1 else p for p in (pairs * len(shape) if len(pairs) == 1 else pairs)]
    if isinstance(value, str):
        raise DTypeError(f"{scoped('pad')}: value must be a number, got {value!r}; pass a mode by keyword, mode={value!r}")
    if not isinstance(value, (bool, np.bool_)):
        value = number("pad", "value", value)
    padded_shape = tuple(a + n + b for (a, b), n in zip(pairs, shape, strict=True))
    check_memory("pad", padded_shape, 8)
    if mode != "constant":
        if value:
            raise ArgumentError(f"{scoped('pad')}: value needs mode 'constant', got {describe(value)} with {mode!r}")
        if any(not n and any(p) for p, n in zip(pairs, shape, strict=True)):
            raise ShapeError(f"{scoped('pad')}: {shape} has an empty axis, which {mode!r} cannot pad")
        widths = tuple([(before, after) for before, after in pairs])
        return extend(x, widths, mode) if any(map(any, widths)) else as_operand("pad", x)
    position = tuple(slice(a, a + n) for (a, _), n in zip(pairs, shape, strict=True))
    if not value:
        return put(x, position, padded_shape)
    x = as_operand("pad", x)
    return setitem(namespace([raw(x)]).full(padded_shape, value, x.dtype), x, position)


class Extend(Op):
    """x padded with its own elements: `pad` with a mode.

    width   numbers of elements before and after, for each axis

    forward    y_i = x_s(i), i along each axis: s is NumPy's pad of 0, 1, 2, ... with this mode
    backward   gx  = each element of g added to the one that it was copied from
    """

    name, signature, public = "extend", "(*)->(*)", "pad"
    linear = "x"
    moves = True

    def __call__(self, x: Operand[T], width: Width, mode: str) -> T | Array:
        return self.apply(x, width=width, mode=mode)

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        x = self.values(rng, tuple([int(n) for n in rng.choice(sizes, rng.integers(4))]))
        width = tuple([tuple(int(w) for w in rng.integers(0, 3, 2)) if n else (0, 0) for n in x.shape])
        return (x,), {"width": width, "mode": MODES[rng.integers(len(MODES))]}

    def forward(self, xp: Xp, x: Array, *, width: Width, mode: str) -> Array:
        return xp.pad(x, width, mode=mode) if width else xp.asarray(x)

    def backward(self, g: Value, y: Value, x: Value, *, width: Width, mode: str) -> Rules:
        return (lambda: fold_back(g, x.shape, width, mode),)


class FoldBack(Op):
    """The transpose of `extend`: adds the padding of an array to the elements it was copied from.

    forward    y_j = sum of x_i with s(i) = j, i and j along each axis
    backward   gx  = g padded with its own elements
    """

    name, signature, public = "fold_back", "(*)->(*)", "pad"
    linear = "x"

    def __call__(self, x: Operand[T], shape: Shape, width: Width, mode: str) -> T | Array:
        return self.apply(x, shape=shape, width=width, mode=mode)

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        (x,), attrs = extend.sample(rng, sizes)
        return (self.values(rng, extend(x, **attrs).shape),), {"shape": x.shape, **attrs}

    def forward(self, xp: Xp, x: Array, *, shape: Shape, width: Width, mode: str) -> Array:
        y = xp.asarray(x)
        for axis, (n, (before, after)) in enumerate(zip(shape, width, strict=True)):
            if not before and not after:
                continue
            lead = (slice(None),) * axis
            x, y = y, y[*lead, slice(before, before + n)].copy()
            source: list[int] = np.pad(np.arange(n), (before, after), mode).tolist()  # type: ignore[call-overload]
            for i in (*range(before), *range(before + n, len(source))):
                y[*lead, source[i]] += x[*lead, i]
        return y

    def backward(self, g: Value, y: Value, x: Value, *, shape: Shape, width: Width, mode: str) -> Rules:
        return (lambda: extend(g, width, mode),)


extend, fold_back = Extend(), FoldBack()

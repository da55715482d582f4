"""Reshaping, transposing and broadcasting."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tensorgrad.core.arguments import axes_in, integer, sizes
from tensorgrad.core.backend import Array, Xp, asarray, is_array
from tensorgrad.core.op import Op, Rules, Sample, Value
from tensorgrad.core.operand import Operand, T, shape_of
from tensorgrad.core.signature import Shape
from tensorgrad.core.state import named, scoped
from tensorgrad.core.tensor import Tensor
from tensorgrad.errors import ShapeError

__all__ = ["broadcast_to", "reshape", "swapaxes", "transpose"]


class Reshape(Op):
    """Reshape, in row-major order; one size may be -1.

    forward    y  = x in the requested shape
    backward   gx = g in the shape of x
    """

    name, signature = "reshape", "()->()"
    linear = "x"
    moves = True

    def __call__(self, x: Operand[T], shape: int | Sequence[int]) -> T | Array:
        return self.apply(x, shape=sizes(self.name, shape, -1))

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        (x,), _ = super().sample(rng, sizes)
        return (x,), {"shape": (*x.shape[::-1], 1)}

    def forward(self, xp: Xp, x: Array, *, shape: Shape) -> Array:
        return xp.reshape(x, shape)

    def backward(self, g: Value, y: Value, x: Value, *, shape: Shape) -> Rules:
        return (lambda: g.reshape(x.shape),)


class Transpose(Op):
    """Permute the axes; reversed by default.

    forward    y  = x, axis i of y being axis axes[i] of x
    backward   gx = g with the inverse permutation of its axes
    """

    name, signature, symbol = "transpose", "()->()", "ᵀ"
    linear = "x"
    moves = True

    def __call__(self, x: Operand[T], axes: Sequence[int] | None = None) -> T | Array:
        x = x if isinstance(x, Tensor) or is_array(x) else asarray(x, where=scoped(self.name))
        ndim = len(shape_of(x))
        if axes is None:
            return self.apply(x, axes=tuple(range(ndim))[::-1])
        axes = axes_in(self.name, axes, ndim)
        if len(axes) != ndim:
            raise ShapeError(f"{scoped(self.name)}: {len(axes)} axes for the {ndim} of shape {shape_of(x)}; expected each once")
        return self.apply(x, axes=axes)

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        (x,), _ = super().sample(rng, sizes)
        return (x,), {"axes": tuple(int(i) for i in rng.permutation(x.ndim))}

    def forward(self, xp: Xp, x: Array, *, axes: tuple[int, ...]) -> Array:
        return xp.transpose(x, axes)

    def backward(self, g: Value, y: Value, x: Value, *, axes: tuple[int, ...]) -> Rules:
        back = [0] * len(axes)
        for i, axis in enumerate(axes):
            back[axis] = i
        return (lambda: g.transpose(back),)


class BroadcastTo(Op):
    """Broadcast x to `shape`, by NumPy's rules.

    forward    y  = x repeated to `shape`
    backward   gx = g summed over the repeated axes
    """

    name, signature = "broadcast_to", "()->()"
    linear = "x"
    moves = True

    def __call__(self, x: Operand[T], shape: int | Sequence[int]) -> T | Array:
        return self.apply(x, shape=sizes(self.name, shape))

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        (x,), _ = super().sample(rng, sizes)
        return (x,), {"shape": (2, *(3 if n == 1 else n for n in x.shape))}

    def forward(self, xp: Xp, x: Array, *, shape: Shape) -> Array:
        return xp.broadcast_to(x, shape)

    def backward(self, g: Value, y: Value, x: Value, *, shape: Shape) -> Rules:
        return (lambda: g,)  # the engine undoes broadcasting


@named
def swapaxes(x: Operand[T], axis1: int, axis2: int) -> T | Array:
    """Swap two axes, by `transpose`."""
    ndim = len(shape_of(x))
    axes = list(range(ndim))
    i, j = integer("swapaxes", "axis1", axis1), integer("swapaxes", "axis2", axis2)
    if not (-ndim <= i < ndim and -ndim <= j < ndim):
        raise ShapeError(f"{scoped('swapaxes')}: axes {i} and {j} are out of bounds for shape {shape_of(x)}")
    axes[i], axes[j] = j, i
    return transpose(x, tuple(axes))


def rows(x: Value) -> Value:
    """Merge the leading axes of x into rows of the last axis."""
    return x if x.ndim == 2 else x.reshape((math.prod(x.shape[:-1]), x.shape[-1]))


reshape, transpose, broadcast_to = Reshape(), Transpose(), BroadcastTo()

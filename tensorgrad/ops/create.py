"""Creation of Tensors: constants, ranges, grids, random numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tensorgrad.core import backend
from tensorgrad.core.arguments import check_memory, choice, dtype_of, integer, number, sizes, truth
from tensorgrad.core.backend import Array
from tensorgrad.core.operand import Operand, T, shape_of
from tensorgrad.core.state import describe, named, scoped
from tensorgrad.core.tensor import Tensor, raw
from tensorgrad.errors import ArgumentError, ShapeError
from tensorgrad.ops.elementwise import astype
from tensorgrad.ops.exponential import log
from tensorgrad.ops.functions import sqrt
from tensorgrad.ops.linalg import as_operand
from tensorgrad.ops.random import uniform
from tensorgrad.ops.shape import broadcast_to, reshape
from tensorgrad.ops.trigonometry import cos

__all__ = [
    "arange", "eye", "full", "full_like", "linspace", "meshgrid", "ones", "ones_like", "rand", "randn", "zeros", "zeros_like",
]  # fmt: skip


@named
def zeros(
    shape: int | Sequence[int],
    dtype: np.typing.DTypeLike = np.float32,
    *,
    requires_grad: bool = False,
    device: str | None = None,
) -> Tensor:
    """A Tensor of zeros; the shape is one tuple, or one size."""
    return filled("zeros", shape, 0, dtype, requires_grad, device)


@named
def ones(
    shape: int | Sequence[int],
    dtype: np.typing.DTypeLike = np.float32,
    *,
    requires_grad: bool = False,
    device: str | None = None,
) -> Tensor:
    """A Tensor of ones; the shape is one tuple, or one size."""
    return filled("ones", shape, 1, dtype, requires_grad, device)


@named
def full(
    shape: int | Sequence[int],
    value: float,
    dtype: np.typing.DTypeLike = np.float32,
    *,
    requires_grad: bool = False,
    device: str | None = None,
) -> Tensor:
    """A Tensor filled with one number; the shape is one tuple, or one size. The default dtype is float32, also for integers."""
    return filled("full", shape, value, dtype, requires_grad, device)


@named
def zeros_like(x: Operand[T], dtype: np.typing.DTypeLike | None = None, *, requires_grad: bool = False) -> Tensor:
    """Zeros with the shape, dtype and device of x. They do not depend on x, and have no history."""
    return filled_like("zeros_like", x, 0, dtype, requires_grad)


@named
def ones_like(x: Operand[T], dtype: np.typing.DTypeLike | None = None, *, requires_grad: bool = False) -> Tensor:
    """Ones with the shape, dtype and device of x. They do not depend on x, and have no history."""
    return filled_like("ones_like", x, 1, dtype, requires_grad)


@named
def full_like(x: Operand[T], value: float, dtype: np.typing.DTypeLike | None = None, *, requires_grad: bool = False) -> Tensor:
    """A Tensor filled with one number, with the shape, dtype and device of x. It does not depend on x, and has no history."""
    return filled_like("full_like", x, value, dtype, requires_grad)


@named
def eye(
    n: int,
    m: int | None = None,
    k: int = 0,
    dtype: np.typing.DTypeLike = np.float32,
    *,
    requires_grad: bool = False,
    device: str | None = None,
) -> Tensor:
    """A matrix (n, m) with ones on the k-th diagonal and zeros elsewhere; m is n by default, which for k = 0 gives the
    identity.
    """
    rows, columns = integer("eye", "n", n, 0), integer("eye", "m", n if m is None else m, 0)
    k, np_dtype = min(max(integer("eye", "k", k), -rows), columns), dtype_of("eye", dtype)
    check_memory("eye", (rows, columns), np_dtype.itemsize)
    return as_tensor("eye", np.eye(rows, columns, k, np_dtype), requires_grad, device)


@named
def arange(
    start: float,
    stop: float | None = None,
    step: float = 1,
    dtype: np.typing.DTypeLike | None = None,
    *,
    requires_grad: bool = False,
    device: str | None = None,
) -> Tensor:
    """start, start + step, ... below stop; arange(n) is 0, 1, ... n - 1. int64 if all arguments are integers, else float32."""
    limits = (0, start, step) if stop is None else (start, stop, step)
    first, end, increment = (number("arange", what, x) for what, x in zip(("start", "stop", "step"), limits, strict=True))
    if not increment:
        raise ArgumentError(f"{scoped('arange')}: step must not be 0")
    if not all(map(math.isfinite, (first, end, increment))):
        raise ArgumentError(f"{scoped('arange')}: expected finite numbers, got {first}, {end}, {increment}")
    all_integers = all(isinstance(n, int) for n in (first, end, increment))
    np_dtype = dtype_of("arange", dtype or (np.int64 if all_integers else np.float32))
    count = max(-((first - end) // increment) if all_integers else math.ceil((end - first) / increment), 0)
    check_memory("arange", (count,), 8)
    values = (
        np.arange(first, end, increment) if all_integers else first + increment * np.arange(count)
    )  # in float64, rounded once
    return as_tensor("arange", values.astype(np_dtype), requires_grad, device)


@named
def linspace(
    start: float,
    stop: float,
    num: int = 50,
    dtype: np.typing.DTypeLike = np.float32,
    *,
    requires_grad: bool = False,
    device: str | None = None,
) -> Tensor:
    """`num` equally spaced numbers from start to stop, both included."""
    num, np_dtype = integer("linspace", "num", num, 0), dtype_of("linspace", dtype)
    check_memory("linspace", (num,), 16)
    values = np.linspace(number("linspace", "start", start), number("linspace", "stop", stop), num)
    return as_tensor("linspace", values.astype(np_dtype), requires_grad, device)


@named
def meshgrid(*xs: Operand[T], indexing: str = "xy") -> tuple[T | Array, ...]:
    """Coordinate grids from 1-d arrays: each result varies only along its own axis.

    indexing   "ij": result i varies along axis i; "xy": the first two axes are swapped, as for plots
    """
    arrays = [as_operand("meshgrid", x) for x in xs]
    first_two = (1, 0) if choice("meshgrid", "indexing", indexing, ("xy", "ij")) == "xy" and len(arrays) > 1 else (0, 1)
    axes = (*first_two, *range(2, len(arrays)))
    lines = []
    for x, axis in zip(arrays, axes, strict=False):
        if x.ndim > 1:
            raise ShapeError(f"{scoped('meshgrid')}: expected 1-d arrays, got shape {x.shape}")
        lines.append(reshape(x, tuple(-1 if i == axis else 1 for i in range(len(arrays)))))
    shape = np.broadcast_shapes(*[shape_of(x) for x in lines])
    check_memory("meshgrid", shape, 8)
    return tuple(broadcast_to(x, shape) for x in lines)


@named
def rand(
    shape: int | Sequence[int] = (),
    dtype: np.typing.DTypeLike = np.float32,
    *,
    rng: np.random.Generator | None = None,
    requires_grad: bool = False,
    device: str | None = None,
) -> Tensor:
    """Uniform random numbers in 0 .. 1; a compiled step draws new ones in each call. The shape is one tuple.

    1 is excluded, except in half precision, to which float32 is rounded.

    rng   NumPy generator; by default the one that `manual_seed` and `nn.functional.seed` seed
    """
    return random_tensor("rand", shape, dtype, rng, requires_grad, device, uniform)


@named
def randn(
    shape: int | Sequence[int] = (),
    dtype: np.typing.DTypeLike = np.float32,
    *,
    rng: np.random.Generator | None = None,
    requires_grad: bool = False,
    device: str | None = None,
) -> Tensor:
    """Normal random numbers with mean 0 and variance 1; a compiled step draws new ones in each call. The shape is one tuple.

    rng   NumPy generator; by default the one that `manual_seed` and `nn.functional.seed` seed

    By G. E. P. Box and M. E. Muller, A note on the generation of random normal deviates, Annals of Mathematical Statistics 29
    (1958) 610-611: √(-2 ln u) cos 2πv is normal for uniform u and v.
    """
    return random_tensor("randn", shape, dtype, rng, requires_grad, device, normal)


def normal(like: Tensor, rng: np.random.Generator | None) -> Any:
    length = sqrt(log(1 - uniform(like, rng=rng)) * -2)  # 1 - u is never 0
    return length * cos(uniform(like, rng=rng) * (2 * math.pi))


def random_tensor(op: str, shape: Any, dtype: Any, rng: Any, requires_grad: bool, device: str | None, draw: Any) -> Tensor:
    """Random numbers, recorded as a draw in a traced step."""
    if rng is not None and not isinstance(rng, np.random.Generator):
        raise ArgumentError(f"{scoped(op)}: rng must be a generator, np.random.default_rng(seed), or None, got {describe(rng)}")
    np_dtype = kind_of(op, dtype, "f")
    draw_dtype = np_dtype if np_dtype.char in "fd" else np.dtype(np.float32)
    y: Tensor = draw(filled(op, shape, 0, draw_dtype, False, device), rng=rng)
    y = y if np_dtype == draw_dtype else astype(y, np_dtype)
    return y.requires_grad_(truth(op, "requires_grad", requires_grad)) if requires_grad is not False else y


def filled(op: str, shape: Any, value: Any, dtype: Any, requires_grad: bool, device: str | None) -> Tensor:
    """A Tensor of this shape filled with one number."""
    np_dtype, size = kind_of(op, dtype), sizes(op, shape)
    check_memory(op, size, np_dtype.itemsize)
    if not isinstance(value, (bool, np.bool_)):
        value = number(op, "value", value)
    return as_tensor(op, np.full(size, value).astype(np_dtype), requires_grad, device)


def kind_of(op: str, dtype: Any, kinds: str = "fiub") -> np.dtype[Any]:
    """The dtype argument; a number in its place is a second size, which is an error."""
    if isinstance(dtype, (int, np.integer)):
        raise ArgumentError(f"{scoped(op)}: dtype is {dtype}; pass several sizes as a tuple, {op}((2, {dtype}))")
    return dtype_of(op, dtype, kinds)


def filled_like(op: str, x: Any, value: Any, dtype: Any, requires_grad: bool) -> Tensor:
    x = as_operand(op, x)
    return filled(op, x.shape, value, x.dtype if dtype is None else dtype, requires_grad, backend.device_of(raw(x)))


def as_tensor(op: str, values: Array, requires_grad: bool, device: str | None) -> Tensor:
    """A Tensor that owns its array."""
    y = Tensor(values, device=device)
    return y if requires_grad is False else y.requires_grad_(truth(op, "requires_grad", requires_grad))

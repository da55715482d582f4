"""Linear systems of the matrices in the last two axes: inverse, solution, determinant, Cholesky factor."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from tensorgrad.core.backend import Array, Xp, namespace, on_gpu
from tensorgrad.core.op import Op, Rules, Sample, Tangents, Value
from tensorgrad.core.operand import Operand, T, Unary
from tensorgrad.core.signature import Shape
from tensorgrad.core.state import named
from tensorgrad.errors import ShapeError, TensorgradError
from tensorgrad.ops.linalg import as_operand, identity, scoped

__all__ = ["LinAlgError", "cholesky", "det", "inv", "logabsdet", "slogdet", "solve"]


class LinAlgError(TensorgradError, np.linalg.LinAlgError, RuntimeError):
    """A singular matrix, or one that is not positive definite, where it must be (NumPy and PyTorch have an error of this
    name).
    """


def checking_on_gpu(x: Array) -> AbstractContextManager[Any]:
    """Make CuPy check decompositions and raise NumPy's error; this waits for the GPU."""
    return importlib.import_module("cupyx").errstate(linalg="raise") if on_gpu(x) else nullcontext()


@contextmanager
def naming_op(op: str, what: str, x: Array) -> Iterator[None]:
    """Add the op's name to NumPy's LinAlgError about values of `x`; the engine explains those about shapes."""
    try:
        with checking_on_gpu(x):
            yield
    except np.linalg.LinAlgError as error:
        if x.ndim < 2 or x.shape[-1] != x.shape[-2]:
            raise
        where = "one of the matrices" if x.ndim > 2 else "the matrix"
        raise LinAlgError(f"{op}: {where} is {what}; got shape {x.shape}") from error


class Inv(Unary):
    """y = x⁻¹, the inverse. Raises LinAlgError if x is singular.

    forward    y  = x⁻¹                                           x (...,n,n)
    backward   gx = -yᵀ g yᵀ
    tangent    ty = -y tx y
    """

    name, signature, reads = "inv", "(n,n)->(n,n)", "y"

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        (x,), _ = super().sample(rng, sizes)
        return (well_posed(x),), {}

    def forward(self, xp: Xp, x: Array) -> Array:
        with naming_op(self.name, "singular", x):
            return xp.linalg.inv(x)

    def backward(self, g: Value, y: Value, x: Value) -> Rules:
        yt = y.swapaxes(-1, -2)
        return (lambda: -(yt @ g @ yt),)

    def jvp(self, y: Value, x: Value) -> Tangents:
        return (lambda t: -(y @ t @ y),)


class Solve(Op):
    """The solution y of a y = b. A vector b (only one axis) gives a vector; otherwise b has columns, and leading axes
    broadcast, as in NumPy 2. Raises LinAlgError if a is singular.

    forward    y  = a⁻¹ b                                         a (...,n,n), b (...,n,k) or (n)
    backward   gb = a⁻ᵀ g,   ga = -gb yᵀ
    tangent    ty = a⁻¹ (tb - ta y)
    """

    name, signature, reads = "solve", "(n,n),(n,k)->(n,k)", "y a"

    def __call__(self, a: Operand[T], b: Operand[T]) -> T | Array:
        b = as_operand(self.name, b)
        if b.ndim != 1:
            return self.apply(a, b)
        a = as_operand(self.name, a)
        if a.ndim < 2 or a.shape[-1] != b.shape[0]:
            raise ShapeError(f"{scoped('solve')}: shapes {a.shape} and {b.shape} are incompatible; expected (n,n),(n)->(n)")
        y = self.apply(a, b.reshape((b.shape[0], 1)))
        return y.reshape(y.shape[:-1])

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        (a, b), _ = super().sample(rng, sizes)
        return (well_posed(a), b), {}

    def forward(self, xp: Xp, a: Array, b: Array) -> Array:
        if xp is not np:  # CuPy's does not broadcast
            outer = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
            a, b = (xp.broadcast_to(x, (*outer, *x.shape[-2:])) for x in (a, b))
        with naming_op(self.name, "singular", a):
            return xp.linalg.solve(a, b)

    def backward(self, g: Value, y: Value, a: Value, b: Value) -> Rules:
        @cache
        def gb() -> Value:
            return solve(a.swapaxes(-1, -2), g)

        return lambda: -(gb() @ y.swapaxes(-1, -2)), gb

    def jvp(self, y: Value, a: Value, b: Value) -> Tangents:
        return lambda t: -solve(a, t @ y), lambda t: solve(a, t)


class Det(Unary):
    """y = det x. The gradient of a singular matrix raises LinAlgError, because the formula uses the inverse.

    forward    y  = det x                                         x (...,n,n)
    backward   gx = g y x⁻ᵀ
    tangent    ty = y trace(x⁻¹ tx)
    """

    name, signature, reads = "det", "(n,n)->()", "y x"

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        return inv.sample(rng, sizes)

    def forward(self, xp: Xp, x: Array) -> Array:
        return xp.linalg.det(x)

    def backward(self, g: Value, y: Value, x: Value) -> Rules:
        return (lambda: (g * y).reshape((*y.shape, 1, 1)) * inv(x).swapaxes(-1, -2),)

    def jvp(self, y: Value, x: Value) -> Tangents:
        return (lambda t: y * trace_of_product(inv(x), t),)


class LogAbsDet(Unary):
    """y = ln |det x|, -inf for a singular matrix, whose gradient raises LinAlgError.

    forward    y  = ln |det x|                                    x (...,n,n)
    backward   gx = g x⁻ᵀ
    tangent    ty = trace(x⁻¹ tx)
    """

    name, signature, reads = "logabsdet", "(n,n)->()", "x"

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        return inv.sample(rng, sizes)

    def forward(self, xp: Xp, x: Array) -> Array:
        return xp.linalg.slogdet(x)[1]

    def backward(self, g: Value, y: Value, x: Value) -> Rules:
        return (lambda: g.reshape((*y.shape, 1, 1)) * inv(x).swapaxes(-1, -2),)

    def jvp(self, y: Value, x: Value) -> Tangents:
        return (lambda t: trace_of_product(inv(x), t),)


class DetSign(Unary):
    """The sign of det x, -1, 0 or 1. It is piecewise constant and has no gradient.

    forward    y  = sign det x                                    x (...,n,n)
    """

    name, signature = "det_sign", "(n,n)->()"

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        return inv.sample(rng, sizes)

    def forward(self, xp: Xp, x: Array) -> Array:
        return xp.linalg.slogdet(x)[0]


class Cholesky(Unary):
    """The lower triangular L with L Lᵀ = (x + xᵀ)/2, which is x if x is symmetric. The gradient is symmetric.

    Raises LinAlgError if x is not positive definite.

    forward    L  = Cholesky factor of (x + xᵀ)/2                 x (...,n,n)
    backward   gx = (s + sᵀ)/2,   s = L⁻ᵀ Φ(Lᵀ g) L⁻¹             (Φ: the lower triangle, its diagonal halved)
    tangent    tL = L Φ(L⁻¹ (tx + txᵀ)/2 L⁻ᵀ)
    """

    name, signature, reads = "cholesky", "(n,n)->(n,n)", "y"
    real = True

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        return inv.sample(rng, sizes)

    def forward(self, xp: Xp, x: Array) -> Array:
        if x.shape[-1:] != x.shape[-2:-1]:
            raise ValueError("not square")  # the sum might broadcast; the signature has a better message
        with naming_op(self.name, "not positive definite", x):
            return xp.linalg.cholesky(x / 2 + x.swapaxes(-1, -2) / 2)  # a sum might overflow

    def backward(self, g: Value, y: Value, x: Value) -> Rules:
        def gx() -> Value:
            yt = y.swapaxes(-1, -2)
            inner = solve(yt, (yt @ g) * lower_half(g))  # L⁻ᵀ Φ(Lᵀ g)
            s = solve(yt, inner.swapaxes(-1, -2))  # sᵀ = L⁻ᵀ (...)ᵀ; gx is symmetric in s
            return (s + s.swapaxes(-1, -2)) / 2

        return (gx,)

    def jvp(self, y: Value, x: Value) -> Tangents:
        def tangent(t: Value) -> Value:
            half = solve(y, (t + t.swapaxes(-1, -2)) / 2)  # L⁻¹ s, and of its transpose L⁻¹ s L⁻ᵀ, as symmetric as s
            inner = solve(y, half.swapaxes(-1, -2))
            return y @ (inner * lower_half(t))

        return (tangent,)


def lower_half(like: Value) -> Array:
    """The factors of Φ for matrices like this one: 1 below the diagonal, 1/2 on it, 0 above."""
    ones = identity(like, like.shape[-1])
    return namespace([ones]).tri(like.shape[-1], dtype=like.dtype) - ones / 2


def trace_of_product(a: Value, b: Value) -> Value:
    """trace(a b) of the matrices in the last two axes."""
    return (a.swapaxes(-1, -2) * b).sum((-2, -1))


class SlogDet(NamedTuple):
    """The result of `slogdet`: det x = sign e^logabsdet."""

    sign: Any
    logabsdet: Any


@named
def slogdet(x: Operand[T]) -> SlogDet:
    """(sign, logabsdet) of det x, like np.linalg.slogdet: finite even if the determinant overflows.

    sign        -1, 0 or 1; piecewise constant, without a gradient
    logabsdet   ln |det x|; its gradient is x⁻ᵀ
    """
    return SlogDet(det_sign(x), logabsdet(x))


def well_posed(x: Array) -> Array:
    """x with a larger diagonal, so that it is well conditioned, and positive definite when symmetrised."""
    shape: Shape = x.shape
    return x / max(shape[-1], 1) + 3 * np.eye(shape[-1])


inv, solve, det, logabsdet, cholesky = Inv(), Solve(), Det(), LogAbsDet(), Cholesky()
det_sign = DetSign()

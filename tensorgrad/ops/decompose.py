"""Decompositions of the matrices in the last two axes: QR, symmetric eigenvalues, singular values; the pseudo-inverse.

Each is one op that returns its factors stacked, so that LAPACK is called once and one rule has all gradients; the functions
split them. Derivatives after M. Giles, An extended collection of matrix derivative results for forward and reverse mode
algorithmic differentiation (Oxford, 2008), and J. Townsend, Differentiating the singular value decomposition (2016); of QR
after S. Walter and L. Lehmann, Algorithmic differentiation of linear algebra functions (2010).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from tensorgrad.core.arguments import choice, truth
from tensorgrad.core.backend import Array, Xp, finfo, on_gpu
from tensorgrad.core.op import Op, Rules, Sample, Tangents, Value
from tensorgrad.core.operand import Operand, T, Unary
from tensorgrad.core.signature import Shape
from tensorgrad.core.state import named, scoped, state
from tensorgrad.core.tensor import raw
from tensorgrad.errors import ArgumentError, ShapeError
from tensorgrad.ops.elementwise import div_grad
from tensorgrad.ops.index import getitem
from tensorgrad.ops.linalg import as_operand, identity
from tensorgrad.ops.rearrange import concatenate
from tensorgrad.ops.solve import LinAlgError, lower_half, solve

__all__ = ["eigh", "pinv", "qr", "svd"]


class Decomposition(Op):
    """Decomposes a matrix into factors, stacked along rows."""

    signature, reads = "(*)->(*)", "y"
    real = True


class QRFactors(Decomposition):
    """Q stacked on R, x = Q R, for at least as many rows as columns: Qᵀ Q = I, R upper triangular.

    forward    y  = [Q; R]                                        x (...,m,n), m >= n, Q (...,m,n), R (...,n,n)
    backward   gx = (gQ + Q (S + Sᵀ)) R⁻ᵀ,   S = Φ(R gRᵀ - gQᵀ Q)      (Φ: the lower triangle, its diagonal halved)
    tangent    tQ = tx R⁻¹ - Q (C - O),   tR = (C - O) R,   C = Qᵀ tx R⁻¹,   O = L - Lᵀ,   L = C below its diagonal
    """

    name, public = "qr_factors", "qr"

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        n, more, *batch = (int(k) for k in rng.choice(sizes, rng.integers(2, 4)))
        return (tall(rng, (*batch, n + more, n)),), {}

    def forward(self, xp: Xp, x: Array) -> Array:
        q, r = xp.linalg.qr(x)
        return xp.concatenate([q, r], axis=-2)

    def backward(self, g: Value, y: Value, x: Value) -> Rules:
        def gx() -> Value:
            (q, r), (gq, gr) = (split_rows(a, a.shape[-2] - a.shape[-1]) for a in (y, g))
            check_full_rank(r)
            s = (r @ gr.swapaxes(-1, -2) - gq.swapaxes(-1, -2) @ q) * lower_half(r)
            right = gq + q @ (s + s.swapaxes(-1, -2))
            return solve(r, right.swapaxes(-1, -2)).swapaxes(-1, -2)

        return (gx,)

    def jvp(self, y: Value, x: Value) -> Tangents:
        def tangent(t: Value) -> Value:
            q, r = split_rows(y, y.shape[-2] - y.shape[-1])
            check_full_rank(r)
            scaled = solve(r.swapaxes(-1, -2), t.swapaxes(-1, -2)).swapaxes(-1, -2)  # tx R⁻¹
            c = q.swapaxes(-1, -2) @ scaled
            lower = c * (lower_half(r) - identity(r, r.shape[-1]) / 2)
            upper = c - lower + lower.swapaxes(-1, -2)
            return concatenate([scaled - q @ upper, upper @ r], axis=-2)

        return (tangent,)


class EighFactors(Decomposition):
    """The eigenvalues w of (x + xᵀ)/2 in ascending order, stacked on its eigenvectors V, as columns.

    forward    y  = [wᵀ; V]                                       x (...,n,n), w (...,n), V (...,n,n)
    backward   gx = V (diag(gw) + F * (Vᵀ gV - gVᵀ V)/2) Vᵀ,   F_ij = 1/(w_j - w_i), 0 on the diagonal
    tangent    tw = diag(P),   tV = V (F * P),   P = Vᵀ sym(tx) V              (sym(a) = (a + aᵀ)/2)
    """

    name, public = "eigh_factors", "eigh"

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        n, *batch = (int(k) for k in rng.choice(sizes, rng.integers(1, 3)))
        return (separated_eigenvalues(rng, (*batch, n, n)),), {}

    def forward(self, xp: Xp, x: Array) -> Array:
        with with_op_name(self.public, x):
            w, v = xp.linalg.eigh(symmetric(x))
        return xp.concatenate([w[..., None, :], v], axis=-2)

    def backward(self, g: Value, y: Value, x: Value) -> Rules:
        def gx() -> Value:
            (w, v), (gw, gv) = (split_rows(a, 1) for a in (y, g))
            vt, n = v.swapaxes(-1, -2), y.shape[-1]
            inner = divided_by_gaps(self.public, "eigenvalues", skew(vt @ gv) / 2, w)
            return v @ (identity(w, n) * gw + inner) @ vt

        return (gx,)

    def jvp(self, y: Value, x: Value) -> Tangents:
        def tangent(t: Value) -> Value:
            w, v = split_rows(y, 1)
            p = v.swapaxes(-1, -2) @ symmetric(t) @ v
            return concatenate([diagonal_of(p), v @ divided_by_gaps(self.public, "eigenvalues", p, w)], axis=-2)

        return (tangent,)


class SVDFactors(Decomposition):
    """U stacked on the singular values s, descending, and V, x = U diag(s) Vᵀ: Uᵀ U = Vᵀ V = I, k = min(m, n) columns each.

    forward    y  = [U; sᵀ; V]                                    x (...,m,n), U (...,m,k), s (...,k), V (...,n,k)
    backward   gx = U (diag(gs) + A S + S B) Vᵀ + (I - UUᵀ) gU S⁻¹ Vᵀ + U S⁻¹ gVᵀ (I - VVᵀ),
               A = F * (Uᵀ gU - gUᵀ U),   B = F * (Vᵀ gV - gVᵀ V),   F_ij = 1/(s_j² - s_i²), 0 on the diagonal
    tangent    ts = diag(P),   P = Uᵀ tx V,   tU = U (F * (P S + S Pᵀ)) + (I - UUᵀ) tx V S⁻¹,
               tV = V (F * (S P + Pᵀ S)) + (I - VVᵀ) txᵀ U S⁻¹
    """

    name, public = "svd_factors", "svd"

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        m, n, *batch = (int(k) for k in rng.choice(sizes, rng.integers(2, 4)))
        return (separated_singular_values(rng, (*batch, m, n)),), {}

    def forward(self, xp: Xp, x: Array) -> Array:
        with with_op_name(self.public, x):
            u, s, vt = xp.linalg.svd(x, full_matrices=False)
        return xp.concatenate([u, s[..., None, :], vt.swapaxes(-1, -2)], axis=-2)

    def backward(self, g: Value, y: Value, x: Value) -> Rules:
        def gx() -> Value:
            (m, n), k = x.shape[-2:], min(x.shape[-2:])
            (u, s, v), (gu, gs, gv) = (split_rows(a, m, 1) for a in (y, g))
            ut, vt = u.swapaxes(-1, -2), v.swapaxes(-1, -2)
            a, b = (divided_by_gaps(self.public, "singular values", skew(p), s * s) for p in (ut @ gu, vt @ gv))
            x_gradient = u @ (identity(s, s.shape[-1]) * gs + a * s + s.swapaxes(-1, -2) * b) @ vt
            if k != m:  # else U Uᵀ = I
                x_gradient = x_gradient + div_grad(gu - u @ (ut @ gu), s) @ vt
            if k != n:
                x_gradient = x_gradient + u @ div_grad(gv - v @ (vt @ gv), s).swapaxes(-1, -2)
            return x_gradient

        return (gx,)

    def jvp(self, y: Value, x: Value) -> Tangents:
        def tangent(t: Value) -> Value:
            (m, n), k = x.shape[-2:], min(x.shape[-2:])
            u, s, v = split_rows(y, m, 1)
            tt, column = t.swapaxes(-1, -2), s.swapaxes(-1, -2)
            p = u.swapaxes(-1, -2) @ t @ v
            pt = p.swapaxes(-1, -2)
            a, b = (
                divided_by_gaps(self.public, "singular values", q, s * s) for q in (p * s + column * pt, column * p + pt * s)
            )
            tu, tv = u @ a, v @ b
            if k != m:
                tu = tu + div_grad(t @ v - u @ p, s)
            if k != n:
                tv = tv + div_grad(tt @ u - v @ pt, s)
            return concatenate([tu, diagonal_of(p), tv], axis=-2)

        return (tangent,)


class Pinv(Unary):
    """y = x⁺, the Moore-Penrose pseudo-inverse. Singular values below max(m, n) eps of the largest count as 0.

    The derivative assumes full rank, or changes that preserve the rank.

    forward    y  = x⁺                                            x (...,m,n), y (...,n,m)
    backward   gx = -yᵀ g yᵀ + (I - x y) gᵀ y yᵀ + yᵀ y gᵀ (I - y x)
    tangent    ty = -y tx y + y yᵀ txᵀ (I - x y) + (I - y x) txᵀ yᵀ y
    """

    name, signature, reads = "pinv", "(m,n)->(n,m)", "y x"
    real = True

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        return svd_factors.sample(rng, sizes)

    def forward(self, xp: Xp, x: Array) -> Array:
        with with_op_name(self.name, x):
            return xp.linalg.pinv(x, rcond=max(x.shape[-2:]) * float(finfo(x.dtype).eps))

    def backward(self, g: Value, y: Value, x: Value) -> Rules:
        def gx() -> Value:
            yt, gt = y.swapaxes(-1, -2), g.swapaxes(-1, -2)
            right, left = gt @ y, y @ gt
            return (right - x @ (y @ right)) @ yt + yt @ (left - (left @ y) @ x) - yt @ g @ yt

        return (gx,)

    def jvp(self, y: Value, x: Value) -> Tangents:
        def tangent(t: Value) -> Value:
            yt, tt = y.swapaxes(-1, -2), t.swapaxes(-1, -2)
            right, left = yt @ tt, tt @ yt
            return y @ (right - (right @ x) @ y) + (left - y @ (x @ left)) @ y - y @ t @ y

        return (tangent,)


@contextmanager
def with_op_name(op: str, x: Array) -> Iterator[None]:
    """Add the op's name to NumPy's LinAlgError, for example for a matrix with NaN."""
    try:
        yield
    except np.linalg.LinAlgError as error:
        raise LinAlgError(f"{op}: {error}; got shape {x.shape}") from error


def split_rows(y: Value, *heights: int) -> list[Value]:
    """Split a result into parts with given numbers of rows, and the rest."""
    ends = [0, *np.cumsum(heights).tolist(), y.shape[-2]]
    return [getitem(y, (..., slice(a, b), slice(None))) for a, b in pairwise(ends)]


def symmetric(x: Value) -> Value:
    return x / 2 + x.swapaxes(-1, -2) / 2  # a sum might overflow


def diagonal_of(p: Value) -> Value:
    """The diagonal of each matrix, as a row."""
    return (p * identity(p, p.shape[-1])).sum(-2, keepdims=True)


def skew(p: Value) -> Value:
    """The rotation of vectors into each other: p - pᵀ."""
    return p - p.swapaxes(-1, -2)


def divided_by_gaps(op: str, what: str, p: Value, w: Value) -> Value:
    """F * p with F_ij = 1/(w_j - w_i), and 0 on the diagonal. Raises LinAlgError if two values are equal to the precision of
    the dtype and their vectors are used: these are then undetermined. A replay does not check, and gives non-finite values.
    """
    diagonal = identity(p, p.shape[-1])
    p = p * (1 - diagonal)
    gaps = w - w.swapaxes(-1, -2)
    values = raw(w)
    if not state.tracing and not on_gpu(values):
        close = np.abs(raw(gaps)) <= 4 * finfo(values.dtype).eps * np.abs(values).max(-1, keepdims=True, initial=0)
        if (close & (raw(p) != 0)).any():
            raise LinAlgError(f"{op}: two {what} are equal, so their vectors are not unique and have no derivative")
    return div_grad(p, gaps + diagonal)


def check_full_rank(r: Value) -> None:
    """Raise LinAlgError if the columns that this triangle belongs to are linearly dependent."""
    values = raw(r)
    if not state.tracing and not on_gpu(values) and not np.diagonal(values, 0, -2, -1).all():
        raise LinAlgError("qr: the columns are linearly dependent, where the factors have no derivative")


# Test matrices where derivatives exist


def tall(rng: np.random.Generator, shape: Shape) -> Array:
    """Of full rank, with a diagonal well above 0."""
    return rng.uniform(-1, 1, shape) + 3 * np.eye(shape[-2], shape[-1])


def separated_eigenvalues(rng: np.random.Generator, shape: Shape) -> Array:
    """Symmetric, with well separated eigenvalues."""
    return symmetric(rng.uniform(-0.4, 0.4, shape)) + np.diag(np.arange(shape[-1]) * 2.0)


def separated_singular_values(rng: np.random.Generator, shape: Shape) -> Array:
    """With singular values well separated from each other and from 0."""
    k = np.zeros(shape[-2:])
    np.fill_diagonal(k, 2.0 + 2.0 * np.arange(min(shape[-2:])))
    return rng.uniform(-0.3, 0.3, shape) + k


class QR(NamedTuple):
    """The result of `qr`: x = Q R."""

    Q: Any
    R: Any


class Eigh(NamedTuple):
    """The result of `eigh`: (x + xᵀ)/2 = V diag(w) Vᵀ with eigenvalues w and eigenvectors V, as columns."""

    eigenvalues: Any
    eigenvectors: Any


class SVD(NamedTuple):
    """The result of `svd`: x = U diag(S) Vh."""

    U: Any
    S: Any
    Vh: Any


@named
def qr(x: Operand[T], mode: str = "reduced") -> QR:
    """x = Q R of matrices (..., m, n): Q (..., m, k) with Qᵀ Q = I, R (..., k, n) upper triangular, k = min(m, n); as from
    LAPACK, the diagonal of R may be negative.

    Differentiable if the first k columns are linearly independent; otherwise the gradient raises LinAlgError.

    mode   "reduced"; NumPy's "complete" and "r" are not supported
    """
    choice("qr", "mode", mode, ("reduced",))
    matrix = matrices("qr", x)
    m, n = matrix.shape[-2:]
    q, r = split_rows(qr_factors(getitem(matrix, (..., slice(0, m)))), m)
    if n > m:  # the remaining columns of R follow from Q
        r = concatenate([r, q.swapaxes(-1, -2) @ getitem(matrix, (..., slice(m, None)))], axis=-1)
    return QR(q, r)


@named
def eigh(x: Operand[T]) -> Eigh:
    """Eigenvalues (..., n), ascending, and eigenvectors (..., n, n), as columns, of (x + xᵀ)/2, which is x if x is symmetric.

    The gradient is symmetric. For equal eigenvalues it is right if the result does not depend on their order; their
    eigenvectors have no gradient: LinAlgError, in forward mode in any case.
    """
    matrix = matrices("eigh", x)
    if matrix.shape[-1] != matrix.shape[-2]:
        raise ShapeError(f"{scoped('eigh')}: expected square matrices, got shape {matrix.shape}")
    w, v = split_rows(eigh_factors(matrix), 1)
    return Eigh(getitem(w, (..., 0, slice(None))), v)


@named
def svd(x: Operand[T], full_matrices: bool = False) -> SVD:
    """x = U diag(S) Vh of matrices (..., m, n): U (..., m, k), S (..., k), descending, Vh (..., k, n), k = min(m, n).

    For equal singular values the gradient of S is right if the result does not depend on their order. Singular vectors have a
    gradient if their values differ from each other and, unless the matrix is square, from 0; LinAlgError for equal ones, in
    forward mode in any case.

    full_matrices   True, NumPy's default, is only supported for square matrices: further columns would have no derivative
    """
    matrix, full = matrices("svd", x), truth("svd", "full_matrices", full_matrices)
    m, n = matrix.shape[-2:]
    if full and m != n:
        raise ArgumentError(
            f"{scoped('svd')}: full_matrices=True for shape {matrix.shape}; the additional columns have no derivative"
        )
    u, s, v = split_rows(svd_factors(matrix), m, 1)
    return SVD(u, getitem(s, (..., 0, slice(None))), v.swapaxes(-1, -2))


def matrices(op: str, x: Any) -> Any:
    x = as_operand(op, x)
    if x.ndim < 2:
        raise ShapeError(f"{scoped(op)}: expected at least two axes, got shape {x.shape}")
    return x


qr_factors, eigh_factors, svd_factors, pinv = QRFactors(), EighFactors(), SVDFactors(), Pinv()

"""QR, eigenvalues, singular values, the pseudo-inverse: what defines them, their gradients, and where there are none."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tensorgrad
from tensorgrad import Tensor, ops
from tensorgrad.errors import ArgumentError, ShapeError
from tensorgrad.ops import LinAlgError
from tensorgrad.testing import GradientError, gradcheck
from tests.strategies import generators

SHAPES = [(3, 3), (4, 2), (2, 4), (2, 3, 2), (2, 1, 2, 3), (1, 1), (0, 2), (2, 0), (0, 3, 2)]


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def symmetric(n: int, *batch: int) -> np.ndarray:
    x = draw(*batch, n, n)
    return x + np.swapaxes(x, -1, -2)


def turned(x: Any) -> Any:
    return np.swapaxes(x, -1, -2)


@pytest.mark.parametrize("shape", SHAPES)
def test_what_defines_them(shape: tuple[int, ...]) -> None:
    """The product, orthogonal columns, order; as NumPy's functions give them, asked of Tensors too."""
    x = draw(*shape)
    k = min(shape[-2:])
    for t in (x, Tensor(x)):
        (q, r), (u, s, vh) = ops.qr(t), ops.svd(t)
        q, r, u, s, vh, y = (np.asarray(a) for a in (q, r, u, s, vh, ops.pinv(t)))
        for product in (q @ r, (u * s[..., None, :]) @ vh, x @ y @ x):
            np.testing.assert_allclose(product, x, atol=1e-13)
        for orthogonal in (q, u, turned(vh)):
            np.testing.assert_allclose(
                turned(orthogonal) @ orthogonal, np.broadcast_to(np.eye(k), (*shape[:-2], k, k)), atol=1e-13
            )
        np.testing.assert_array_equal(r, np.triu(r))
        assert (np.diff(s) <= 0).all()
    if k and x.size:
        for found, expected in zip(np.linalg.qr(Tensor(x)), np.linalg.qr(x), strict=True):
            np.testing.assert_allclose(found.numpy(), expected, atol=1e-13)
        np.testing.assert_allclose(np.linalg.pinv(Tensor(x)).numpy(), np.linalg.pinv(x), atol=1e-13)


@pytest.mark.parametrize("shape", [(3, 3), (2, 3, 3), (1, 1), (0, 0)])
def test_eigenvalues(shape: tuple[int, ...]) -> None:
    x = draw(*shape)
    w, v = np.linalg.eigh(Tensor(x))
    middle = (x + turned(x)) / 2
    np.testing.assert_allclose((v * w.expand_dims(-2) @ v.swapaxes(-1, -2)).numpy(), middle, atol=1e-13)
    np.testing.assert_allclose(w.numpy(), np.linalg.eigvalsh(middle), atol=1e-13)


PARTS: dict[str, Callable[[Any], Any]] = {
    "Q": lambda x: ops.qr(x).Q,
    "R": lambda x: ops.qr(x).R,
    "U": lambda x: ops.svd(x).U,
    "S": lambda x: ops.svd(x).S,
    "Vh": lambda x: ops.svd(x).Vh,
    "pinv": ops.pinv,
}


@pytest.mark.parametrize("shape", [(3, 3), (4, 2), (2, 4), (2, 3, 2)])
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.every(3)
def test_gradients(part: str, shape: tuple[int, ...]) -> None:
    is_square = part == "Q" and shape[-1] == shape[-2]
    try:
        gradcheck(PARTS[part], draw(*shape), order=2, allow_precision=True)  # of Q of a square matrix there are exact zeros
    except GradientError:
        if is_square and np.lib.NumpyVersion(np.__version__) >= "2.5.0":
            pytest.xfail("by NumPy 2.5's LAPACK, of derivatives that are 0 the check compares what rounding has left, 5e-19")
        raise


def test_gradients_of_eigenvectors() -> None:
    for part in (0, 1):
        gradcheck(lambda x, part=part: ops.eigh(x)[part], symmetric(3, 2), order=2)


@settings(max_examples=15)
@given(generators(), st.integers(1, 4), st.integers(1, 4))
def test_functions_of_matrices_have_gradients_that_are_known(rng: np.random.Generator, m: int, n: int) -> None:
    """Where a result is a function of the matrix itself the gradient has a closed form without any factor."""
    x = rng.normal(size=(m, n)) + 3 * np.eye(m, n)
    t = Tensor(x, requires_grad=True)
    square = lambda g: g.numpy()  # noqa: E731
    s = ops.svd(t).S
    np.testing.assert_allclose(square(tensorgrad.grad((s * s).sum(), t)[0]), 2 * x, atol=1e-10)  # the sum of squares
    r = ops.qr(t).R
    np.testing.assert_allclose(square(tensorgrad.grad((r * r).sum(), t)[0]), 2 * x, atol=1e-10)
    if m == n:
        middle = Tensor(x + x.T, requires_grad=True)
        w, v = ops.eigh(middle)
        cube = (v * w**3) @ v.swapaxes(-1, -2)
        np.testing.assert_allclose(
            square(tensorgrad.grad(ops.trace(cube), middle)[0]), 3 * (middle.numpy() @ middle.numpy()).T, rtol=1e-8, atol=1e-7
        )
        y = ops.pinv(t)
        np.testing.assert_allclose(
            square(tensorgrad.grad(ops.trace(y), t)[0]), -(np.linalg.inv(x) @ np.linalg.inv(x)).T, rtol=1e-7, atol=1e-8
        )


def test_least_squares_by_the_pseudo_inverse() -> None:
    """Of more equations than unknowns, as np.linalg.lstsq, and the gradient that its normal equations have."""
    a, b = draw(5, 2), draw(5, seed=1)
    found = ops.pinv(Tensor(a)) @ b
    np.testing.assert_allclose(found.numpy(), np.linalg.lstsq(a, b)[0], rtol=1e-12)
    gradcheck(lambda a, b: ops.pinv(a) @ b, (a, b), order=2)
    gradcheck(lambda a, b: ops.solve(a.swapaxes(-1, -2) @ a, a.swapaxes(-1, -2) @ b), (a, b))


def test_equal_values_have_a_gradient_but_their_vectors_have_none() -> None:
    x = np.diag([2.0, 2.0, 5.0])
    for values, vectors in (
        (lambda x: ops.eigh(x).eigenvalues, lambda x: ops.eigh(x).eigenvectors),
        (lambda x: ops.svd(x).S, lambda x: ops.svd(x).U),
        (lambda x: ops.svd(x).S, lambda x: ops.svd(x).Vh),
    ):
        t = Tensor(x, requires_grad=True)
        np.testing.assert_allclose(tensorgrad.grad((values(t) ** 2).sum(), t)[0].numpy(), 2 * x, atol=1e-12)
        t = Tensor(x, requires_grad=True)
        weights = np.arange(9.0).reshape(3, 3) ** 2
        with pytest.raises(LinAlgError, match="are equal, so their vectors are not unique and have no derivative"):
            tensorgrad.grad((vectors(t) * weights).sum(), t)
        with pytest.raises(LinAlgError, match="are equal"):
            tensorgrad.jvp(vectors, t.detach(), Tensor(weights + weights.T))


@pytest.mark.parametrize(("name", "vectors"), [("eigh", 1), ("svd", 0)])
def test_replays_make_up_no_derivatives_of_vectors_that_are_not_determined(name: str, vectors: int) -> None:
    def gradient(x: Any) -> Any:
        return tensorgrad.grad((getattr(ops, name)(x)[vectors] * np.arange(9.0).reshape(3, 3)).sum(), [x])[0]

    def of_values(x: Any) -> Any:
        return tensorgrad.grad((getattr(ops, name)(x)[1 - vectors] * np.arange(3.0)).sum(), [x])[0]

    apart, equal = (Tensor(np.diag(values), requires_grad=True) for values in ([1.0, 2, 3], [1.0, 1, 3]))
    step, fine = tensorgrad.compile(gradient), tensorgrad.compile(of_values)
    for _ in range(2):
        assert np.isfinite(step(apart).data).all()
        fine(apart)
    with np.errstate(all="ignore"):
        assert not np.isfinite(step(equal).data).all()
    assert np.isfinite(fine(equal).data).all()


def test_dependent_columns_have_no_gradient() -> None:
    t = Tensor(np.ones((3, 2)) * [1.0, 0.0], requires_grad=True)
    q, r = ops.qr(t)
    with pytest.raises(LinAlgError, match="qr: the columns are linearly dependent"):
        tensorgrad.grad(q.sum() + r.sum(), t)


def test_a_matrix_of_lower_rank_keeps_it() -> None:
    """The pseudo-inverse of a product u vᵀ is v uᵀ / |u|² |v|²: along u and v there are derivatives."""
    u, v = draw(4), draw(3, seed=1)
    t, s = Tensor(u, requires_grad=True), Tensor(v, requires_grad=True)
    weights = np.arange(12.0).reshape(3, 4)
    found = tensorgrad.grad((ops.pinv(ops.outer(t, s)) * weights).sum(), (t, s))
    expected = tensorgrad.grad((ops.outer(s, t) / ((t * t).sum() * (s * s).sum()) * weights).sum(), (t, s))
    for g, h in zip(found, expected, strict=True):
        np.testing.assert_allclose(g.numpy(), h.numpy(), rtol=1e-9)


@pytest.mark.parametrize("dtype", ["float16", "float32", "int64"])
def test_dtypes(dtype: str) -> None:
    x = (4 * draw(3, 3) + 9 * np.eye(3)).astype(dtype)
    for part in (*ops.qr(Tensor(x)), *ops.svd(Tensor(x)), *ops.eigh(Tensor(x)), ops.pinv(Tensor(x))):
        assert part.dtype == ("float64" if dtype == "int64" else dtype)


def test_a_compiled_step_decomposes_what_it_is_given() -> None:
    def step(x: Tensor) -> tuple[Any, ...]:
        w = Tensor(np.ones((3, 3)), requires_grad=True)
        y = x * w
        loss = ops.svd(y).S.sum() + ops.qr(y).R.sum() + ops.eigh(y).eigenvectors[0].sum() + ops.pinv(y).sum()
        return loss, tensorgrad.grad(loss, w)[0]

    compiled = tensorgrad.compile(step)
    for seed in range(3):
        x = Tensor(draw(3, 3, seed=seed))
        for a, b in zip(compiled(x), step(x), strict=True):
            np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=1e-9)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: ops.qr(draw(3)), ShapeError, "qr: expected at least two axes, got shape (3,)"),
        (lambda: ops.eigh(draw(2, 3)), ShapeError, "eigh: expected square matrices, got shape (2, 3)"),
        (lambda: ops.svd(draw(2, 3), full_matrices=True), ArgumentError, "svd: full_matrices=True for shape (2, 3)"),
        (lambda: np.linalg.svd(Tensor(draw(2, 3))), ArgumentError, "svd: full_matrices=True for shape (2, 3)"),
        (lambda: ops.qr(draw(2, 3), "complete"), ArgumentError, "qr: mode is 'complete', expected \"reduced\""),
        (lambda: ops.svd(np.full((2, 2), np.nan)), LinAlgError, "svd: "),
    ],
)
def test_what_is_refused(call: Callable[[], Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=re.escape(message)):
        call()

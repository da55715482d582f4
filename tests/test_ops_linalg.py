"""Products and linear systems: compositions against NumPy, special matrices, and what is refused."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from tensorgrad import Tensor, nn, ops
from tensorgrad.errors import DTypeError, ShapeError, TensorgradError
from tensorgrad.ops import LinAlgError
from tensorgrad.testing import gradcheck

rng = np.random.default_rng(0)


def draw(*shape: int) -> np.ndarray:
    return rng.uniform(-1, 1, shape)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((), ()),
        ((), (2, 3)),
        ((3,), (3,)),
        ((2, 3), (3,)),
        ((3,), (3, 2)),
        ((2, 3), (3, 4)),
        ((2, 4, 3), (5, 3, 2)),
        ((0, 3), (3, 2)),
    ],
)
def test_dot_as_numpy(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    x, w = draw(*a), draw(*b)
    y = ops.dot(Tensor(x, True), w)
    assert y.shape == np.dot(x, w).shape
    np.testing.assert_allclose(y.data, np.dot(x, w), rtol=1e-14, atol=1e-15)
    gradcheck(ops.dot, (x, w), order=2)


@pytest.mark.parametrize(("a", "b"), [((3,), (2,)), ((2, 2), (3,)), ((), (2,)), ((0,), (2,)), ((2,), (0,))])
def test_outer_as_numpy(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    x, w = draw(*a), draw(*b)
    np.testing.assert_array_equal(ops.outer(x, w), np.outer(x, w))
    gradcheck(ops.outer, (x, w), order=2)


@pytest.mark.parametrize(
    ("a", "b", "axes"),
    [
        ((2, 3), (3, 4), 1),
        ((2, 3, 4), (3, 4, 5), 2),
        ((2, 3), (4,), 0),
        ((2, 3, 4), (4, 5, 2), ([0, 2], [2, 0])),
        ((2, 3, 4), (3,), (1, 0)),
        ((2, 3), (3, 2), ([-1, 0], [0, -1])),
        ((2, 0), (0, 3), 1),
        ((), (), 0),
    ],
)
def test_tensordot_as_numpy(a: tuple[int, ...], b: tuple[int, ...], axes: Any) -> None:
    x, w = draw(*a), draw(*b)
    y = ops.tensordot(x, w, axes)
    np.testing.assert_allclose(y, np.tensordot(x, w, axes), rtol=1e-14, atol=1e-15)
    assert y.shape == np.tensordot(x, w, axes).shape
    gradcheck(lambda x, w: ops.tensordot(x, w, axes), (x, w), order=2)


@pytest.mark.parametrize(
    ("subscripts", "shapes"),
    [
        ("ij,jk", [(2, 3), (3, 4)]),  # the result left out
        ("ba", [(2, 3)]),
        ("ii", [(3, 3)]),
        ("b i j , b j k -> b i k", [(2, 3, 4), (2, 4, 2)]),
        ("...ij,...jk->...ik", [(5, 2, 3), (3, 4)]),
        ("...ij,...jk->...ik", [(5, 1, 2, 3), (1, 4, 3, 4)]),
        ("...,...", [(2, 1), (3,)]),
        ("i...->...", [(2, 3, 4)]),
        ("i...i->...", [(2, 3, 2)]),
        ("...ii->...i", [(2, 3, 3)]),
        ("iji->j", [(2, 3, 2)]),
        ("i,i,i,i->", [(3,)] * 4),
        ("ij,j->", [(2, 0), (0,)]),
        ("...,i->i", [(), (3,)]),
    ],
)
def test_einsum_as_numpy(subscripts: str, shapes: list[tuple[int, ...]]) -> None:
    xs = [draw(*shape) for shape in shapes]
    y = ops.einsum(subscripts, *xs)
    expected = np.einsum(subscripts, *xs)
    assert np.shape(y) == expected.shape
    np.testing.assert_allclose(y, expected, rtol=1e-13, atol=1e-14)
    gradcheck(lambda *xs: ops.einsum(subscripts, *xs), (*xs,), order=2)


def test_einsum_of_one_tensor_twice_and_of_lists() -> None:
    gradcheck(lambda x: ops.einsum("ij,kj->ik", x, x), draw(2, 3), order=2)
    x = Tensor([1.0, 2.0], True)
    y = ops.einsum("i,i->", x, [3.0, 4.0])
    y.backward()
    assert y.item() == 11
    assert y.dtype == np.float32
    np.testing.assert_array_equal(x.grad.data, [3, 4])


@pytest.mark.parametrize(
    ("subscripts", "shapes", "message"),
    [
        ("ij,jk->ik", [(2, 3), (4, 5)], "einsum: axis j is 3 and 4; got 'ij,jk->ik' for shapes (2, 3), (4, 5)"),
        ("ij,jk->ik", [(2, 3)], "einsum: 2 comma-separated subscripts for 1 operands"),
        ("ij->i", [(2, 3, 4)], "einsum: operand 0 has 3 axes, 'ij' names 2"),
        ("...ij->...", [(2,)], "einsum: operand 0 has 1 axes, '...ij' names 2"),
        ("ij->ik", [(2, 3)], "einsum: the result has 'k', which no operand has"),
        ("ij->ii", [(2, 3)], "einsum: the result has an axis twice"),
        ("i1->i", [(2, 3)], "einsum: subscripts must be letters and at most one '...', not 'i1'"),
        ("ii->i", [(2, 3)], "einsum: axis i is 2 and 3"),
        ("i,i->i", [(1,), (3,)], "einsum: axis i is 1 and 3"),
        ("...i,...i->...", [(2, 3), (4, 3)], "einsum: an axis of '...' is 2 and 4"),
        ("...i->i", [(2, 3)], "einsum: the result lacks '...'"),
    ],
)
def test_einsum_errors(subscripts: str, shapes: list[tuple[int, ...]], message: str) -> None:
    with pytest.raises(ShapeError, match=re.escape(message)):
        ops.einsum(subscripts, *[Tensor(draw(*shape), True) for shape in shapes])


def test_errors_of_products() -> None:
    with pytest.raises(DTypeError, match="einsum: subscripts must be a string such as 'ij,jk->ik', got ndarray"):
        ops.einsum(draw(2), draw(2))
    with pytest.raises(
        ShapeError, match=re.escape("dot: shapes (2, 3) and (2, 3) are incompatible; expected (...,k),(...,k,n)")
    ):
        ops.dot(draw(2, 3), draw(2, 3))
    for axes, message in [
        (1, "axis -1 of the first is 3 but axis 0 of the second is 2"),
        (([0], [0, 1]), "1 axes of the first for 2 of the second"),
        (([0, 0], [0, 0]), "an axis is given twice"),
        (([2], [0]), "axes 2 and 0 do not both exist"),
        (-1, "a negative number of axes"),
        (3, "axes -3 and 0 do not both exist"),
    ]:
        given = re.escape(f"tensordot: {message}; got shapes (2, 3) and (2, 3), axes={axes}")
        with pytest.raises(ShapeError, match=given):
            ops.tensordot(draw(2, 3), draw(2, 3), axes)


def test_the_layer_stands_in_the_error() -> None:
    class Product(nn.Module):
        def forward(self, x: Any) -> Any:
            return ops.einsum("ij,jk->ik", x, x)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.product = Product()

        def forward(self, x: Any) -> Any:
            return self.product(x)

    with pytest.raises(ShapeError, match=r"^product\.einsum: axis j is 3 and 2"):
        Net()(Tensor(draw(2, 3)))


def spd(*shape: int) -> np.ndarray:
    a = draw(*shape, shape[-1])
    return a @ a.swapaxes(-1, -2) + np.eye(shape[-1])


def test_solve_of_vectors_and_batches() -> None:
    a = draw(3, 3) + 3 * np.eye(3)
    for b in (draw(3), draw(3, 2), draw(4, 3, 2), draw(3, 0)):
        np.testing.assert_allclose(ops.solve(a, b), np.linalg.solve(a, b), rtol=1e-12)
        gradcheck(ops.solve, (a, b), order=2)
    batch = draw(4, 3, 3) + 3 * np.eye(3)
    b = draw(3)
    np.testing.assert_allclose(ops.solve(Tensor(batch, True), b).data, np.linalg.solve(batch, b[:, None])[..., 0], rtol=1e-12)
    with pytest.raises(ShapeError, match=re.escape("solve: shapes (3, 3) and (2,) are incompatible; expected (n,n),(n)->(n)")):
        ops.solve(a, draw(2))


def test_slogdet_where_det_overflows() -> None:
    x = 1e30 * (draw(12, 12) + 4 * np.eye(12))
    x[0] *= -1
    with np.errstate(over="ignore"):
        assert np.isinf(np.linalg.det(x))
    t = Tensor(x, True)
    sign, logabsdet = ops.slogdet(t)
    assert not sign.requires_grad
    assert (sign.item(), logabsdet.item()) == pytest.approx(tuple(np.linalg.slogdet(x)), rel=1e-14)
    logabsdet.backward()
    np.testing.assert_allclose(t.grad.data, np.linalg.inv(x).T, rtol=1e-10)


def test_cholesky_gradient_is_symmetric_and_reads_both_triangles() -> None:
    x = spd(3)
    t = Tensor(x, True)
    factor = ops.cholesky(t)
    np.testing.assert_allclose(factor.data, np.linalg.cholesky(x), rtol=1e-13)
    factor.backward(draw(3, 3))
    np.testing.assert_allclose(t.grad.data, t.grad.data.T, rtol=1e-14)
    # log det x = 2 sum(log diag L), whose gradient is known
    t = Tensor(x, True)
    (2 * ops.log(ops.einsum("ii->i", ops.cholesky(t))).sum()).backward()
    np.testing.assert_allclose(t.grad.data, np.linalg.inv(x), rtol=1e-12)


def test_det_of_a_singular_matrix_has_a_value_but_no_gradient() -> None:
    x = Tensor(np.ones((2, 2)), True)
    y = ops.det(x)
    assert y.item() == 0
    with pytest.raises(LinAlgError, match=r"inv: the matrix is singular; got shape \(2, 2\)"):
        y.backward()
    sign, logabsdet = ops.slogdet(np.ones((2, 2)))
    assert (sign, logabsdet) == (0, -np.inf)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ops.inv(Tensor(np.ones((2, 2)), True)), "inv: the matrix is singular; got shape (2, 2)"),
        (lambda: ops.inv(np.zeros((3, 2, 2))), "inv: one of the matrices is singular; got shape (3, 2, 2)"),
        (lambda: ops.solve(np.ones((2, 2)), np.ones(2)), "solve: the matrix is singular; got shape (2, 2)"),
        (lambda: ops.cholesky(-np.eye(2)), "cholesky: the matrix is not positive definite; got shape (2, 2)"),
    ],
)
def test_matrices_that_are_refused(call: Any, message: str) -> None:
    with pytest.raises(LinAlgError, match=f"^{re.escape(message)}$") as caught:
        call()
    for kind in (TensorgradError, np.linalg.LinAlgError, ValueError, RuntimeError):
        assert isinstance(caught.value, kind)


@pytest.mark.parametrize("name", ["inv", "det", "logabsdet", "cholesky"])
@pytest.mark.parametrize("shape", [(2, 3), (1, 3), (3,), ()])
def test_shapes_that_are_no_square_matrices(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=f"^{name}: .*expected"):
        getattr(ops, name)(Tensor(np.ones(shape), True))

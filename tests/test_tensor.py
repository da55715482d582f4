"""Tensor: what it is made of, and the mistakes it names."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tensorgrad import Tensor, errors, ops
from tensorgrad.errors import DTypeError, GraphError, LabelError, ShapeError
from tensorgrad.nn import functional as F

pytestmark = pytest.mark.quick


def test_dtypes() -> None:
    assert Tensor(1.5).dtype == Tensor([1, 2]).dtype == Tensor([[1.0]]).dtype == np.float32
    assert Tensor(np.zeros(2)).dtype == np.float64
    assert Tensor(np.zeros(2, np.int8)).dtype == np.int8
    assert Tensor([True]).dtype == np.bool_
    assert Tensor([1, 2], dtype=int).dtype == np.int64
    assert Tensor(np.float64(2)).dtype == np.float64


def test_data_are_copied() -> None:
    a = np.zeros(3)
    t = Tensor(a, True)
    a += 1
    np.testing.assert_array_equal(t.data, 0)


def test_reading_it() -> None:
    t = Tensor([[1.0, 2.0, 3.0]], True, name="w")
    assert (t.shape, t.ndim, t.size, len(t)) == ((1, 3), 2, 3, 1)
    assert repr(t) == "Tensor([[1., 2., 3.]], requires_grad=True, name='w')"
    assert repr(Tensor(np.ones(1)) * 2) == "Tensor([2.], dtype=float64)"
    assert repr(t.sum()) == "Tensor(6., op=sum)"
    assert t.sum().item() == 6.0
    assert t.numpy() is t.data
    assert t.detach().is_leaf
    assert np.shares_memory(t.detach().data, t.data)


def test_shape_methods_as_numpy() -> None:
    a = np.arange(24.0).reshape(2, 3, 4)
    t = Tensor(a)
    for method, args in [
        ("reshape", (4, 6)),
        ("reshape", ((4, -1),)),
        ("reshape", (-1,)),
        ("transpose", ()),
        ("transpose", (0, 2, 1)),
        ("transpose", ((2, 0, 1),)),
        ("swapaxes", (0, -1)),
        ("sum", ()),
        ("sum", (1,)),
        ("sum", ((0, -1),)),
        ("mean", (-1,)),
    ]:
        np.testing.assert_allclose(getattr(t, method)(*args).data, getattr(a, method)(*args), rtol=1e-15)
    np.testing.assert_array_equal(t.T.data, a.T)
    np.testing.assert_array_equal(t.sum((0, -1), keepdims=True).data, a.sum((0, -1), keepdims=True))


MISTAKES = [
    (
        lambda: Tensor(np.ones((64, 784))) @ Tensor(np.ones((500, 10))),
        ShapeError,
        "matmul: axis k is 784 in argument 0 (64, 784) but 500 in argument 1 (500, 10); expected (m,k),(k,n)->(m,n)",
    ),
    (
        lambda: Tensor(np.ones((2, 3))) + np.ones(4),
        ShapeError,
        "add: shapes (2, 3) and (4,) do not broadcast; expected (),()->()",
    ),
    (
        lambda: F.linear(Tensor(np.ones((2, 3))), np.ones((3, 4)), np.ones(5)),
        ShapeError,
        "linear: axis n is 4 in argument 1 (3, 4) but 5 in argument 2 (5,); expected (...,k),(k,n),(n)->(...,n)",
    ),
    (
        lambda: F.linear(Tensor(np.ones((2, 3))), np.ones((3, 4)), np.ones((2, 4))),
        ShapeError,
        "linear: argument 2 has shape (2, 4), expected 1 axes (n); expected (...,k),(k,n),(n)->(...,n)",
    ),
    (
        lambda: Tensor(np.ones(3)) @ np.ones((2, 3)),
        ShapeError,
        "matmul: shapes (3,) and (2, 3) are incompatible; expected (k),(k,n)->(n)",
    ),
    (lambda: Tensor(2.0) @ np.ones((2, 3)), ShapeError, "matmul: argument 0 has shape (), expected at least 2 axes (m,k)"),
    (lambda: Tensor(np.ones((2, 3))).reshape(4), ShapeError, "reshape: cannot reshape array of size 6 into shape (4,)"),
    (lambda: Tensor(np.ones((2, 3))).sum(2), ShapeError, "sum: axis 2 is out of bounds for array of dimension 2"),
    (lambda: Tensor(np.ones((2, 3))).swapaxes(0, 2), ShapeError, "swapaxes: axes 0 and 2 are out of bounds for shape (2, 3)"),
    (lambda: ops.sum_to(np.ones((2, 3)), (2, 2)), ShapeError, "sum_to: shape (2, 2) does not broadcast to (2, 3)"),
    (lambda: Tensor("abc"), DTypeError, "Tensor: expected numbers or booleans, got dtype <U3 (from str)"),
    (lambda: Tensor([1j]), DTypeError, "Tensor: expected numbers or booleans, got dtype complex128"),
    (lambda: Tensor([[1.0], [2.0, 3.0]]), DTypeError, "Tensor: cannot convert list to an array"),
    (lambda: Tensor([1.0]) * "a", DTypeError, "mul: expected numbers or booleans, got dtype <U1 (from str)"),
    (lambda: Tensor([1.0]) + None, DTypeError, "add: expected numbers or booleans, got dtype object (from NoneType)"),
    (
        lambda: Tensor([1, 2], True, dtype="int64"),
        DTypeError,
        "Tensor: requires_grad=True needs a floating dtype, got int64; integers and booleans have no gradient",
    ),
    (
        lambda: F.cross_entropy(Tensor(np.ones((2, 3))), [0, 3]),
        LabelError,
        "cross_entropy: label 3 is out of range, expected 0 to 2 for 3 classes",
    ),
    (
        lambda: F.cross_entropy(Tensor(np.ones((2, 3))), np.array([0, -1], np.int8)),
        LabelError,
        "cross_entropy: label -1 is out of range, expected 0 to 2 for 3 classes",
    ),
    (
        lambda: F.cross_entropy(Tensor(np.ones((2, 3))), np.array([0.0, 1.0])),
        ShapeError,
        "cross_entropy: probabilities of shape (2,) for logits of shape (2, 3); expected the same shape, "
        "or integer class indices of shape (2,)",
    ),
    (
        lambda: F.cross_entropy(Tensor(np.ones((2, 3))), [0, 1, 2]),
        ShapeError,
        "cross_entropy: labels have shape (3,), expected (2,): one per row of the scores",
    ),
    (
        lambda: F.nll_loss(Tensor(np.ones((2, 3))), np.array([0.5, 1.0])),
        DTypeError,
        "nll_loss: labels must be integers (class indices), got float64 of shape (2,)",
    ),
    (
        lambda: ops.softmax_cross_entropy(np.ones((2, 3)), np.ones((2, 2))),
        ShapeError,
        "softmax_cross_entropy: axis k is 3 in argument 0 (2, 3) but 2 in argument 1 (2, 2); expected (...,k),(...,k?)->()",
    ),
    (lambda: ops.one_hot([0, 4], 4), LabelError, "one_hot: label 4 is out of range, expected 0 to 3 for 4 classes"),
    (
        lambda: Tensor([1.0], True).sum().requires_grad_(False),
        GraphError,
        "requires_grad_: this Tensor was computed by sum; use .detach()",
    ),
]


@pytest.mark.parametrize(("mistake", "kind", "message"), MISTAKES, ids=[m[2][:40] for m in MISTAKES])
def test_mistakes_are_named_where_they_are_made(mistake, kind, message) -> None:
    with pytest.raises(kind, match=re.escape(message)):
        mistake()


def test_errors_fit_both_habits() -> None:
    assert issubclass(errors.ShapeError, (ValueError, RuntimeError))
    assert {ValueError, RuntimeError} <= set(errors.ShapeError.__mro__)
    assert {TypeError, RuntimeError} <= set(errors.DTypeError.__mro__)
    assert {ValueError, IndexError} <= set(errors.LabelError.__mro__)
    assert issubclass(errors.GraphError, RuntimeError)
    assert issubclass(errors.MissingDependencyError, ImportError)

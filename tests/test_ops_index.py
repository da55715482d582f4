"""Indexing, joining, cutting and rearranging, as NumPy does it; gradients to second order."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import tensorgrad
from tensorgrad import Tensor, ops
from tensorgrad.errors import ArgumentError, DTypeError, ShapeError
from tensorgrad.testing import gradcheck
from tests.strategies import generators

X = np.random.default_rng(5).normal(size=(2, 3, 4))
SQUARE = np.random.default_rng(6).normal(size=(3, 4, 4))
LIKE_NUMPY = {
    "flip": [((), {}), ((1,), {}), (((0, -1),), {})],
    "roll": [((2,), {}), ((-1, 1), {}), ((7, -1), {})],
    "repeat": [((2,), {}), ((3, 1), {}), ((0, -1), {})],
    "tile": [((2,), {}), (((2, 1),), {}), (((2, 1, 1, 3),), {})],
    "take": [(([0, 2, 2],), {"axis": 1}), (([5, -1],), {}), ((np.array([[1], [0]]), -1), {})],
    "squeeze": [((), {})],
    "expand_dims": [((0,), {}), ((-1,), {}), (((0, 2),), {})],
    "moveaxis": [((0, -1), {}), (((0, 2), (1, 0)), {})],
    "diagonal": [((), {}), ((1,), {}), ((-1, 1, 2), {}), ((9,), {})],
    "trace": [((), {}), ((1, 1, 2), {})],
    "tril": [((), {}), ((1,), {}), ((-1,), {})],
    "triu": [((), {}), ((1,), {}), ((-2,), {})],
    "var": [((), {}), ((1,), {}), (((0, 2),), {"ddof": 1, "keepdims": True})],
    "std": [((), {}), ((-1,), {}), ((0,), {"ddof": 1})],
    "prod": [((), {}), ((1,), {}), (((0, 2),), {"keepdims": True})],
    "max": [((), {}), ((1,), {}), (((0, 2),), {"keepdims": True})],
    "min": [((), {}), ((-1,), {})],
    "cumsum": [((), {}), ((1,), {})],
}


@pytest.mark.parametrize("name", LIKE_NUMPY)
def test_as_numpy(name: str) -> None:
    for args, kwargs in LIKE_NUMPY[name]:
        expected = getattr(np, name)(X, *args, **kwargs)
        np.testing.assert_allclose(getattr(ops, name)(X, *args, **kwargs), expected, rtol=1e-12)
        got = getattr(ops, name)(Tensor(X, True), *args, **kwargs)
        np.testing.assert_allclose(got.data, expected, rtol=1e-12)
        assert got.shape == expected.shape
        gradcheck(lambda x, a=args, k=kwargs: getattr(ops, name)(x, *a, **k), X, order=2)


@given(data=st.data(), shape=hnp.array_shapes(max_dims=3, max_side=4))
def test_basic_indices(data: st.DataObject, shape: tuple[int, ...]) -> None:
    index = data.draw(hnp.basic_indices(shape, allow_newaxis=True, allow_ellipsis=True))
    x = np.arange(float(np.prod(shape))).reshape(shape)
    t = Tensor(x, True)
    y = t[index]
    np.testing.assert_array_equal(y.data, x[index])
    g = np.random.default_rng(0).normal(size=y.shape)
    expected = np.zeros(shape)
    expected[index] += g
    np.testing.assert_array_equal(tensorgrad.grad(y, t, g)[0].data, expected)


@given(data=st.data(), shape=hnp.array_shapes(max_dims=3, max_side=4))
def test_integer_arrays_with_repeats_and_masks(data: st.DataObject, shape: tuple[int, ...]) -> None:
    x = np.arange(float(np.prod(shape))).reshape(shape)
    index = data.draw(hnp.integer_array_indices(shape) | hnp.arrays(bool, shape))
    t = Tensor(x, True)
    y = t[index]
    np.testing.assert_array_equal(y.data, x[index])
    g = np.random.default_rng(0).normal(size=y.shape)
    expected = np.zeros(shape)
    np.add.at(expected, index, g)
    np.testing.assert_allclose(tensorgrad.grad(y, t, g)[0].data, expected, rtol=1e-12)


def test_index_is_copied_and_may_hold_tensors_and_lists() -> None:
    t, index = Tensor(X, True), np.array([0, 1])
    y = t[index]
    index[:] = 0
    (g,) = tensorgrad.grad(y.sum(), t)
    np.testing.assert_array_equal(g.data, 1)
    np.testing.assert_array_equal(t[Tensor(1, dtype=int)].data, X[1])
    np.testing.assert_array_equal(t[[0, 0], 1].data, X[[0, 0], 1])
    np.testing.assert_array_equal(t[[]].data, X[[]])
    np.testing.assert_array_equal(t[t.detach() > 0].data, X[X > 0])


@given(rng=generators(), axis=st.integers(-3, 2))
def test_take_along_axis(rng: np.random.Generator, axis: int) -> None:
    shape = list(X.shape)
    shape[axis] = 5
    indices = rng.integers(0, X.shape[axis], shape)
    np.testing.assert_array_equal(ops.take_along_axis(X, indices, axis), np.take_along_axis(X, indices, axis))
    gradcheck(lambda x: ops.take_along_axis(x, indices, axis), X, order=2)


def test_concatenate_stack_split() -> None:
    a, b = X, X[:, :1] * 2
    np.testing.assert_array_equal(ops.concatenate([a, b], axis=1), np.concatenate([a, b], 1))
    gradcheck(lambda x, y: ops.concatenate([x, y], axis=-2), (a, b), order=2)
    for call in (lambda x, y: np.concatenate([x, y], 1), lambda x, y: np.concatenate((x, y), axis=None)):
        np.testing.assert_array_equal(call(Tensor(a), Tensor(b)).data, call(a, b))
        gradcheck(call, (a, b), order=2)
    for axis in (0, 1, -1):
        np.testing.assert_array_equal(ops.stack([a, a * 2], axis), np.stack([a, a * 2], axis))
        gradcheck(lambda x, y, axis=axis: ops.stack([x, y], axis), (a, a * 2), order=2)
    for sections, axis in [(2, -1), ([1, 2], 1), (3, 1)]:
        parts = ops.split(Tensor(X, True), sections, axis)
        for got, expected in zip(parts, np.split(X, sections, axis), strict=True):
            np.testing.assert_array_equal(got.data, expected)
    gradcheck(lambda x: ops.split(x, [1], 1)[1], X, order=2)


@pytest.mark.parametrize("width", [1, (0, 2), ((1, 0), (0, 0), (2, 3))])
@pytest.mark.parametrize("value", [0.0, 2.5])
def test_pad(width: object, value: float) -> None:
    np.testing.assert_array_equal(ops.pad(X, width, value), np.pad(X, width, constant_values=value))
    gradcheck(lambda x: ops.pad(x, width, value), X, order=2)


@pytest.mark.parametrize("width", [1, (0, 2), ((1, 0), (0, 0), (2, 7))])
@pytest.mark.parametrize("mode", ["edge", "reflect", "symmetric", "wrap"])
def test_pad_by_its_own_elements(width: object, mode: str) -> None:
    """As NumPy's, also further than the array is wide."""
    np.testing.assert_array_equal(ops.pad(X, width, mode=mode), np.pad(X, width, mode=mode))
    np.testing.assert_array_equal(np.pad(Tensor(X), width, mode=mode).data, np.pad(X, width, mode=mode))
    gradcheck(lambda x: ops.pad(x, width, mode=mode), X, order=2)


def test_flatten() -> None:
    assert ops.flatten(X).shape == (24,)
    assert ops.flatten(Tensor(X), 1).shape == (2, 12)
    assert ops.flatten(np.array(1.0)).shape == (1,)
    assert ops.flatten(np.zeros((0, 3)), 1).shape == (0, 3)


def test_prod_at_zeros_to_second_order() -> None:
    for zeros in ([0], [0, 2], [0, 1, 2, 3]):
        x = np.array([2.0, 3.0, -1.0, 0.5, 4.0])
        x[zeros] = 0
        gradcheck(lambda t: ops.prod(t) * 1.0, x, order=2)


def test_logsumexp_far_out() -> None:
    x = Tensor(np.array([[1000.0, 999.0], [-1000.0, -1001.0], [-np.inf, -np.inf], [-np.inf, 2.0]]), True)
    y = x.logsumexp(1)
    low = np.log1p(np.exp(-1))
    np.testing.assert_allclose(y.data, [1000 + low, -1000 + low, -np.inf, 2.0], rtol=1e-15)
    y[[0, 1, 3]].sum().backward()
    p = 1 / (1 + np.exp(-1))
    np.testing.assert_allclose(x.grad.data, [[p, 1 - p], [p, 1 - p], [0, 0], [0, 1]], rtol=1e-12)


def test_ties_over_several_axes() -> None:
    x = Tensor(np.array([[1.0, 7.0], [7.0, 7.0]]), True)
    (g,) = tensorgrad.grad(x.max((0, 1)), x)
    np.testing.assert_array_equal(g.data, [[0, 1], [0, 0]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ops.stack([X, X[0]]), "stack: expected arrays of the same shape, got [(2, 3, 4), (3, 4)]"),
        (lambda: ops.concatenate([]), "concatenate: expected at least one array"),
        (lambda: ops.concatenate([X, X[0]]), "concatenate: all the input arrays must have same number of dimensions"),
        (lambda: ops.split(X, 2, 1), "split: axis 1 of (2, 3, 4) has 3 elements, which cannot be split into 2 equal parts"),
        (lambda: ops.squeeze(X, 0), "squeeze: axis 0 of shape (2, 3, 4) does not have size 1"),
        (lambda: ops.flip(X, 3), "flip: axis 3 is out of bounds for 3 axes"),
        (lambda: ops.expand_dims(X, 9), "expand_dims: axis 9 is out of bounds for 4 axes"),
        (lambda: ops.moveaxis(X, 0, (0, 1)), "moveaxis: 1 source axes for 2 destinations"),
        (lambda: ops.pad(X, -1), "pad: width must not be negative, got -1"),
        (lambda: ops.pad(X[:0], 1, mode="wrap"), "has an empty axis, which 'wrap' cannot pad"),
        (lambda: ops.flatten(X, 1, 0), "flatten: end_axis 0 of"),
        (lambda: ops.diagonal(X[0, 0]), "diagonal: expected at least two axes, got shape (4,)"),
        (lambda: ops.take_along_axis(X, [0]), "take_along_axis: indices have shape (1,), expected as many axes as (2, 3, 4)"),
        (lambda: ops.var(X, 0, ddof=2), "var: ddof=2 needs more than 2 elements, axis 0 of (2, 3, 4) has 2"),
    ],
)
def test_mistakes(call, message) -> None:
    with pytest.raises(ShapeError, match=re.escape(message)):
        call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ops.pad(X, 1, "edge"), "pad: value must be a number, got 'edge'; pass a mode by keyword, mode='edge'"),
        (lambda: np.pad(Tensor(X), 1, "edge"), "pad: value must be a number, got 'edge'; pass a mode by keyword, mode='edge'"),
        (lambda: ops.pad(X, 1, mode="mirror"), "pad: mode is 'mirror', expected"),
        (lambda: ops.pad(X, 1, 2.0, mode="edge"), "pad: value needs mode 'constant', got 2.0 with 'edge'"),
    ],
)
def test_modes_of_pad(call, message) -> None:
    with pytest.raises((ArgumentError, DTypeError), match=re.escape(message)):
        call()


def test_index_out_of_range() -> None:
    with pytest.raises(IndexError, match=r"getitem: index 5 is out of bounds for axis 0 with size 2; got \(2, 3, 4\) float64"):
        Tensor(X)[5]
    with pytest.raises(IndexError, match="getitem: too many indices"):
        Tensor(X)[0, 0, 0, 0]

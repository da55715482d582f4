"""Sorting, the largest, quantiles; running products and differences; products, stacks and averages: against NumPy."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import tensorgrad
from tensorgrad import Tensor, ops
from tensorgrad.errors import ArgumentError, DTypeError, ShapeError
from tensorgrad.testing import gradcheck

shapes = hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=4)
few = st.sampled_from([-2.0, -1.0, 0.0, 0.5, 0.5, 1.0, 3.0, np.inf, -np.inf, np.nan])  # with ties, infinities and NaN
arrays = shapes.flatmap(lambda shape: hnp.arrays(np.float64, shape, elements=few))
distinct = shapes.flatmap(
    lambda shape: st.permutations(range(int(np.prod(shape)))).map(lambda order: np.reshape(np.array(order) / 3 - 2, shape))
)


def both(name: str, x: np.ndarray, *args: Any, **named: Any) -> None:
    """Of arrays, of Tensors as function and method, by NumPy's function, and in a compiled step: what NumPy gives."""
    with np.errstate(all="ignore"):
        expected = getattr(np, name)(x, *args, **named)
        ways = [getattr(ops, name)(x, *args, **named), getattr(ops, name)(Tensor(x), *args, **named)]
        ways += [getattr(np, name)(Tensor(x), *args, **named)]
        if hasattr(Tensor, name):
            ways.append(getattr(Tensor(x), name)(*args, **named))
    for way in ways:
        found = way.numpy() if isinstance(way, Tensor) else way
        assert np.shape(found) == np.shape(expected)
        np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-14)
    assert all(isinstance(way, Tensor) for way in ways[1:])


@given(arrays, st.data())
def test_as_numpy(x: np.ndarray, data: st.DataObject) -> None:
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    one = data.draw(st.sampled_from([axis, None]))
    both("sort", x, axis)
    both("sort", x, axis=None)
    for found in (ops.argsort(x, axis), Tensor(x).argsort(axis).numpy(), np.argsort(Tensor(x), axis).numpy()):
        np.testing.assert_array_equal(found, np.argsort(x, axis, kind="stable"))  # equal ones in order, unlike NumPy's default
    both("cumprod", x, axis)
    for name, theirs in (("cummax", np.maximum), ("cummin", np.minimum)):
        np.testing.assert_array_equal(getattr(ops, name)(x, axis), theirs.accumulate(x, axis))
        np.testing.assert_array_equal(getattr(Tensor(x), name)().data, theirs.accumulate(x.reshape(-1)))
    both("diff", x, data.draw(st.integers(0, 3)), axis)
    finite = np.where(np.isfinite(x), x, 0.25)
    both("median", np.where(np.isinf(x), 0.25, x), axis=one, keepdims=data.draw(st.booleans()))
    q = data.draw(st.sampled_from([0.0, 0.3, 0.5, 1.0, [0.25, 0.75]]))
    both("quantile", finite, q, axis=one, keepdims=data.draw(st.booleans()))
    both("ptp", finite, axis=one)
    both("average", finite, axis=one, weights=np.arange(1.0, 1 + x.size).reshape(x.shape))
    both("average", finite, axis=axis, weights=np.arange(1.0, 1 + x.shape[axis]))
    both("nan_to_num", x)
    both("nan_to_num", x, nan=1.0, posinf=2.0, neginf=-3.0)


@settings(max_examples=8)
@given(distinct, st.data())
def test_gradients(x: np.ndarray, data: st.DataObject) -> None:
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    k = data.draw(st.integers(0, x.shape[axis]))
    for f in (
        lambda x: ops.sort(x, axis),
        lambda x: ops.topk(x, k, axis).values,
        lambda x: ops.quantile(x, [0.2, 0.5, 1.0], axis),
        lambda x: ops.median(x, keepdims=True),
        lambda x: ops.cumprod(x, axis),
        lambda x: ops.cummax(x, axis),
        lambda x: ops.cummin(x),
        lambda x: ops.logcumsumexp(x, axis),
        lambda x: ops.diff(x, 1, axis),
        lambda x: ops.average(x, axis, np.arange(1.0, 1 + x.shape[axis])),
        lambda x: ops.ptp(x, axis),
    ):
        gradcheck(f, x)


@given(arrays, st.data())
def test_the_largest_and_the_smallest(x: np.ndarray, data: st.DataObject) -> None:
    """By Python's sort, row by row; of equal ones the first comes first, NaN counts as the largest."""
    axis, largest = data.draw(st.integers(-x.ndim, x.ndim - 1)), data.draw(st.booleans())
    k = data.draw(st.integers(1, x.shape[axis]))
    values, indices = ops.topk(Tensor(x), k, axis, largest)
    at = np.moveaxis(indices.numpy(), axis, -1).reshape(-1, k)
    rows = np.moveaxis(x, axis, -1).reshape(-1, x.shape[axis])
    for row, found in zip(rows, at, strict=True):
        rank = [(-1 if largest else 1) * (np.inf if np.isnan(v) else np.arctan(v)) for v in row]
        assert found.tolist() == sorted(range(len(row)), key=lambda i: rank[i])[:k]
    np.testing.assert_array_equal(values.numpy(), np.take_along_axis(x, indices.numpy(), axis))


def test_whole_numbers_are_sorted_as_they_are() -> None:
    x = np.array([2**63 + 1, 2**63, 3, 3], np.uint64)
    assert ops.topk(Tensor(x), 3).indices.tolist() == [0, 1, 2]
    assert ops.sort(Tensor(x)).dtype == np.uint64
    assert ops.diff(np.array([True, False, False])).tolist() == [True, False]
    assert ops.topk(Tensor([True, False, True]), 2).indices.tolist() == [0, 2]


@given(st.lists(st.sampled_from([0.0, 0.0, 2.0, -1.5, 0.5]), min_size=1, max_size=9))
def test_running_products_with_zeros(numbers: list[float]) -> None:
    """Its Jacobian by the sum over all pairs, which divides nothing either."""
    n = len(numbers)
    expected = np.zeros((n, n))
    for i in range(n):
        for k in range(i + 1):
            expected[i, k] = np.prod([numbers[j] for j in range(i + 1) if j != k])
    found = tensorgrad.jacobian(ops.cumprod, Tensor(np.array(numbers)))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(tensorgrad.jacfwd(ops.cumprod, Tensor(np.array(numbers))).numpy(), expected, rtol=1e-13, atol=0)


def test_running_products_that_fit_though_their_parts_do_not() -> None:
    np.testing.assert_array_equal(
        ops.cumprod(np.array([1e-100, 1e200, 1e200, 1e-300])), np.cumprod([1e-100, 1e200, 1e200, 1e-300])
    )


@pytest.mark.parametrize(
    ("a", "b"), [((2,), (3,)), ((2, 3), (3,)), ((3,), (2, 3)), ((2, 3), (1, 2)), ((), (2, 2)), ((0, 2), (2, 2))]
)
def test_kron_as_numpy(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=a), rng.normal(size=b)
    y = np.kron(Tensor(x), w)
    np.testing.assert_allclose(y.numpy(), np.kron(x, w), rtol=1e-15)
    assert y.shape == np.kron(x, w).shape
    gradcheck(ops.kron, (x, w), order=2)


@pytest.mark.parametrize(
    ("a", "b", "axis"), [((3,), (3,), -1), ((2, 3), (3,), -1), ((4, 1, 3), (2, 3), -1), ((3, 2), (3, 2), 0)]
)
def test_cross_as_numpy(a: tuple[int, ...], b: tuple[int, ...], axis: int) -> None:
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=a), rng.normal(size=b)
    np.testing.assert_allclose(np.cross(Tensor(x), w, axis=axis).numpy(), np.cross(x, w, axis=axis), rtol=1e-14)
    gradcheck(lambda x, w: ops.cross(x, w, axis=axis), (x, w), order=2)


@given(shapes, st.integers(-3, 3))
def test_diagonals_and_stacks_as_numpy(shape: tuple[int, ...], k: int) -> None:
    x = np.arange(float(np.prod(shape))).reshape(shape)
    if x.ndim < 3:
        np.testing.assert_array_equal(np.diag(Tensor(x), k).numpy(), np.diag(x, k))
        gradcheck(lambda x: ops.diag(x, k), x)
    for name in ("vstack", "hstack", "column_stack"):
        found, expected = getattr(np, name)([Tensor(x), x + 1]), getattr(np, name)([x, x + 1])
        np.testing.assert_array_equal(found.numpy(), expected)
    gradcheck(lambda x: ops.vstack([x, 2 * x]), x)


def test_masks_are_combined_by_operators() -> None:
    a, b = np.array([True, True, False, False]), np.array([True, False, True, False])
    for t, u in ((Tensor(a), Tensor(b)), (Tensor(a), b), (a, Tensor(b))):
        for found, expected in ((t & u, a & b), (t | u, a | b), (t ^ u, a ^ b)):
            assert isinstance(found, Tensor)
            assert found.dtype == bool
            np.testing.assert_array_equal(found.numpy(), expected)
    assert (Tensor(a) & True).tolist() == (True & Tensor(a)).tolist() == a.tolist()
    assert (Tensor(np.array([6, 5])) & 3).tolist() == [2, 1]
    t = Tensor(a)
    t |= b
    t ^= a
    t &= a
    assert t.tolist() == [False] * 4
    x = Tensor([-1.0, 0.5, 2.0], requires_grad=True)
    x[(x > 0) & (x < 1)].sum().backward()
    assert x.grad.tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: Tensor([1.0]) & True, DTypeError, "bitwise_and: expected booleans or integers, got float32"),
        (lambda: ops.topk([1.0], 2), ShapeError, "topk: k is 2, but axis 0 of (1,) has 1 elements"),
        (lambda: ops.quantile([1.0], 1.5), ArgumentError, "quantile: q must be between 0 and 1, got 1.5"),
        (lambda: ops.median(np.zeros((2, 0)), 1), ShapeError, "median: axis 1 of (2, 0) is empty"),
        (lambda: ops.diff(np.float64(1)), ShapeError, "diff: expected at least one axis, got shape ()"),
        (lambda: ops.cross([1.0, 2], [1.0, 2]), ShapeError, "cross: axis -1 of argument 0 (2,) has 2 elements, expected 3"),
        (lambda: ops.diag(np.zeros((1, 1, 1))), ShapeError, "diag: expected one or two axes, got shape (1, 1, 1)"),
        (lambda: ops.average(np.ones((2, 3)), 0, np.ones(3)), ShapeError, "average: weights have shape (3,), expected (2, 3)"),
    ],
)
def test_what_is_refused(call: Callable[[], Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=re.escape(message)):
        call()


def test_a_compiled_step_sorts_what_it_is_given() -> None:
    def step(x: Tensor) -> tuple[Tensor, ...]:
        loss = (
            (ops.sort(x) * Tensor([1.0, 2.0, 3.0])).sum() + ops.median(x) + ops.cumprod(x).sum() + ops.topk(x, 2).values.max()
        )
        return loss, ops.topk(x, 2).indices, (x > 0) & (x < 1)

    compiled = tensorgrad.compile(step)
    for numbers in ([3.0, 1.0, 2.0], [0.5, 7.0, -1.0], [1.0, 1.0, 0.0]):
        for a, b in zip(compiled(Tensor(numbers)), step(Tensor(numbers)), strict=True):
            np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-6)


def test_running_extremes_of_equals_and_of_nan() -> None:
    """The first of equals has the gradient; what comes after NaN is NaN, and the NaN's own."""
    x = Tensor(np.array([1.0, 3.0, 3.0, 2.0, 5.0, np.nan, 7.0]), True)
    y = ops.cummax(x)
    np.testing.assert_array_equal(y.data, [1, 3, 3, 3, 5, np.nan, np.nan])
    y.backward(np.arange(1.0, 8.0))
    np.testing.assert_array_equal(x.grad.data, [1, 9, 0, 0, 5, 13, 0])


def test_logcumsumexp_of_large_numbers_and_infinities() -> None:
    """It neither overflows nor makes NaN of -inf; the gradient is that of logsumexp, of each beginning."""
    x = np.array([-np.inf, -np.inf, 1000.0, 1000.0, -1000.0, 999.0])
    leaf = Tensor(x, True)
    y = ops.logcumsumexp(leaf, 0)
    np.testing.assert_allclose(y.data, [ops.logsumexp(x[: i + 1]) for i in range(6)], rtol=1e-13)
    g = np.arange(1.0, 7.0)
    y.backward(g)
    ends = [
        np.append(np.where(y.data[i] == -np.inf, 0, np.exp(x[: i + 1] - max(y.data[i], -1e9))), [0] * (5 - i)) for i in range(6)
    ]
    np.testing.assert_allclose(leaf.grad.data, g @ np.array(ends), rtol=1e-12)
    assert ops.logcumsumexp(np.array([0.0, np.inf, 1.0]))[1:].tolist() == [np.inf, np.inf]

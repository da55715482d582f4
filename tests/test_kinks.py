"""The table of kinks, ties and poles in the text of tensorgrad.ops: every row of it, tried."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable

import numpy as np
import pytest

import tensorgrad
from tensorgrad import Tensor, ops

INF = np.inf
# row of the table: function of one Tensor, its value there, its gradient for g = 3 (a cotangent of 1 hides a lost factor)
ROWS: dict[str, tuple[Callable[[Tensor], Tensor], list[float], list[float]]] = {
    "relu at 0": (ops.relu, [0.0], [0.0]),
    "leaky_relu at 0": (lambda x: ops.leaky_relu(x, 0.25), [0.0], [0.75]),
    "elu at 0": (lambda x: ops.elu(x, 0.5), [0.0], [1.5]),
    "abs at 0": (ops.abs, [0.0], [0.0]),
    "sign anywhere": (ops.sign, [-1.0, 0.0, 2.0], [0.0, 0.0, 0.0]),
    "floor, ceil, round, //": (
        lambda x: ops.floor(x) + ops.ceil(x) + ops.round(x) + ops.trunc(x) + x // 2 + 3 // (x + 5),
        [-1.5, 0.0, 2.0],
        [0.0, 0.0, 0.0],
    ),
    "a % b": (lambda x: x % 2 + 7 % (x + 5), [-1.5, 0.0, 2.0], [-3.0, 0.0, 0.0]),
    "clip at a bound": (lambda x: ops.clip(x, -1, 1), [-1.0, 1.0, 1.5], [3.0, 3.0, 0.0]),
    "maximum(a, b) of equals": (lambda x: ops.maximum(x, np.ones(1)), [1.0], [3.0]),
    "minimum(a, b) of equals": (lambda x: ops.minimum(x, np.ones(1)), [1.0], [3.0]),
    "max, min of equals": (lambda x: ops.max(x, 0, True), [2.0, 5.0, 5.0], [0.0, 3.0, 0.0]),
    "prod with one 0": (lambda x: ops.prod(x, 0, True), [2.0, 0.0, 5.0], [0.0, 30.0, 0.0]),
    "prod with two 0": (lambda x: ops.prod(x, 0, True), [0.0, 0.0, 5.0], [0.0, 0.0, 0.0]),
    "norm at 0": (lambda x: ops.norm(x, axis=0, keepdims=True), [0.0, 0.0], [0.0, 0.0]),
    "std of equals": (lambda x: ops.std(x, axis=0, keepdims=True), [4.0, 4.0], [0.0, 0.0]),
    "hypot at (0, 0)": (lambda x: ops.hypot(x, np.zeros(1)), [0.0], [0.0]),
    "x ** 0": (lambda x: x**0, [0.0, 2.0], [0.0, 0.0]),
    "x ** b at 0, b above 1": (lambda x: x**2.5, [0.0], [0.0]),
    "sqrt at 0": (ops.sqrt, [0.0], [INF]),
    "log at 0": (ops.log, [0.0], [INF]),
    "logsumexp with a +inf": (lambda x: ops.logsumexp(x, 0, True), [INF, 1.0], [3.0, 0.0]),
    "what a mask leaves out": (lambda x: ops.where(x > 0, ops.sqrt(x) / x, x), [0.0, 4.0, np.nan], [3.0, -3 / 16, 3.0]),
    "a product of matrices": (
        lambda w: ops.where([[0], [1]], np.array([[INF], [1.0]]) @ w.reshape(1, 1), 0.0),
        [2.0],
        [np.nan],
    ),
}


def rows() -> list[str]:
    table = inspect.getdoc(ops) or ""
    return re.findall(r"^\| ([^|]+?) +\|.*\|.*\|$", table, re.MULTILINE)[2:]


def test_the_table_and_the_tests_have_the_same_rows() -> None:
    assert rows() == list(ROWS)


@pytest.mark.parametrize("row", ROWS)
def test_row(row: str) -> None:
    fn, at, expected = ROWS[row]
    x = Tensor(np.array(at), True)
    with np.errstate(divide="ignore", invalid="ignore"):
        y = fn(x)
        (g,) = tensorgrad.grad(y, x, np.full(y.shape, 3.0))
    np.testing.assert_array_equal(g.data, expected)


def test_maximum_of_equals_leaves_nothing_to_the_second() -> None:
    for op in (ops.maximum, ops.minimum):
        b = Tensor(np.ones(1), True)
        (g,) = tensorgrad.grad(op(np.ones(1), b), b, np.full(1, 3.0))
        np.testing.assert_array_equal(g.data, [0.0])

"""The table of kinks, ties and poles in the text of tensorgrad.ops: every row of it, tried."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tensorgrad
from tensorgrad import Tensor, fusion, ops
from tensorgrad.nn import functional as F
from tensorgrad.op import Op
from tests.compiled import kernels
from tests.test_poles import CASES

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
    "arctan2 at (0, 0)": (lambda x: ops.arctan2(x, np.zeros(1)), [0.0], [0.0]),
    "x ** 0": (lambda x: x**0, [0.0, 2.0], [0.0, 0.0]),
    "x ** b at 0, b above 1": (lambda x: x**2.5, [0.0], [0.0]),
    "0 ** 0 by both": (lambda x: ops.power(x, x), [0.0, 1.0], [0.0, 3.0]),
    "sqrt at 0": (ops.sqrt, [0.0], [INF]),
    "log at 0": (ops.log, [0.0], [INF]),
    "arcsin, arccos at ±1": (lambda x: ops.arcsin(x) - 2 * ops.arccos(x), [-1.0, 1.0], [INF, INF]),
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


# At second order


def first_and_second(fn: Callable[[Tensor], Tensor], at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """3 times the gradient of the sum of fn, and 3 times its Hessian, as they are recorded."""
    x = Tensor(at, True)
    y = fn(x)
    (g,) = tensorgrad.grad(y, x, np.full(y.shape, 3.0, at.dtype), create_graph=True, allow_unused=True)
    if g is None or not g.requires_grad:
        return np.zeros(at.shape) if g is None else g.data, np.zeros((at.size, at.size))
    rows = [tensorgrad.grad(g.reshape(-1)[i], x, retain_graph=True, allow_unused=True)[0] for i in range(at.size)]
    return g.data, np.array([np.zeros(at.size) if row is None else row.data.ravel() for row in rows])


ZERO_AT_SECOND_ORDER: dict[str, tuple[Callable[[Tensor], Tensor], list[float]]] = {
    "norm": (ops.norm, [0.0, 0.0]),
    "norm of rows": (lambda x: ops.norm(x.reshape(2, 2), axis=1), [0.0, 0.0, 0.0, 0.0]),
    "norm of columns": (lambda x: ops.norm(x.reshape(2, 2), axis=0, keepdims=True), [0.0, 0.0, -0.0, 0.0]),
    "norm of single numbers": (lambda x: ops.norm(x, axis=()), [0.0, 0.0]),
    "std": (ops.std, [4.0, 4.0, 4.0]),
    "std of rows": (lambda x: ops.std(x.reshape(2, 2), axis=1, ddof=1), [4.0, 4.0, -1.0, -1.0]),
    "hypot": (lambda x: ops.hypot(x[:1], x[1:]), [0.0, 0.0]),
    "0 ** 0": (lambda x: ops.power(x[:1], x[1:]), [0.0, 0.0]),
    "abs": (ops.abs, [0.0]),
    "relu": (ops.relu, [0.0]),
    "max": (ops.max, [2.0, 2.0]),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ZERO_AT_SECOND_ORDER)
def test_zero_at_second_order(name: str, dtype: type) -> None:
    fn, at = ZERO_AT_SECOND_ORDER[name]
    for how in (fusion.on, fusion.off):
        with how():
            first, second = first_and_second(fn, np.array(at, dtype))
        assert first.dtype == dtype
        np.testing.assert_array_equal(second, 0.0)


@pytest.mark.parametrize("numba", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_norm_at_0_compiled(dtype: type, numba: bool) -> None:
    """Rows of zeros beside others: 0 there, (w - u uᵀ w) / |x| elsewhere."""
    w = np.array([[1.0, -2.0], [0.5, 3.0], [2.0, 1.0]], dtype)

    def step(x: Tensor) -> tuple[Tensor, Tensor]:
        (g,) = tensorgrad.grad(ops.norm(x, axis=1).sum(), x, create_graph=True)
        return g, tensorgrad.grad((g * w).sum(), x)[0]

    with kernels(numba):
        compiled = tensorgrad.compile(step)
        for at in (
            [[3.0, 4], [1, 2], [5, 1]],
            [[1.0, 4], [1, -2], [5, 0]],
            [[2.0, 4], [0, 0], [5, 0]],
            [[0.0, 0], [1, 2], [-0.0, 0]],
        ):
            x = np.array(at, dtype)
            length = np.linalg.norm(x, axis=1, keepdims=True)
            u = np.divide(x, length, out=np.zeros_like(x), where=length > 0)
            hw = np.divide(w - u * (u * w).sum(1, keepdims=True), length, out=np.zeros_like(x), where=length > 0)
            for run in (step, compiled):
                g, h = run(Tensor(x, True))
                np.testing.assert_allclose(g.data, u, rtol=1e-6)
                np.testing.assert_allclose(h.data, hw, rtol=1e-5, atol=1e-6)
                assert not h.data[length[:, 0] == 0].any()


POINTS = (0.0, 1.0, -1.0, 0.5, -0.5, 2.0, -2.0)
OF_SEVERAL: dict[str, tuple[Callable[[Tensor], Tensor], list[float]]] = {
    **ZERO_AT_SECOND_ORDER,
    "var": (ops.var, [4.0, 4.0]),
    "prod, one 0": (ops.prod, [0.0, 3.0, 2.0]),
    "prod, two 0": (ops.prod, [0.0, 0.0, 2.0]),
    "power at (0, 2)": (lambda x: ops.power(x[:1], x[1:]), [0.0, 2.0]),
    "power at (0, 1.5)": (lambda x: ops.power(x[:1], x[1:]), [0.0, 1.5]),
    "power at (0, -1)": (lambda x: ops.power(x[:1], x[1:]), [0.0, -1.0]),
    **{f"x ** {b}": (lambda x, b=b: x**b, [0.0]) for b in (-0.5, 0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5)},
    "1 / x": (lambda x: 1 / x, [0.0]),
    "a / b": (lambda x: x[:1] / x[1:], [1.0, 0.0]),
    "maximum": (lambda x: ops.maximum(x[:1], x[1:]) ** 3, [1.0, 1.0]),
    "minimum": (lambda x: ops.minimum(x[:1], x[1:]) ** 3, [1.0, 1.0]),
    "max of squares": (lambda x: ops.max(x * x), [2.0, -2.0]),
    "min of squares": (lambda x: ops.min(x * x), [2.0, -2.0]),
    "logsumexp": (ops.logsumexp, [1e3, 1e3]),
    "softmax": (lambda x: ops.softmax(x)[0], [1e3, 1e3]),
    "cumsum": (lambda x: ops.cumsum(x * x), [0.0, 1.0]),
    "a % b": (lambda x: x[:1] % x[1:], [4.0, 2.0]),
    "layer_norm of equals": (lambda x: F.layer_norm(x, 3)[0], [1.0, 1.0, 1.0]),
    "huber at delta": (lambda x: F.huber_loss(x, np.zeros(1)), [1.0]),
    "l1 at 0": (lambda x: F.l1_loss(x, np.zeros(1)), [0.0]),
}


def assert_a_limit_or_0(fn: Callable[[Tensor], Tensor], at: list[float]) -> None:
    """Every first and second derivative is the limit from some side, or 0 where the sides differ or grow beyond all bounds.

    What is not finite is so around the point as well, or nearly.
    """
    rng, x = np.random.default_rng(0), np.array(at)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if np.isnan(fn(Tensor(x)).data).any():
            return  # outside of the domain
        here = first_and_second(fn, x)
        moves = [sign * d for d in rng.uniform(0.5, 1, (4, x.size)) for sign in (1, -1)]
        near = [[first_and_second(fn, x + 10.0**-k * d) for d in moves] for k in (5, 7)]
    for order in (0, 1):
        found = here[order].ravel()
        sides = np.array([[at_side[order].ravel() for at_side in step] for step in near])  # (steps, directions, entries)
        for j, value in enumerate(found):
            coarse, fine = sides[:, :, j]
            usable = np.isfinite(coarse) & np.isfinite(fine)
            grows = bool((np.abs(fine) > 2 * np.abs(coarse) + 1e-3)[usable].any()) or not usable.all()
            differ = bool(np.ptp(fine[usable]) > 1e-3 * (1 + np.abs(fine[usable]).max())) if usable.any() else True
            if not np.isfinite(value):
                assert grows, f"order {order + 1}: {value}, but {fine} around it"
            elif not (value == 0 and (grows or differ)):
                close = np.abs(fine[usable] - value) <= 1e-3 * (1 + abs(value))
                assert close.any(), f"order {order + 1}: {value}, but {coarse} and {fine} around it"


@pytest.mark.parametrize("name", OF_SEVERAL)
def test_a_limit_or_0_of_several(name: str) -> None:
    assert_a_limit_or_0(*OF_SEVERAL[name])


@pytest.mark.parametrize(("op", "args", "attrs"), [case for case in CASES if len(case.values[1]) == 1])
def test_a_limit_or_0(op: Op, args: list[np.ndarray], attrs: dict[str, Any]) -> None:
    """Every op on one argument that works on each element alone, at kinks, poles and where the domain ends."""
    for value in (*POINTS, *op.kinks, *op.domain):
        assert_a_limit_or_0(lambda x: op.apply(x, **attrs), [value])

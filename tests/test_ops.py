"""Every registered op: value against NumPy or SciPy, gradients to second order against numerical ones, and its manners."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

import tensorgrad
from tensorgrad import Tensor, ops
from tensorgrad.op import REGISTRY, Op
from tensorgrad.testing import numerical_gradient
from tests.strategies import generators

Arrays = list[np.ndarray]


@dataclass
class Case:
    """How to test one op.

    shapes   draws the shapes of its arguments
    call     the op with its attributes, as a function of the arguments
    oracle   the same from NumPy or SciPy
    data     arguments that are data (labels, targets): no gradient
    low, high   range of the values drawn
    kinks    keep away from 0, where the derivative jumps
    """

    shapes: Callable[[np.random.Generator], list[tuple[int, ...]]]
    call: Callable[..., Any]
    oracle: Callable[..., Any]
    data: dict[int, Callable[..., np.ndarray]] = field(default_factory=dict)
    low: float = -2.0
    high: float = 2.0
    kinks: bool = False


def elementwise(n: int) -> Callable[[np.random.Generator], list[tuple[int, ...]]]:
    """Shapes that broadcast, among them 0-d ones and sizes of 1."""

    def shapes(rng: np.random.Generator) -> list[tuple[int, ...]]:
        full = tuple(rng.integers(1, 4, rng.integers(0, 4)))
        cut = [full[rng.integers(0, len(full) + 1) :] for _ in range(n)]
        return [tuple(int(s) if rng.random() < 0.7 else 1 for s in c) for c in cut]

    return shapes


def one(min_ndim: int = 0) -> Callable[[np.random.Generator], list[tuple[int, ...]]]:
    return lambda rng: [tuple(int(n) for n in rng.integers(1, 4, rng.integers(min_ndim, 4)))]


def layer(rng: np.random.Generator) -> list[tuple[int, ...]]:
    k, n = rng.integers(1, 5, 2)
    return [(*map(int, rng.integers(1, 4, rng.integers(0, 3))), int(k)), (int(k), int(n)), (int(n),)]


def matrices(rng: np.random.Generator) -> list[tuple[int, ...]]:
    m, k, n = map(int, rng.integers(1, 4, 3))
    a, b = elementwise(2)(rng)
    return [(*a, m, k), (*b, k, n)] if rng.random() < 0.7 else [(*a, m, k), (k, n)]


def scores(rng: np.random.Generator) -> list[tuple[int, ...]]:
    m = tuple(map(int, rng.integers(1, 4, rng.integers(0, 3))))
    return [(*m, int(rng.integers(1, 5))), m]


def labels(rng: np.random.Generator, args: Arrays, at: int) -> np.ndarray:
    return rng.integers(0, args[at - 1].shape[-1], args[at].shape)


def np_layer(activation: Callable[[np.ndarray], np.ndarray]) -> Callable[..., np.ndarray]:
    return lambda x, w, b: activation(np.einsum("...k,kn->...n", x, w) + b)


def np_cross_entropy(z: np.ndarray, t: np.ndarray) -> np.ndarray:
    logp = special.log_softmax(z, axis=-1)
    return -np.take_along_axis(logp, t[..., None], -1).mean()


CASES: dict[str, Case] = {
    "neg": Case(elementwise(1), ops.neg, lambda x: -x),
    "add": Case(elementwise(2), ops.add, lambda a, b: a + b),
    "sub": Case(elementwise(2), ops.sub, lambda a, b: a - b),
    "mul": Case(elementwise(2), ops.mul, lambda a, b: a * b),
    "div": Case(elementwise(2), ops.div, lambda a, b: a / b, low=0.4, high=3),
    "power": Case(elementwise(2), ops.power, lambda a, b: a**b, low=0.4, high=3),
    "exp": Case(elementwise(1), ops.exp, np.exp),
    "log": Case(elementwise(1), ops.log, np.log, low=0.4, high=3),
    "astype": Case(elementwise(1), lambda x: ops.astype(x, np.float64), lambda x: x),
    "relu": Case(elementwise(1), ops.relu, lambda x: np.where(x > 0, x, 0), kinks=True),
    "relu_grad": Case(elementwise(2), ops.relu_grad, lambda g, u: np.where(u > 0, g, 0), kinks=True),
    "sigmoid": Case(elementwise(1), ops.sigmoid, special.expit),
    "sigmoid_grad": Case(elementwise(2), ops.sigmoid_grad, lambda g, s: g * s * (1 - s)),
    "tanh": Case(elementwise(1), ops.tanh, np.tanh),
    "tanh_grad": Case(elementwise(2), ops.tanh_grad, lambda g, t: g * (1 - t**2)),
    "reshape": Case(one(), lambda x: ops.reshape(x, (-1, 1)), lambda x: x.reshape(-1, 1)),
    "transpose": Case(
        one(2), lambda x: ops.transpose(x, (1, 0, *range(2, x.ndim))), lambda x: x.transpose(1, 0, *range(2, x.ndim))
    ),
    "broadcast_to": Case(one(), lambda x: ops.broadcast_to(x, (2, *x.shape)), lambda x: np.stack([x, x])),
    "sum": Case(one(1), lambda x: ops.sum(x, -1), lambda x: np.einsum("...i->...", x)),
    "mean": Case(one(1), lambda x: ops.mean(x, 0, True), lambda x: x.sum(0, keepdims=True) / len(x)),
    "sum_to": Case(one(2), lambda x: ops.sum_to(x, (1, *x.shape[2:])), lambda x: x.sum((0, 1))[None]),
    "matmul": Case(matrices, ops.matmul, lambda a, b: np.einsum("...ij,...jk->...ik", a, b)),
    "linear": Case(layer, ops.linear, np_layer(lambda z: z)),
    "linear_relu": Case(layer, ops.linear_relu, np_layer(lambda z: np.where(z > 0, z, 0)), kinks=True),
    "linear_sigmoid": Case(layer, ops.linear_sigmoid, np_layer(special.expit)),
    "linear_tanh": Case(layer, ops.linear_tanh, np_layer(np.tanh)),
    "softmax": Case(one(1), ops.softmax, lambda z: special.softmax(z, axis=-1)),
    "log_softmax": Case(one(1), lambda z: ops.log_softmax(z, 0), lambda z: special.log_softmax(z, axis=0)),
    "one_hot": Case(
        lambda rng: [tuple(rng.integers(1, 4, rng.integers(0, 3)))],
        lambda t: ops.one_hot(t, 4, np.float64),
        lambda t: np.eye(4)[t],
        data={0: lambda rng, args, at: rng.integers(0, 4, args[at].shape)},
    ),
    "nll_loss": Case(
        scores,
        ops.nll_loss,
        lambda logp, t: -np.take_along_axis(logp, t[..., None], -1).mean(),
        data={1: labels},
    ),
    "softmax_cross_entropy": Case(scores, ops.softmax_cross_entropy, np_cross_entropy, data={1: labels}),
    "softmax_cross_entropy_grad": Case(
        lambda rng: [(), *scores(rng)],
        lambda g, logp, t: ops.softmax_cross_entropy_grad(g, logp, t, scale=0.7),
        lambda g, logp, t: 0.7 * g * (np.exp(logp) - np.eye(logp.shape[-1])[t]),
        data={2: labels},
    ),
}


def draw_arguments(case: Case, rng: np.random.Generator) -> Arrays:
    args: Arrays = []
    for shape in case.shapes(rng):
        x = np.asarray(rng.uniform(case.low, case.high, shape))
        args.append(np.where(abs(x) < 0.1, 0.5, x) if case.kinks else x)
    for at, draw in case.data.items():
        args[at] = draw(rng, args, at)
    return args


def away_from_kinks(case: Case, args: Arrays) -> bool:
    """Whether no ReLU inside the op stands within reach of a finite difference."""
    return not case.kinks or case.call is not ops.linear_relu or bool((abs(np_layer(lambda z: z)(*args)) > 0.01).all())


def test_every_op_has_a_case() -> None:
    assert CASES.keys() == REGISTRY.keys()


@pytest.mark.parametrize("op", REGISTRY.values(), ids=REGISTRY)
def test_formula_stands_at_the_rule(op: Op) -> None:
    assert op.formula("forward")
    assert bool(op.formula("backward")) == (op.backward is not None)


@pytest.mark.parametrize("name", CASES)
@given(rng=generators())
def test_value(name: str, rng: np.random.Generator) -> None:
    case = CASES[name]
    args = draw_arguments(case, rng)
    before = [a.copy() for a in args]
    raw = case.call(*args)
    recorded = case.call(*[a if i in case.data else Tensor(a, True) for i, a in enumerate(args)])
    expected = case.oracle(*args)
    np.testing.assert_allclose(raw, expected, rtol=1e-13, atol=1e-14)
    assert np.shape(raw) == np.shape(expected)
    np.testing.assert_array_equal(recorded.data if isinstance(recorded, Tensor) else recorded, raw)
    for a, b in zip(args, before, strict=True):
        np.testing.assert_array_equal(a, b, err_msg="an input was changed")


@pytest.mark.parametrize("name", [n for n, op in REGISTRY.items() if op.backward is not None])
@given(rng=generators())
def test_gradient(name: str, rng: np.random.Generator) -> None:
    """<v, backward(g)> = d/de <g, f(x + e v)> for random g and v; then the same for the gradient as a function itself."""
    case = CASES[name]
    args = draw_arguments(case, rng)
    if not away_from_kinks(case, args):
        return
    wrt = [i for i in range(len(args)) if i not in case.data]
    v = [rng.uniform(-1, 1, args[i].shape) for i in wrt]

    def tensors(arrays: Arrays) -> list[Any]:
        return [Tensor(a, True) if i in wrt else a for i, a in enumerate(arrays)]

    def moved(e: float) -> Arrays:
        return [a + e * v[wrt.index(i)] if i in wrt else a for i, a in enumerate(args)]

    g = rng.uniform(-1, 1, np.shape(case.call(*args)))
    xs = tensors(args)
    grads = tensorgrad.grad(case.call(*xs), [xs[i] for i in wrt], g)
    for i, gx in zip(wrt, grads, strict=True):
        assert gx.shape == args[i].shape
        assert not any(np.shares_memory(gx.data, other) for other in args)
    eps = np.zeros(())
    slope = numerical_gradient(lambda: float((g * case.call(*moved(float(eps)))).sum()), eps)
    recorded = sum(float((gx.data * vi).sum()) for gx, vi in zip(grads, v, strict=True))
    scale = sum(float(np.abs(gx.data * vi).sum()) for gx, vi in zip(grads, v, strict=True))
    assert recorded == pytest.approx(float(slope), rel=1e-8, abs=1e-9 + 1e-8 * scale)

    # second order: s(x) = sum of <w, gradient(x)>, recorded; its slope along v against finite differences of gradients
    w = [rng.uniform(-1, 1, a.shape) for a in v]

    def slope_of(arrays: Arrays, record: bool) -> tuple[Any, list[Any]]:
        xs = tensors(arrays)
        found = tensorgrad.grad(case.call(*xs), [xs[i] for i in wrt], g, create_graph=record)
        return sum((gx * wi).sum() for gx, wi in zip(found, w, strict=True)), xs

    s, xs = slope_of(args, True)
    second = 0.0
    if s.requires_grad:
        s.backward()
        second = sum(float((xs[i].grad.data * vi).sum()) for i, vi in zip(wrt, v, strict=True) if xs[i].grad is not None)
    numerical = numerical_gradient(lambda: slope_of(moved(float(eps)), False)[0].item(), eps)
    assert second == pytest.approx(float(numerical), rel=1e-7, abs=1e-7)


@pytest.mark.parametrize("name", [n for n, op in REGISTRY.items() if op.backward is not None and n != "astype"])
@given(rng=generators())
def test_float32_stays_float32(name: str, rng: np.random.Generator) -> None:
    case = CASES[name]
    args = [a if i in case.data else a.astype(np.float32) for i, a in enumerate(draw_arguments(case, rng))]
    xs = [a if i in case.data else Tensor(a, True) for i, a in enumerate(args)]
    y = case.call(*xs)
    assert y.dtype == np.float32
    grads = tensorgrad.grad(y, [x for x in xs if isinstance(x, Tensor)], np.ones(y.shape, np.float32))
    assert [gx.dtype for gx in grads] == [np.dtype(np.float32)] * len(grads)


@pytest.mark.parametrize("name", [n for n, op in REGISTRY.items() if op.backward is not None])
@given(rng=generators())
def test_rule_reads_only_what_it_declares(name: str, rng: np.random.Generator) -> None:
    """Every undeclared value is a NaN to the rule, and the gradients are the same."""
    case, op = CASES[name], REGISTRY[name]
    args = draw_arguments(case, rng)
    xs = [a if i in case.data else Tensor(a, True) for i, a in enumerate(args)]
    y = case.call(*xs)
    assert y.node.op is op
    kept = y.node.saved or (None,) * len(args)
    assert [k is not None for k in kept] == list(op.reads_input[: len(args)] if op.reads else [False] * len(args))
    assert (y.node.out is not None) == op.reads_output


@given(rng=generators(), k=st.integers(2, 4))
def test_cross_entropy_of_probabilities(rng: np.random.Generator, k: int) -> None:
    """Targets that are probabilities, rows that do not sum to 1 among them."""
    z, t = rng.normal(size=(3, k)), rng.uniform(0, 1, (3, k))
    x = Tensor(z, True)
    loss = ops.softmax_cross_entropy(x, t)
    assert loss.item() == pytest.approx(-(t * special.log_softmax(z, 1)).sum() / 3, rel=1e-13)
    loss.backward()
    expected = (special.softmax(z, 1) * t.sum(1, keepdims=True) - t) / 3
    np.testing.assert_allclose(x.grad.data, expected, rtol=1e-12, atol=1e-15)


def test_relu_at_0_and_beyond_numbers() -> None:
    x = Tensor(np.array([-np.inf, -1.0, -0.0, 0.0, 1.0, np.inf, np.nan]), True)
    y = x.relu()
    np.testing.assert_array_equal(y.data, [0, 0, 0, 0, 1, np.inf, np.nan])
    y.backward(np.full(7, 3.0))
    np.testing.assert_array_equal(x.grad.data, [0, 0, 0, 0, 3, 3, 0])


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_relu_lets_nothing_through_where_it_is_off(bad: float) -> None:
    x = Tensor(np.array([-1.0, 2.0]), True)
    x.relu().backward(np.array([bad, bad]))
    assert x.grad.data[0] == 0
    np.testing.assert_array_equal(x.grad.data[1], bad)


def test_sigmoid_far_out() -> None:
    x = np.array([-1000.0, -700.0, -40.0, 0.0, 40.0, 1000.0])
    np.testing.assert_allclose(ops.sigmoid(x), special.expit(x), rtol=1e-15)


def test_matmul_of_vectors_as_numpy() -> None:
    rng = np.random.default_rng(0)
    for a, b in [((3,), (3,)), ((2, 3), (3,)), ((3,), (3, 4)), ((5, 2, 3), (3,)), ((3,), (5, 3, 4))]:
        x, w = Tensor(rng.normal(size=a), True), Tensor(rng.normal(size=b), True)
        y = x @ w
        np.testing.assert_allclose(y.data, x.data @ w.data, rtol=1e-14)
        g = rng.normal(size=y.shape)
        y.backward(g)
        for t in (x, w):
            numerical = numerical_gradient(lambda x=x, w=w, g=g: float((g * (x.data @ w.data)).sum()), t.data)
            np.testing.assert_allclose(t.grad.data, numerical, rtol=1e-8, atol=1e-9)


def test_numbers_and_lists_do_not_widen() -> None:
    x = Tensor([1.0, 2.0])
    assert x.dtype == np.float32
    assert (x * 2).dtype == (2.5 * x).dtype == (x - [1, 2]).dtype == (x / 3).dtype == np.float32
    assert (x.astype("float64") * 2.5).dtype == np.float64
    assert (x * np.ones(2)).dtype == (np.ones(2) * x).dtype == np.float64
    assert math.isclose((3 - x).data[1], 1.0)
    np.testing.assert_allclose((2**x).data, [2, 4])
    np.testing.assert_allclose((1 / x).data, [1, 0.5])
    np.testing.assert_allclose((np.eye(2) @ x).data, [1, 2])

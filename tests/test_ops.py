"""Every registered op: value against NumPy or SciPy, gradients to second order against numerical ones, and its manners.

An op says itself how it is tried out (`Op.sample`); what it should give stands in tests/oracles/, family by family.
"""

from __future__ import annotations

import importlib
import math
import pkgutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from scipy import special

import tensorgrad
from tensorgrad import Tensor, ops
from tensorgrad.errors import GraphError, ShapeError
from tensorgrad.op import REGISTRY, Op
from tensorgrad.testing import numerical_gradient
from tensorgrad.testing.check import check_op
from tests import oracles
from tests.strategies import generators

ORACLES: dict[str, Callable[..., Any]] = {}
for module in pkgutil.iter_modules(oracles.__path__):
    ORACLES |= importlib.import_module(f"tests.oracles.{module.name}").ORACLES
DIFFERENTIABLE = [name for name, op in REGISTRY.items() if op.backward is not None]
EMPTY_REFUSED: dict[str, str] = {}  # op: message for an input without elements
for module in pkgutil.iter_modules(oracles.__path__):
    EMPTY_REFUSED |= getattr(importlib.import_module(f"tests.oracles.{module.name}"), "EMPTY_REFUSED", {})


def differentiable(op: Op, args: tuple[Any, ...]) -> list[int]:
    """Which of the arguments have a gradient: floating arrays that are not data."""
    return [i for i, a in enumerate(args) if a.dtype.kind == "f" and not op.is_data(i)]


def wrapped(args: tuple[Any, ...], wrt: list[int]) -> list[Any]:
    return [Tensor(a, True) if i in wrt else a for i, a in enumerate(args)]


def test_every_op_has_an_oracle() -> None:
    assert ORACLES.keys() == REGISTRY.keys()


@pytest.mark.parametrize("op", REGISTRY.values(), ids=REGISTRY)
def test_formula_stands_at_the_rule(op: Op) -> None:
    assert op.formula("forward")
    assert bool(op.formula("backward")) == (op.backward is not None)
    assert bool(op.formula("tangent")) == (op.jvp is not None and not op.linear)  # what is linear is told by `forward`


@pytest.mark.parametrize("name", REGISTRY)
@given(rng=generators())
def test_value(name: str, rng: np.random.Generator) -> None:
    op = REGISTRY[name]
    args, attrs = op.sample(rng)
    before = [a.copy() for a in args]
    raw = op(*args, **attrs)
    wrt = differentiable(op, args) if op.backward is not None else []
    recorded = op(*[Tensor(a, i in wrt) for i, a in enumerate(args)], **attrs)
    expected = ORACLES[name](*args, **attrs)
    np.testing.assert_allclose(raw, expected, rtol=1e-12, atol=1e-14)
    assert np.shape(raw) == np.shape(expected)
    np.testing.assert_array_equal(recorded.data, raw)
    for a, b in zip(args, before, strict=True):
        np.testing.assert_array_equal(a, b, err_msg="an input was changed")


@pytest.mark.parametrize("name", DIFFERENTIABLE)
@given(rng=generators())
def test_gradient(name: str, rng: np.random.Generator) -> None:
    """Every entry of the Jacobian and of the gradient's own, against numerical ones; the inputs are drawn away from kinks."""
    op = REGISTRY[name]
    args, attrs = op.sample(rng)
    report = check_op(op, args, attrs, order=2)
    assert set(report.verdicts) <= {"ok"}, report


@pytest.mark.parametrize("name", DIFFERENTIABLE)
@given(rng=generators())
def test_gradients_share_no_memory(name: str, rng: np.random.Generator) -> None:
    op = REGISTRY[name]
    args, attrs = op.sample(rng)
    wrt = differentiable(op, args)
    xs = wrapped(args, wrt)
    y = op(*xs, **attrs)
    g = rng.uniform(-1, 1, y.shape)
    y.backward(g)
    arrays = [g, y.data, *args, *[xs[i].data for i in wrt]]
    for i in wrt:
        if xs[i].grad is not None:
            assert not any(np.shares_memory(xs[i].grad.data, other) for other in arrays)
            arrays.append(xs[i].grad.data)


@pytest.mark.parametrize("name", [n for n in DIFFERENTIABLE if n != "astype"])
@given(rng=generators())
def test_float32_stays_float32(name: str, rng: np.random.Generator) -> None:
    op = REGISTRY[name]
    args, attrs = op.sample(rng)
    args = tuple(a.astype(np.float32) if a.dtype.kind == "f" else a for a in args)
    wrt = differentiable(op, args)
    xs = wrapped(args, wrt)
    y = op(*xs, **attrs)
    assert y.dtype == np.float32
    grads = tensorgrad.grad(y, [xs[i] for i in wrt], np.ones(y.shape, np.float32))
    assert [gx.dtype for gx in grads] == [np.dtype(np.float32)] * len(grads)


@pytest.mark.parametrize("name", REGISTRY)
@given(rng=generators())
def test_memory_layout_does_not_matter(name: str, rng: np.random.Generator) -> None:
    """Reversed, strided and Fortran-ordered inputs give what contiguous ones give."""
    op = REGISTRY[name]
    args, attrs = op.sample(rng)

    def spread(a: np.ndarray) -> np.ndarray:
        if not a.ndim:
            return a
        wide = np.zeros((*a.shape[:-1], 2 * a.shape[-1]), a.dtype)
        view = wide[..., ::-2] if rng.random() < 0.5 else wide[..., ::2]
        view[...] = a
        return view if rng.random() < 0.7 else np.asfortranarray(a)

    other = [spread(a) for a in args]
    np.testing.assert_allclose(op(*other, **attrs), op(*args, **attrs), rtol=1e-13, atol=1e-14)
    if op.backward is None:
        return
    wrt = differentiable(op, args)
    found = []
    for arrays in (args, other):
        xs = wrapped(tuple(arrays), wrt)
        for i in wrt:
            xs[i].data = arrays[i]
        y = op(*xs, **attrs)
        found.append(tensorgrad.grad(y, [xs[i] for i in wrt], np.ones(y.shape)))
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a.data, b.data, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("name", REGISTRY)
@given(rng=generators())
def test_empty_inputs(name: str, rng: np.random.Generator) -> None:
    """Arrays without elements go through, forward and backward, or the op says why they cannot."""
    op = REGISTRY[name]
    args, attrs = op.sample(rng, (0, 0, 1, 2))
    wrt = differentiable(op, args) if op.backward is not None else []
    xs = wrapped(args, wrt)
    try:
        y = op(*xs, **attrs)
    except ShapeError as error:
        assert EMPTY_REFUSED[name] in str(error)  # noqa: PT017  (whether it raises depends on the shapes drawn)
        return
    expected = ORACLES[name](*args, **attrs)
    np.testing.assert_allclose(y.data if isinstance(y, Tensor) else y, expected, rtol=1e-12, atol=1e-14)
    if wrt:
        for i, gx in zip(wrt, tensorgrad.grad(y, [xs[i] for i in wrt], np.ones(y.shape)), strict=True):
            assert gx.shape == args[i].shape


@pytest.mark.parametrize("axis", [0, -1, 1])
@pytest.mark.parametrize("name", ["sum", "mean", "max", "min", "prod", "var", "std", "norm", "logsumexp"])
def test_reductions_of_a_number_along_an_axis(name: str, axis: int) -> None:
    """NumPy takes a number to have the axes 0 and -1 in some of them: then the gradient is 1; else an error at once."""
    w = Tensor(np.array(2.0), requires_grad=True)
    if axis == 1 or name in ("mean", "var", "std"):
        with pytest.raises(ShapeError, match=f"axis {axis} is out of bounds"):
            getattr(ops, name)(w, axis=axis)
        return
    y = getattr(ops, name)(w, axis=axis)
    y.backward()
    assert (y.shape, y.item(), w.grad.item()) == ((), 2, 1)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int32", "bool"])
def test_the_product_of_nothing_is_recorded_too(dtype: str) -> None:
    x = np.zeros((2, 0, 3), dtype)
    for axis in (None, 1, (1, 2), 0):
        y = ops.prod(Tensor(x), axis)
        assert isinstance(y, Tensor)
        assert y.dtype == ops.prod(x, axis).dtype == np.prod(x, axis).dtype
        np.testing.assert_array_equal(y.numpy(), np.prod(x, axis))
    if x.dtype.kind == "f":
        leaf = Tensor(x, requires_grad=True)
        ops.prod(leaf).backward()
        assert leaf.grad.shape == x.shape


@pytest.mark.parametrize("name", [n for n in DIFFERENTIABLE if not REGISTRY[n].calls])  # which keeps its inputs itself
@given(rng=generators())
def test_rule_reads_only_what_it_declares(name: str, rng: np.random.Generator) -> None:
    """A node keeps exactly the arrays that the op says its rule reads; the others the rule cannot even see."""
    op = REGISTRY[name]
    args, attrs = op.sample(rng)
    xs = wrapped(args, differentiable(op, args))
    y = op(*xs, **attrs)
    if y.node.op is not op:
        return  # written as another op
    kept = y.node.saved or (None,) * len(args)
    flags = (*op.reads_input, *op.reads_input[-1:] * len(args)) if op.variadic else op.reads_input
    assert [k is not None for k in kept] == (list(flags[: len(args)]) if op.reads_some else [False] * len(args))
    assert (y.node.out is not None) == op.reads_output


@pytest.mark.parametrize("name", [n for n in DIFFERENTIABLE if REGISTRY[n].data])
def test_data_that_requires_a_gradient_is_refused(name: str) -> None:
    op = REGISTRY[name]
    args, attrs = op.sample(np.random.default_rng(1))
    at = op.takes_data.index(True)
    xs = [Tensor(np.ones(a.shape), True) if i == at else Tensor(a, True) if i == 0 else a for i, a in enumerate(args)]
    if args[at].dtype.kind == "f":
        with pytest.raises(GraphError, match=f"{name}: argument {at} is data and has no gradient"):
            op(*xs, **attrs)


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

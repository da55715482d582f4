"""Tensors of given shapes: what NumPy makes, on each device, and random numbers that a compiled step draws anew."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import tensorgrad
from tensorgrad import Tensor, func, manual_seed, ops
from tensorgrad.errors import ArgumentError, DTypeError, ShapeError
from tensorgrad.nn import functional as F
from tests.cuda.gpu import using

SHAPES = st.one_of(st.integers(0, 4), st.lists(st.integers(0, 3), max_size=3).map(tuple))
DTYPES = st.sampled_from(["float16", "float32", "float64", "int8", "int64", "uint8", "bool"])
numbers = st.one_of(st.integers(-9, 9), st.floats(-9, 9).map(lambda n: round(n, 2)))


def same(y: Any, expected: Any) -> None:
    assert isinstance(y, Tensor)
    assert (y.shape, y.dtype, y.is_leaf) == (expected.shape, expected.dtype, True)
    np.testing.assert_array_equal(y.numpy(), expected)


@given(SHAPES, DTYPES, st.integers(0, 9))
def test_constants_as_numpy(shape: Any, dtype: str, value: int) -> None:
    same(ops.zeros(shape, dtype), np.zeros(shape, dtype))
    same(ops.ones(shape, dtype), np.ones(shape, dtype))
    same(ops.full(shape, value, dtype), np.full(shape, value, dtype))
    x = np.zeros(shape, dtype)
    for given_x in (x, Tensor(x)):
        same(ops.zeros_like(given_x), np.zeros_like(x))
        same(ops.ones_like(given_x, "int32"), np.ones_like(x, "int32"))
        same(ops.full_like(given_x, value), np.full_like(x, value))


@given(st.integers(0, 4), st.one_of(st.none(), st.integers(0, 4)), st.integers(-6, 6))
def test_eye_as_numpy(n: int, m: int | None, k: int) -> None:
    same(ops.eye(n, m, k), np.eye(n, m, k, "float32"))


@given(numbers, numbers, numbers.filter(lambda n: abs(n) > 0.2), st.integers(0, 9))
def test_ranges_as_numpy(start: float, stop: float, step: float, num: int) -> None:
    kind = "int64" if all(isinstance(n, int) for n in (start, stop, step)) else "float32"
    expected = np.arange(start, stop, step).astype(kind)
    found = ops.arange(start, stop, step)
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(
        ops.arange(start, stop, step, "float64").numpy(), np.arange(start, stop, step), rtol=1e-14, atol=1e-14
    )
    same(ops.linspace(start, stop, num, "float64"), np.linspace(start, stop, num))
    same(ops.arange(num), np.arange(num))


@given(st.lists(st.integers(0, 3), max_size=3), st.sampled_from(["xy", "ij"]))
def test_grids_as_numpy(sizes: list[int], indexing: Any) -> None:
    lines = [np.arange(float(n)) + i for i, n in enumerate(sizes)]
    expected = np.meshgrid(*lines, indexing=indexing)
    found = ops.meshgrid(*[Tensor(x) for x in lines], indexing=indexing)
    for y, z in zip(found, expected, strict=True):
        np.testing.assert_array_equal(y.numpy(), z)


def test_a_grid_is_recorded() -> None:
    x = Tensor(np.arange(3.0), requires_grad=True)
    u, v = np.meshgrid(x, np.ones(2))
    (u * v).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [2, 2, 2])


def test_numpys_own_functions_make_tensors() -> None:
    x = Tensor(np.ones((2, 3), "float32"))
    for y, value in ((np.zeros_like(x), 0), (np.ones_like(x), 1), (np.full_like(x, 7), 7)):
        same(y, np.full((2, 3), value, "float32"))


def test_what_they_take_besides() -> None:
    for make in (ops.zeros, ops.ones, ops.rand, ops.randn):
        y = make((2,), "float64", requires_grad=True)
        assert y.requires_grad
        assert y.is_leaf
        (y * 3).sum().backward()
        np.testing.assert_array_equal(y.grad.numpy(), [3, 3])
    with using("stand-in"):
        for y in (ops.zeros((2,), device="cuda"), ops.zeros_like(Tensor([1.0], device="cuda")), ops.rand(device="cuda")):
            assert y.device == "cuda:0"


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: ops.zeros(2, 3), ArgumentError, "zeros: dtype is 3; pass several sizes as a tuple, zeros((2, 3))"),
        (lambda: ops.randn(2, 3), ArgumentError, "randn: dtype is 3; pass several sizes as a tuple, randn((2, 3))"),
        (lambda: ops.ones((2, -1)), ShapeError, "ones: the shape (2, -1) has a size less than 0"),
        (lambda: ops.rand((2,), int), DTypeError, "rand: expected a floating, integer or boolean dtype, got int64"),
        (lambda: ops.rand(rng=3), ArgumentError, "rand: rng must be a generator, np.random.default_rng(seed), or None, got 3"),
        (lambda: ops.ones(2, int, requires_grad=True), DTypeError, "requires_grad=True needs a floating dtype, got int64"),
        (lambda: ops.arange(0, 1, 0), ArgumentError, "arange: step must not be 0"),
        (lambda: ops.arange(float("inf")), ArgumentError, "arange: expected finite numbers, got 0, inf, 1"),
        (lambda: ops.meshgrid(np.ones((2, 2))), ShapeError, "meshgrid: expected 1-d arrays, got shape (2, 2)"),
        (lambda: ops.meshgrid([1.0], indexing="yx"), ArgumentError, 'meshgrid: indexing is \'yx\', expected "xy" or "ij"'),
    ],
)
def test_what_is_refused(call: Callable[[], Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=re.escape(message)):
        call()


# Random numbers


@pytest.mark.parametrize(("draw", "law"), [(ops.rand, stats.uniform.cdf), (ops.randn, stats.norm.cdf)])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_law_that_they_are_drawn_from(draw: Any, law: Any, device: str) -> None:
    """By Kolmogorov's test, and the correlation of neighbours; twenty thousand at the CPU, fewer where a GPU is imitated."""
    with using("stand-in") if device == "cuda" else contextlib.nullcontext():
        n = 20_000 if device == "cpu" else 2_000
        x = draw((n,), rng=np.random.default_rng(1), device=device).cpu().numpy()
    assert np.isfinite(x).all()
    assert stats.kstest(x, law).pvalue > 0.01
    assert abs(np.corrcoef(x[1:], x[:-1])[0, 1]) < 4 / np.sqrt(n)


def test_one_seed_for_all() -> None:
    drawn = []
    for _ in range(2):
        manual_seed(3)
        drawn.append(np.concatenate([ops.rand((4,)).numpy(), ops.randn((4,)).numpy()]))
    np.testing.assert_array_equal(*drawn)
    assert len(set(drawn[0])) == 8


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_half_precision_is_rounded_and_finite(dtype: str) -> None:
    rng = np.random.default_rng(0)
    x, y = ops.randn((30_000,), dtype, rng=rng), ops.rand((30_000,), dtype, rng=rng)
    assert x.dtype == y.dtype == dtype
    assert np.isfinite(x.numpy()).all()
    assert 0 <= y.numpy().min() < y.numpy().max() <= 1


def test_a_compiled_step_draws_as_the_step_does() -> None:
    """Call for call the same numbers, from a generator of its own or from that of all."""

    def step(w: Tensor) -> Any:
        noise, uniform = ops.randn((3,)), ops.rand((3,), rng=own)
        return (tensorgrad.exp(w) * noise + uniform).sum(), ops.rand((2, 3)), uniform

    own = np.random.default_rng(7)
    compiled, w = tensorgrad.compile(step), Tensor([1.0, 2.0, 3.0])
    found: list[list[np.ndarray]] = [[], []]
    for kept, function in zip(found, (step, compiled), strict=True):
        manual_seed(5)
        own.bit_generator.state = np.random.default_rng(7).bit_generator.state
        for _ in range(4):
            kept += [np.asarray(t.detach()) for t in function(w)]
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    assert len({a.tobytes() for a in found[1]}) == 12


def test_the_gradient_sees_what_was_drawn() -> None:
    x = Tensor(np.array([0.1, 0.2, 0.3]), requires_grad=True)
    (tensorgrad.exp(x) * ops.randn((3,), rng=np.random.default_rng(2))).sum().backward()
    noise = ops.randn((3,), rng=np.random.default_rng(2)).numpy()
    np.testing.assert_allclose(x.grad.numpy(), np.exp(x.numpy()) * noise, rtol=1e-6)


SEGMENTS: dict[str, Any] = {
    "noise": lambda x: ops.relu(x + ops.randn((5,), "float64") * x),
    "dropout": lambda x: ops.exp(F.dropout(ops.exp(x), 0.5)),
    "half precision": lambda x: ops.exp(x) * ops.rand((5,), "float16"),
    "one inside of one": lambda x: tensorgrad.checkpoint(lambda x: ops.exp(x) * ops.rand((5,)), F.dropout(ops.exp(x), 0.5)),
}


@pytest.mark.parametrize("name", SEGMENTS)
def test_what_a_checkpoint_draws_is_kept(name: str) -> None:
    """Its second call gets the numbers of the first, whatever is drawn in between; for gradients of gradients, too."""
    fn = SEGMENTS[name]
    x = Tensor(np.linspace(0.5, 1, 5), requires_grad=True)
    found = []
    for f in (fn, lambda x: tensorgrad.checkpoint(fn, x)):
        tensorgrad.manual_seed(3)
        y = f(x)
        after = ops.rand((2,))
        (g,) = tensorgrad.grad((y * y).sum(), [x], create_graph=True)
        (h,) = tensorgrad.grad((g * g).sum(), [x])
        tensorgrad.manual_seed(3)
        many = func.vmap(lambda x, f=f: f(x))(ops.stack([x, x * 2]))
        (v,) = tensorgrad.grad((many * many).sum(), [x])
        found.append([t.data for t in (y, after, g, h, many, v)])
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


@pytest.mark.parametrize("name", SEGMENTS)
def test_a_compiled_step_refuses_a_checkpoint_that_draws(name: str) -> None:
    """It would draw others for the gradient than for the value."""
    step = tensorgrad.compile(lambda x: tensorgrad.grad(tensorgrad.checkpoint(SEGMENTS[name], x).sum(), [x]))
    with pytest.raises(tensorgrad.errors.CompileError, match=r"checkpoint\(\) at .* draws random numbers"):
        step(Tensor(np.ones(5), requires_grad=True))


def test_a_step_that_is_captured_on_a_gpu_draws_anew() -> None:
    with using("stand-in"):
        w = Tensor(np.ones(40, "float32"), device="cuda")
        compiled = tensorgrad.compile(lambda w: (w * ops.randn((40,), device="cuda"), ops.rand((40,), device="cuda")))
        runs = [[t.numpy() for t in compiled(w)] for _ in range(3)]
    assert len({a.tobytes() for run in runs for a in run}) == 6
    for normal, uniform in runs:
        assert np.isfinite(normal).all()
        assert 0 <= uniform.min() < uniform.max() < 1

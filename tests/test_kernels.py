"""Every kernel against NumPy's own functions, or its formula written out: drawn shapes and layouts, NaN and infinities."""

from __future__ import annotations

import math
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import tensorgrad
from tensorgrad.core.memory import POOLED, new
from tensorgrad.errors import LabelError
from tensorgrad.kernels import build, common, generate, reference, threads, thresholds
from tensorgrad.kernels.chain import Chain, NotElementwise, Operand, Ref, Step
from tests.strategies import generators

numba = pytest.importorskip("numba")
from tensorgrad.kernels import fast  # noqa: E402  (it imports Numba)

SPECIAL = np.array([0.0, -0.0, 1.5, -2.0, np.inf, -np.inf, np.nan, 1e30, -1e-30])
ORACLES = {
    "where": lambda c, a, b: np.where(c != 0, a, b),
    "relu_grad": lambda g, unit: np.where(unit > 0, g, 0),
    "mul_grad": lambda g, d: np.where(g == 0, 0, g * d),
    "div_grad": lambda g, d: np.where(g == 0, 0, g / d),
    "reciprocal": lambda a: 1 / a,
}


def drawn(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Ordinary and special values."""
    with np.errstate(over="ignore"):  # float16 has no 1e30, but it has infinities
        return np.where(rng.random(shape) < 0.3, rng.choice(SPECIAL, shape), rng.normal(size=shape)).astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("function", sorted(generate.EXPRESSIONS))
@given(rng=generators(), rows=st.integers(0, 40), columns=st.integers(1, 9))
def test_every_function_of_a_chain(function: str, dtype: str, rng: np.random.Generator, rows: int, columns: int) -> None:
    """Numba's loop and NumPy's calls give the same bits as the function itself, special values included."""
    count = 1 + max(int(c) for c in generate.EXPRESSIONS[function] if c.isdigit())
    oracle = ORACLES.get(function) or getattr(np, function)
    arrays = [drawn(rng, (rows, columns), dtype) for _ in range(count)]
    with np.errstate(all="ignore"):
        expected = oracle(*arrays)
    step = Step(function, tuple(Ref(i) for i in range(count)), str(expected.dtype), ("over", "divide", "invalid"))
    steps: tuple[Step, ...] = (step,)
    if expected.dtype == bool:  # a comparison is what another function chooses by
        steps = (step, Step("where", (Ref(count), Ref(0), 0.25), dtype))
        expected = np.where(expected, arrays[0], np.array(0.25, dtype))
    chain = Chain(tuple(Operand("full", dtype) for _ in arrays), steps, ((count + len(steps) - 1, "full"),))
    by_loop, by_calls = np.empty_like(arrays[0]), np.empty_like(arrays[0])
    kernel = build.numba_kernel(chain, (), True)
    assert kernel is not None
    kernel(*[a.reshape(-1) for a in arrays], by_loop.reshape(-1))
    with np.errstate(all="ignore"):
        build.numpy_kernel(chain, ())(*arrays, by_calls, rows=7)
    np.testing.assert_array_equal(by_loop, expected.astype(dtype))
    np.testing.assert_array_equal(by_calls, expected.astype(dtype))


def layered() -> Chain:
    """max(x row + column, number) with the mask of another array, and the sum over rows of it."""
    full, row, column, number = (Operand(layout, "float64") for layout in ("full", "row", "column", "number"))
    steps = (
        Step("multiply", (Ref(0), Ref(1)), "float64"),
        Step("add", (Ref(5), Ref(2)), "float64"),
        Step("maximum", (Ref(6), Ref(3)), "float64"),
        Step("relu_grad", (Ref(7), Ref(4)), "float64"),
    )
    return Chain((full, row, column, number, full), steps, ((7, "full"), (8, "full"), (8, "sum")))


@pytest.mark.parametrize("shared", [(), ((0, 0),), ((1, 0),), ((0, 4), (1, 0))])
@given(rng=generators(), rows=st.integers(1, 30), columns=st.integers(1, 30))
def test_layouts_results_and_memory(shared: Any, rng: np.random.Generator, rows: int, columns: int) -> None:
    """Rows, columns and numbers, several results, a sum, results written over operands: against the formula."""
    chain = layered()
    x, row, column, unit = (rng.normal(size=s) for s in ((rows, columns), columns, (rows, 1), (rows, columns)))
    number = np.asarray(rng.normal())
    y = np.maximum(x * row + column, number)
    z = np.where(unit > 0, y, 0)
    for make in (build.numpy_kernel(chain, shared), build.numba_kernel(chain, shared, False)):
        assert make is not None
        arrays = [x.copy(), row, column, number, unit.copy()]
        results = [np.empty_like(x), np.empty_like(x), np.empty(columns)]
        for k, j in shared:
            results[k] = arrays[j]
        options = {} if make is build.numba_kernel(chain, shared, False) else {"rows": 8}
        if options and rows > 8:
            options["rows"] = rows  # a sum over rows is not cut
        make(*arrays, *results, **options)
        np.testing.assert_array_equal(results[0], y)
        np.testing.assert_array_equal(results[1], z)
        np.testing.assert_allclose(results[2], z.sum(0), rtol=1e-12, atol=1e-12)


def test_formulas_that_are_no_chains() -> None:
    full = Operand("full", "float64")
    for formula in (lambda x: (x.sum(),), lambda x: (np.sum(x),), lambda x: (np.add.reduce(x),), lambda x: (x + np.ones(3),)):
        with pytest.raises((NotElementwise, AttributeError)):
            Chain.of(formula, [full])
    with pytest.raises(NotElementwise):
        Chain.of(lambda x: (np.asarray(x) + 1,), [full])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(rng=generators(), m=st.integers(1, 12), k=st.integers(1, 70))
def test_cross_entropy(dtype: Any, rng: np.random.Generator, m: int, k: int) -> None:
    """Loss and gradient against the formula in float64; by NumPy and by Numba."""
    z = (10 * rng.normal(size=(m, k))).astype(dtype)
    t, g = rng.integers(0, k, m), np.asarray(1.7, dtype)
    wide = z.astype(np.float64)
    p = np.exp(wide - wide.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    shifted = wide - wide.max(1, keepdims=True)
    expected = (np.log(np.exp(shifted).sum(1)) - shifted[np.arange(m), t]).sum() / (m + 1)
    slope = 1.7 * (p - np.eye(k)[t]) / (m + 1)
    eps = np.finfo(dtype).eps
    for kernel in (reference.softmax_cross_entropy, build.cross_entropy_kernel(np.dtype(dtype), t.dtype, 2)):
        loss, dz = np.empty((), dtype), np.empty_like(z)
        kernel(z, t, g, m + 1, loss, dz)
        np.testing.assert_allclose(loss, expected, rtol=50 * eps, atol=50 * eps)
        np.testing.assert_allclose(dz, slope, rtol=100 * eps, atol=20 * eps)
        with pytest.raises(LabelError, match=f"softmax_cross_entropy: label {k} is out of range, expected 0 to {k - 1}"):
            kernel(z, np.full(m, k), g, m, loss, dz)
    y, d = np.empty_like(z), np.empty_like(z)
    fast.log_softmax(z, y)
    np.testing.assert_allclose(y, np.log(np.maximum(p, 1e-300)), rtol=1e-3 if dtype == np.float32 else 1e-9, atol=60 * eps)
    fast.cross_entropy_grad(y, t, dtype(0.5), d)
    np.testing.assert_allclose(d, 0.5 * (p - np.eye(k)[t]), rtol=100 * eps, atol=20 * eps)


@numba.njit(error_model="numpy")
def exponentials(x: Any, y: Any) -> None:
    for i in range(x.size):
        y[i] = fast.exp_of_negative(x[i])


@given(rng=generators(), dtype=st.sampled_from([np.float32, np.float64]), size=st.integers(1, 40))
def test_exp_of_negative(rng: np.random.Generator, dtype: Any, size: int) -> None:
    """Within 1.25 units in the last place of e^x, whole vectors and what is left of them alike."""
    lowest = np.log(np.finfo(dtype).tiny)
    x = np.concatenate([-rng.exponential(1, size), rng.uniform(lowest, 0, size), [0.0, -0.0, lowest * (1 - 1e-6)]]).astype(
        dtype
    )
    y = np.empty_like(x)
    exponentials(x, y)
    exact = np.array([math.exp(v) for v in x])  # the C library's, in float64: itself within 0.5 and a little
    units = np.abs(y - exact) / np.spacing(exact.astype(dtype))
    assert units.max() <= (1.25 if dtype == np.float32 else 1.8), (x[units.argmax()], units.max())
    far = np.array([-np.inf, np.nan, -1e30, lowest * (1 + 1e-5), lowest * 2], dtype)
    y = np.empty_like(far)
    exponentials(far, y)
    np.testing.assert_array_equal(y, [0, np.nan, 0, 0, 0])
    np.testing.assert_allclose(fast.exp_of_negative(x), exact, rtol=4 * np.finfo(dtype).eps)  # where Numba does not compile it


def test_cross_entropy_of_what_is_not_finite() -> None:
    """A NaN makes its own row NaN, and the loss; other rows keep their gradient. -inf is a class that cannot be."""
    z = np.array([[0.0, 1.0, -np.inf], [np.nan, 0.0, 0.0], [2.0, 2.0, 2.0]])
    t, one = np.array([1, 0, 2]), np.ones(())
    outs = []
    for kernel in (reference.softmax_cross_entropy, build.cross_entropy_kernel(z.dtype, t.dtype, 3)):
        loss, dz = np.empty(()), np.empty_like(z)
        kernel(z, t, one, 3, loss, dz)
        assert np.isnan(loss)
        outs.append(dz)
    np.testing.assert_allclose(outs[1], outs[0], rtol=1e-14)
    assert np.isnan(outs[0][1]).all()
    assert np.isfinite(outs[0][[0, 2]]).all()


@given(
    rng=generators(),
    shape=hnp.array_shapes(min_dims=0, max_dims=3, max_side=5),
    dtype=st.sampled_from(["f", "d", "e"]),
    turned=st.booleans(),
)
def test_kernels_that_rules_ask_for(rng: np.random.Generator, shape: Any, dtype: str, turned: bool) -> None:
    """relu and relu_grad of any shape, dtype and order of axes; large ones too, where the threshold is lowered to nothing."""
    x, unit = drawn(rng, shape, dtype), drawn(rng, shape, dtype)
    x, unit = (x.T, unit.T) if turned else (x, unit)
    with pytest.MonkeyPatch.context() as patch, np.errstate(all="ignore"):
        patch.setattr(thresholds, "KERNEL", 0)
        np.testing.assert_array_equal(common.relu(x), np.maximum(x, 0))
        np.testing.assert_array_equal(common.relu_grad(x, unit), np.where(unit > 0, x, 0))
        if x.ndim == 2:
            b = drawn(rng, x.shape[1:], dtype)
            np.testing.assert_array_equal(common.add_row(x.copy(), b), x + b)


def test_large_kernels_in_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thresholds, "CHAIN_THREADS", 100)
    monkeypatch.setattr(thresholds, "KERNEL", 0)
    before = tensorgrad.get_num_threads()
    x = np.random.default_rng(0).normal(size=(501, 7)).astype(np.float32)
    try:
        for n in (1, 2, 5):
            tensorgrad.set_num_threads(n)
            np.testing.assert_array_equal(common.relu(x), np.maximum(x, 0))
    finally:
        tensorgrad.set_num_threads(before)


def test_threads() -> None:
    """Every part once, in threads of its own; parts of parts stay in theirs; an error comes out after all have ended."""
    seen: list[tuple[int, int, str]] = []

    def work(start: int, stop: int) -> None:
        def inner(a: int, b: int) -> None:
            seen.append((start + a, start + b, threading.current_thread().name))

        threads.in_threads(inner, stop - start, 3)

    threads.in_threads(work, 10, 3)
    assert sorted((a, b) for a, b, _ in seen) == [(0, 3), (3, 6), (6, 10)]
    assert sum("tensorgrad" in name for *_, name in seen) == 2
    ended: list[int] = []

    def failing(start: int, stop: int) -> None:
        ended.append(start)
        if start:
            raise ValueError("the second part")

    with pytest.raises(ValueError, match="the second part"):
        threads.in_threads(failing, 10, 2)
    assert sorted(ended) == [0, 5]


def test_set_num_threads_is_heard_by_blas() -> None:
    threadpoolctl = pytest.importorskip("threadpoolctl")
    before = tensorgrad.get_num_threads()
    tensorgrad.set_num_threads(1)
    pytest.importorskip("scipy.linalg")  # which has a BLAS of its own

    def blas() -> set[int]:
        return {i["num_threads"] for i in threadpoolctl.threadpool_info() if i["user_api"] == "blas"}

    try:
        tensorgrad.set_num_threads(1)
        assert (tensorgrad.get_num_threads(), blas()) == (1, {1})
        with threads.single_threaded_blas():
            assert blas() == {1}
        tensorgrad.set_num_threads(2)
        assert blas() == {2}
    finally:
        tensorgrad.set_num_threads(before)
    for wrong in (0, -1, 1.5, True, "2"):
        with pytest.raises(ValueError, match="set_num_threads: expected a whole number above 0, of at most 1024, got"):
            tensorgrad.set_num_threads(wrong)  # type: ignore[arg-type]


def test_memory_is_used_again_only_when_nobody_has_it() -> None:
    """Of three arrays in turn, those that are still seen, through a view too, keep their values."""
    shape = (POOLED // 4, 1)
    first, second = (new(shape, np.dtype(np.float32)) for _ in range(2))
    first[...], second[...] = 1, 2
    view = second[5:7].T
    address = first.__array_interface__["data"][0]
    del first, second
    third = new(shape, np.dtype(np.float32))
    fourth = new(shape, np.dtype(np.float32))
    fourth[...] = third[...] = 3
    assert address in (third.__array_interface__["data"][0], fourth.__array_interface__["data"][0])
    assert (view == 2).all()
    assert not np.may_share_memory(third, fourth)
    assert third.__array_interface__["data"][0] % 64 == 0


def test_numba_is_imported_by_the_first_kernel_only() -> None:
    code = (
        "import sys, numpy as np, tensorgrad, tensorgrad.nn, tensorgrad.optim; assert 'numba' not in sys.modules;"
        "t = tensorgrad.Tensor(np.ones((200, 200)), True); tensorgrad.relu(t).sum().backward(); assert 'numba' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_kernels_are_kept_on_disk(tmp_path: Any) -> None:
    """The first process compiles, the next one reads what it has left; a file that was cut off is written again."""
    code = (
        "from tensorgrad.kernels import build; from tensorgrad.kernels.chain import *; import numpy as np;"
        "c = Chain.of(lambda x: (x * 2 + 1,), [Operand('full', 'float32')]);"
        "k = build.numba_kernel(c, (), True); x = np.ones(3, np.float32); k(x, x); assert (x == 3).all();"
        "print(sum(k.stats.cache_hits.values()), sum(k.stats.cache_misses.values()))"
    )
    env = {"TENSORGRAD_CACHE": str(tmp_path / "kernels"), "PATH": "/usr/bin"}
    run = lambda: subprocess.run([sys.executable, "-c", code], check=True, env=env, capture_output=True, text=True).stdout  # noqa: E731
    assert run() == "0 1\n"
    assert run() == "1 0\n"
    (source,) = (tmp_path / "kernels").glob("chain_*.py")
    source.write_text(source.read_text()[:40])
    assert run().split()[1] in ("0", "1")
    assert len(source.read_text()) > 40

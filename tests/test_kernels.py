"""Every kernel against NumPy's own functions, or its formula written out: drawn shapes and layouts, NaN and infinities."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import tensorgrad
from tensorgrad import Tensor, ops
from tensorgrad.core.memory import POOLED, new
from tensorgrad.errors import LabelError
from tensorgrad.kernels import build, common, generate, native, reference, threads, thresholds
from tensorgrad.kernels import windows as windows_kernels
from tensorgrad.kernels.chain import Chain, NotElementwise, Operand, Ref, Step
from tensorgrad.ops import activation, fold, index, statistics, windows
from tensorgrad.ops.windows import sample_windows
from tests.compiled import kernels, lowered
from tests.strategies import generators

numba = pytest.importorskip("numba", reason="needs Numba: pip install numba")
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
        kernel(z, t, g, m + 1, loss, dz.reshape(-1))
        np.testing.assert_allclose(loss, expected, rtol=50 * eps, atol=50 * eps)
        np.testing.assert_allclose(dz, slope, rtol=100 * eps, atol=20 * eps)
        with pytest.raises(LabelError, match=f"softmax_cross_entropy: label {k} is out of range, expected 0 to {k - 1}"):
            kernel(z, np.full(m, k), g, m, loss, dz.reshape(-1))
    y, d = np.empty_like(z), np.empty_like(z)
    softmax, slopes = build.log_softmax_kernel(z.dtype), build.cross_entropy_grad_kernel(z.dtype, t.dtype)
    assert softmax
    assert slopes
    softmax(z, y)
    np.testing.assert_allclose(y, np.log(np.maximum(p, 1e-300)), rtol=1e-3 if dtype == np.float32 else 1e-9, atol=60 * eps)
    slopes(y.reshape(-1), t, np.asarray(0.5, dtype), d.reshape(-1))
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
        kernel(z, t, one, 3, loss, dz.reshape(-1))
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
    at_once = threading.Barrier(3)

    def work(start: int, stop: int) -> None:
        at_once.wait(20)

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
    threadpoolctl = pytest.importorskip("threadpoolctl", reason="needs threadpoolctl: pip install threadpoolctl")
    before = tensorgrad.get_num_threads()
    tensorgrad.set_num_threads(1)
    pytest.importorskip("scipy.linalg", reason="needs SciPy: pip install scipy")  # which has a BLAS of its own

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
        with pytest.raises(ValueError, match="set_num_threads: expected a positive integer, of at most 1024, got"):
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


def test_numba_is_imported_where_there_is_something_to_compile(tmp_path: Path) -> None:
    """Never by the package alone, and not for kernels that another process has compiled."""
    code = (
        "import sys, numpy as np, tensorgrad, tensorgrad.nn, tensorgrad.optim; assert 'numba' not in sys.modules;"
        "t = tensorgrad.Tensor(np.ones((200, 200)), True); tensorgrad.relu(t).sum().backward(); print('numba' in sys.modules)"
    )
    environment = {**os.environ, "TENSORGRAD_CACHE": str(tmp_path / "cache")}
    run = [subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True) for _ in range(2)]
    assert [one.stdout for one in run] == ["True\n", f"{native.machine() is None}\n"], run


# exp of what is never above 0, and formulas of many steps

DECAYS: dict[str, tuple[Any, bool]] = {
    "e^(-x²)": (lambda a, b: np.exp(-np.square(a)), True),
    "e^(-x x)": (lambda a, b: np.exp(-(a * a)), True),
    "e^(-x²/2)": (lambda a, b: np.exp(-0.5 * (a * a)), True),
    "e^(-|x|/2)": (lambda a, b: np.exp(np.absolute(a) / -2), True),
    "e^(-x² - y²)": (lambda a, b: np.exp(-np.square(a) + -np.square(b)), True),
    "e^min(x, 0)": (lambda a, b: np.exp(np.minimum(a, 0.0)), True),
    "e^(-√(e^x))": (lambda a, b: np.exp(-np.sqrt(np.exp(a))), True),
    "e^(-x)": (lambda a, b: np.exp(-a), False),
    "e^(-x y)": (lambda a, b: np.exp(-(a * b)), False),
    "e^(x²)": (lambda a, b: np.exp(np.square(a)), False),
    "e^(y² - x²)": (lambda a, b: np.exp(np.square(b) - np.square(a)), False),
    "e^min(x, 1)": (lambda a, b: np.exp(np.minimum(a, 1.0)), False),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", DECAYS)
@given(rng=generators())
def test_exp_in_a_chain(name: str, dtype: str, rng: np.random.Generator) -> None:
    """Within 3 units of NumPy's; where the formula tells that it is of nothing above 0, subnormal results are 0."""
    formula, decays = DECAYS[name]
    full = Operand("full", dtype)
    chain = Chain.of(lambda a, b: (formula(a, b),), [full, full])
    assert (len(chain.steps) - 1 in generate.decaying(chain)) == decays
    kernel = build.numba_kernel(chain, (), True)
    assert kernel is not None
    a, b = (drawn(rng, (200,), dtype) * 5 for _ in range(2))
    y = np.empty_like(a)
    kernel(a, b, y)
    info = np.finfo(dtype)
    with np.errstate(all="ignore"):
        expected = formula(a, b)
    if decays:
        expected[np.abs(expected) < info.tiny] = 0
        y[np.abs(y) < 2 * info.tiny] = np.where(expected < 2 * info.tiny, expected, y)[np.abs(y) < 2 * info.tiny]
    np.testing.assert_array_equal(y[~np.isfinite(expected)], expected[~np.isfinite(expected)])
    y, expected = y[np.isfinite(expected)], expected[np.isfinite(expected)]
    units: Any = 3
    if name == "e^(-√(e^x))":  # what is in the exponent within a unit makes the whole off by as many as the exponent says
        units = 3 + 2 * np.abs(np.log(np.maximum(expected, info.tiny)))  # 3 of e^x, halved, and one of the root
    assert (np.abs(y - expected) <= units * info.eps * expected + (0 if decays else 2 * info.smallest_subnormal)).all()


def softplus(x: float) -> float:
    """log(1 + e^x), in float64."""
    return x + math.log1p(math.exp(-x)) if x > 0 else math.log1p(math.exp(max(x, -1000.0)))


ARITHMETIC: dict[
    str, tuple[Step, Any, float]
] = {  # a step, what it is in float64, units in the last place that it may be off by
    "exp": (Step("exp", (Ref(0),), ""), lambda x: math.inf if x > 709.7 else math.exp(x), 2),
    "tanh": (Step("tanh", (Ref(0),), ""), math.tanh, 4),
    "erf": (Step("erf", (Ref(0),), ""), math.erf, 4),
    "softplus": (Step("logaddexp", (Ref(0), 0.0), ""), softplus, 3),
    "power 1": (Step("power", (Ref(0), 1.0), ""), lambda x: x, 0),
    "power 2": (Step("power", (Ref(0), 2), ""), lambda x: x * x, 1),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ARITHMETIC)
@given(rng=generators(), size=st.integers(1, 40))
def test_functions_in_arithmetic(name: str, dtype: str, rng: np.random.Generator, size: int) -> None:
    """Against the C library in float64, by loop and by NumPy's calls: near 0, far out, at both ends of the exponents."""
    step, exact, units = ARITHMETIC[name]
    chain = Chain((Operand("full", dtype),), (step._replace(dtype=dtype, quiet=("over", "invalid")),), ((1, "full"),))
    kernel = build.numba_kernel(chain, (), True)
    assert kernel is not None
    ends = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-30, 0.75, -0.5, 87.0, -87.5, -100.0, -104.0, 88.5, 709.0, -720.0, -760.0]
    scales = rng.choice([1e-3, 0.3, 1, 10, 100], size)
    x = np.concatenate([ends, rng.normal(size=size) * scales]).astype(dtype)
    info = np.finfo(dtype)
    with np.errstate(all="ignore"):
        expected = np.array([exact(float(v)) for v in x], np.float64)
        rounded = expected.astype(dtype)
        by_calls, by_loop = np.empty_like(x), np.empty_like(x)
        build.numpy_kernel(chain, ())(x, by_calls, rows=7)
    kernel(x, by_loop)
    for found in (by_loop, by_calls):
        is_finite = np.isfinite(rounded)
        np.testing.assert_array_equal(found[~is_finite], rounded[~is_finite])
        off = np.abs(found[is_finite].astype(np.float64) - expected[is_finite])
        allowed = units * np.abs(np.spacing(rounded[is_finite])) + info.smallest_subnormal
        assert (off <= allowed).all(), (x[is_finite][np.argmax(off / allowed)], (off / allowed).max())


@pytest.mark.parametrize("numba", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_erf_on_both_sides_of_the_threshold(dtype: Any, numba: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not numba:
        monkeypatch.setattr(build, "numba_kernel", lambda *_: None)
        common.one_step.cache_clear()
    rng = np.random.default_rng(0)
    for size in (thresholds.KERNEL - 1, thresholds.KERNEL, thresholds.KERNEL + 5):
        x = drawn(rng, (size,), dtype)
        exact = np.array([math.erf(v) for v in x])
        np.testing.assert_allclose(common.erf(x), exact, rtol=4 * np.finfo(dtype).eps)
    common.one_step.cache_clear()


@settings(max_examples=300)
@given(
    rng=generators(),
    size=st.sampled_from([0, 1, 7, 8, 9, 50, thresholds.BLAS, thresholds.BLAS + 1]),
    dtype=st.sampled_from(["float16", "float32", "float64", "int64", "longdouble"]),
    scale=st.sampled_from([1.0, 1e-30, 1e30, 1e200]),
    at=st.sampled_from([8, thresholds.BLAS]),
)
def test_whether_all_are_finite(rng: np.random.Generator, size: int, dtype: str, scale: float, at: int) -> None:
    """On both sides of the threshold, as shipped and lowered, in any layout; squares that overflow say nothing, and warn of
    nothing."""
    with np.errstate(all="ignore"):
        x = (rng.normal(size=(size, 2)) * (1 if dtype == "int64" else scale)).astype(dtype)
    if size and dtype != "int64" and rng.random() < 0.5:
        x[rng.integers(size), rng.integers(2)] = rng.choice([np.inf, -np.inf, np.nan])
    with lowered(BLAS=at), np.errstate(all="raise"):
        for a in (x, x[:, 0], x.T, x[::-1], x[:, 0].copy(), x.reshape(-1)):
            assert reference.is_finite(a) is bool(np.isfinite(a).all())


@settings(max_examples=300)
@given(rng=generators(), length=st.integers(1, 12))
def test_signs_that_formulas_tell(rng: np.random.Generator, length: int) -> None:
    """Of chains at random, with numbers of both signs, 0 and -0.0: what is said to be never above 0 is not."""
    unary = ["square", "absolute", "sqrt", "exp", "negative", "reciprocal", "positive"]
    binary = ["add", "subtract", "multiply", "divide", "maximum", "minimum", "mul_grad", "div_grad"]
    steps: list[Step] = []
    values = [rng.choice([-3.0, -0.5, -0.0, 0.0, 0.25, 2.0, np.inf, -np.inf], 64) for _ in range(2)]
    with np.errstate(all="ignore"):
        for _ in range(length):
            likely = unary[:5] if rng.random() < 0.7 else unary
            function = str(rng.choice(likely if rng.random() < 0.6 else binary))
            last = len(values) - 1
            inputs: list[Any] = [Ref(last if rng.random() < 0.6 else int(rng.integers(len(values))))]
            if function in binary:
                number = float(rng.choice([-2.0, -0.0, 0.0, 0.5]))
                inputs.append(number if rng.random() < 0.5 else Ref(int(rng.integers(len(values)))))
                inputs = inputs[::-1] if rng.random() < 0.3 else inputs
            steps.append(Step(function, tuple(inputs), "float64"))
            oracle = ORACLES.get(function) or getattr(np, function)
            values.append(oracle(*[values[i.register] if isinstance(i, Ref) else i for i in inputs]))
    for register, value in enumerate(values):  # what is said of the exp of each of them
        chain = Chain((Operand("full", "float64"),) * 2, (*steps, Step("exp", (Ref(register),), "float64")), ((0, "full"),))
        if len(steps) in generate.decaying(chain):
            assert not (value > 0).any()


@pytest.mark.parametrize("numba", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["gelu", "gelu_tanh"])
def test_long_formulas_in_one_pass(name: str, dtype: Any, numba: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above and below the size from which a kernel is asked for, contiguous or not, NaN and infinities among the numbers."""
    if not numba:
        monkeypatch.setattr(build, "numba_kernel", lambda *_: None)
        common.formula_kernel.cache_clear()
    formula = {"gelu": activation.gelu_of, "gelu_tanh": activation.gelu_by_tanh}[name]
    rng = np.random.default_rng(0)
    for shape in ((thresholds.KERNEL - 1,), (thresholds.KERNEL,), (3, thresholds.KERNEL // 2 + 1), ()):
        x = drawn(rng, (2, *shape), dtype)
        for part in (x[0], x[:, ...].T[..., 0] if len(shape) < 2 else x[0].T):
            found = common.computed(formula, part)
            assert found.dtype == dtype
            assert found.shape == part.shape
            with np.errstate(all="ignore"):
                np.testing.assert_allclose(found, formula(part), rtol=0, atol=8 * np.finfo(dtype).eps)
    common.formula_kernel.cache_clear()


# Windows, and the first of the largest


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@settings(max_examples=60)
@given(rng=generators(), lying=st.sampled_from(["C", "F", "turned"]))
def test_windows_and_what_puts_them_back(dtype: Any, rng: np.random.Generator, lying: str) -> None:
    """Bit for bit as NumPy does it: one axis or two, strides, padding, dilation, windows wider than the image."""
    attrs, size = sample_windows(rng)
    x = rng.normal(size=(*rng.integers(1, 4, 2), *size)).astype(dtype)
    x = {"C": x, "F": np.asfortranarray(x), "turned": x[::-1].swapaxes(0, 1).copy().swapaxes(0, 1)[::-1]}[lying]
    found = {}
    for least in (1, 10**9):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(thresholds, "KERNEL", least)
            y = windows(x, **attrs)
            back = fold(y, size, *[attrs[name] for name in ("stride", "padding", "dilation")])
        found[least] = y, back
    for a, b in zip(found[1], found[10**9], strict=True):
        assert a.dtype == b.dtype == dtype
        np.testing.assert_array_equal(a, b)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(thresholds, "KERNEL", 1)
        assert (windows_kernels.kernel_of("windows", x, x.size, len(size)) is None) == (len(size) == 3)


@given(rng=generators(), kind=st.sampled_from("fdeilB?"), axis=st.integers(0, 2), which=st.sampled_from(["argmax", "argmin"]))
def test_the_first_of_the_largest(rng: np.random.Generator, kind: str, axis: int, which: str) -> None:
    """By whole rows as by argmax: ties, NaN, infinities, booleans."""
    shape = [int(n) for n in rng.integers(1, 5, 3)]
    x = rng.choice([0.0, 1.0, 2.0, np.nan, np.inf, -np.inf] if kind in "fde" else [0, 1, 2], shape).astype(kind)
    expected = np.arange(shape[axis]).reshape([-1 if i == axis else 1 for i in range(3)]) == np.expand_dims(
        getattr(np, which)(x, axis=axis), axis
    )
    np.testing.assert_array_equal(statistics.first_along(x, axis, which), expected)
    for least in (0.01, 10**9):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(thresholds, "FIRST", least)
            np.testing.assert_array_equal(statistics.first_of(x, axis=axis, which=which), expected)


# Attention's softmax, and rows added to a table


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(rng=generators(), queries=st.integers(1, 9), keys=st.integers(1, 20), start=st.integers(0, 4), causal=st.booleans())
def test_softmax_of_seen(rng: np.random.Generator, dtype: Any, queries: int, keys: int, start: int, causal: bool) -> None:
    z, eps = rng.normal(size=(3, queries, keys)).astype(dtype) * dtype(5), np.finfo(dtype).eps
    seen = np.tri(queries, keys, start, dtype=bool) if causal else np.ones((queries, keys), bool)
    with np.errstate(under="ignore"):
        wide = np.where(seen, z.astype(np.float64), -np.inf)
        p = np.exp(wide - wide.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
    z[1, -1, 0] = np.nan  # a row of its own
    fast.softmax_of_seen(z.reshape(-1, keys), start, queries, causal)
    assert np.isnan(z[1, -1][seen[-1]]).all()
    z[1, -1] = p[1, -1]
    np.testing.assert_allclose(z, p, rtol=20 * eps, atol=np.finfo(dtype).tiny)
    assert not z[..., ~seen].any()
    g = rng.normal(size=z.shape).astype(dtype)
    slope = g.copy()
    fast.softmax_grad(z.reshape(-1, keys), slope.reshape(-1, keys))
    np.testing.assert_allclose(slope, p * (g - (p * g).sum(-1, keepdims=True)), atol=40 * eps)


@pytest.mark.parametrize("numba", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@given(rng=generators(), columns=st.integers(1, 5), threshold=st.sampled_from([0, 10, thresholds.ADD_ROWS]))
@settings(max_examples=20)
def test_rows_added_to_a_table(numba: bool, dtype: Any, rng: np.random.Generator, columns: int, threshold: int) -> None:
    """The same bits as one after the other, whichever way it is done."""
    y, t = rng.normal(size=(7, columns)).astype(dtype), rng.integers(-7, 7, (3, 4))
    x = rng.normal(size=(3, 4, columns)).astype(dtype)
    expected = y.copy()
    for row, add in zip(t.reshape(-1), x.reshape(-1, columns), strict=True):
        expected[row] += add
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(thresholds, "ADD_ROWS", threshold)
        if not numba:
            patch.setattr(common, "add_rows_kernel", lambda _: None)
        index.add_at(y, t, x)
        np.testing.assert_array_equal(y, expected)
        for outside in (np.array(7), np.array(-8), np.array(2**63 - 1), np.array(200, np.uint8)):
            t = np.arange(12).astype(outside.dtype).reshape(3, 4) % 7
            t[2, 3] = outside
            with pytest.raises(IndexError, match="is out of bounds for axis 0 with size 7"):
                index.add_at(y, t, x)


@pytest.mark.parametrize("has_numba", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["gelu", "gelu by tanh", "silu", "softplus", "logsigmoid"])
def test_rules_in_one_pass(name: str, dtype: Any, has_numba: bool) -> None:
    """The kernel that is made of a rule gives what the rule gives in NumPy, far out and for what is not finite, too."""
    op: Any = getattr(ops, name.split()[0])
    attrs = {"approximate": "tanh" if "tanh" in name else "none"} if "gelu" in name else {}
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(0, s, 20) for s in (0.1, 1, 10, 1e3, 1e20)] + [[0.0, -0.0, np.inf, -np.inf, np.nan]])
    g = rng.normal(size=x.shape)
    g[::7] = 0
    x, g = x.astype(dtype).reshape(5, 21), g.astype(dtype).reshape(5, 21)

    def gradient() -> Any:
        with np.errstate(invalid="ignore"):  # logaddexp of an infinity
            return tensorgrad.grad(op(t := Tensor(x, True), **attrs), [t], Tensor(g))[0].data

    with lowered(KERNEL=1e99):
        expected = gradient()
    with kernels(has_numba), lowered(KERNEL=0):
        found = gradient()
    eps = float(np.finfo(dtype).eps)
    np.testing.assert_allclose(found, expected, rtol=64 * eps, atol=64 * eps)  # e^x in single steps near 1
    assert not found[(g == 0) & ~np.isnan(x)].any()

"""D: a replay computes by the formula of the step: every elementwise function and every reduction against NumPy's."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest

import tensorgrad as tg
from tensorgrad import Tensor, ops
from tensorgrad.nn import functional as F
from tensorgrad.ops import activation
from tests.compiled import KERNELS, as_tensors, assert_close, kernels, lowered

FLOATS = ["float16", "float32", "float64"]
SPECIAL = [0.0, -0.0, 1.0, -1.0, 0.5, -2.25, 3.0, np.nan, np.inf, -np.inf, 1e-7, 6e4]
VALUES: dict[str, np.ndarray] = {
    "bool": np.array([True, False, True]),
    "int8": np.array([-128, -3, 0, 1, 2, 127], "int8"),
    "int32": np.array([-(2**31), -7, -1, 0, 1, 3, 2**30, 2**31 - 1], "int32"),
    "int64": np.array([-(2**63), -7, 0, 1, 3, 2**40], "int64"),
    "uint8": np.array([0, 1, 3, 200, 255], "uint8"),
    "float16": np.array(SPECIAL, "float16"),
    "float32": np.array([*SPECIAL, 3e38, -1e-40], "float32"),
    "float64": np.array([*SPECIAL, 1e308, -5e-324]),
}
EXACT = """absolute add ceil divide equal floor floor_divide greater greater_equal isfinite isnan less less_equal logical_not
maximum minimum multiply negative not_equal remainder sign sqrt square subtract trunc"""
CLOSE = "arccos arcsin arctan cos cosh exp expm1 log log1p log2 power sin sinh tan tanh"  # to 4 units in the last place
FLOATING = ("reciprocal", "rint")  # integers are taken to floats, unlike NumPy's
SELECTING = ("maximum", "minimum")  # of 0 and -0 NumPy itself gives now the one, now the other


def pairs(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every value with every other one."""
    return tuple(np.array(list(column), v.dtype) for column, v in zip(zip(*product(a, b), strict=True), (a, b), strict=True))


def assert_same(found: Any, expected: Any, what: str, exact: bool, signs: bool = True) -> None:
    """Dtypes, NaN, infinities and signs of zeros, too."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape), what
    if exact or expected.dtype.kind != "f":
        np.testing.assert_array_equal(found, expected, what)
    else:
        finite = np.isfinite(expected)
        np.testing.assert_array_equal(np.where(finite, 0, found), np.where(finite, 0, expected), what)
        unit = np.spacing(np.abs(np.where(finite, expected, 1)).astype(expected.dtype)).astype("float64")
        error = np.abs(np.where(finite, found, 0).astype("float64") - np.where(finite, expected, 0))
        assert (error <= 4 * unit).all(), f"{what}: {error.max()}"
    if signs and expected.dtype.kind == "f":
        zero = expected == 0
        np.testing.assert_array_equal(np.signbit(found[zero]), np.signbit(expected[zero]), f"{what}: signs of zeros")


def replayed(formula: Callable[..., Any], *args: Any) -> Any:
    """What the third and the fourth call give."""
    compiled = tg.compile(formula)
    with np.errstate(all="ignore"):
        results = [compiled(*args) for _ in range(4)]
    return results[3]


def outcome(call: Callable[[], Any]) -> Any:
    """The result, or the kind of error."""
    with np.errstate(all="ignore"):
        try:
            return call()
        except (TypeError, ValueError) as error:
            return type(error)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, d) for name in [*EXACT.split(), *CLOSE.split(), *FLOATING] for d in (FLOATS if name in FLOATING else VALUES)],
)
def test_functions(name: str, dtype: str) -> None:
    """NumPy's own values, of special and of ordinary numbers, alone and inside of a chain; real ones of 8 bits in float32."""
    function = getattr(np, name)
    args = (VALUES[dtype],) if function.nin == 1 else pairs(VALUES[dtype], VALUES[dtype])
    expected = outcome(lambda: function(*args))
    if np.asarray(expected).dtype == np.float16 != args[0].dtype:
        expected = outcome(lambda: function(*[a.astype(np.float32) for a in args]))
    if isinstance(expected, type):
        with pytest.raises((TypeError, ValueError)):
            replayed(function, *args)
        return
    exact, signs = name not in CLOSE.split(), name not in SELECTING
    assert_same(replayed(function, *args).numpy(), expected, name, exact, signs)
    around = replayed(lambda *args: (function(*args) * 1, args[0] * 1 == args[0], function(*args)), *args)
    with np.errstate(all="ignore"):
        assert_same(around[0].numpy(), expected * 1, f"{name} in a chain", exact, signs)
    assert_same(around[2].numpy(), expected, f"{name} in a chain", exact, signs)


CHEAP = """absolute add divide equal greater greater_equal less less_equal maximum minimum multiply negative not_equal
reciprocal sqrt square subtract"""  # what Numba's loops have


@KERNELS
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_functions_in_one_chain(dtype: str, numba: bool) -> None:
    a, b = pairs(VALUES[dtype], VALUES[dtype])

    def every(a: Any, b: Any) -> Any:
        found = {n: getattr(np, n)(*(a, b)[: getattr(np, n).nin]) for n in CHEAP.split()}
        return {**found, "where": np.where(a > b, a, b), "relu": np.maximum(a, 0), "number": (a * 2 + 0.5) / 3 - b}

    with kernels(numba), np.errstate(all="ignore"):
        expected = every(a, b)
        for name, found in replayed(every, a, b).items():
            signs = name not in (*SELECTING, "relu")
            assert_same(found.numpy(), expected[name], name, True, signs)


PAIRS = [(a, b) for a in VALUES for b in VALUES if a != b]


@pytest.mark.parametrize(("a", "b"), PAIRS, ids=[f"{a} and {b}" for a, b in PAIRS])
def test_two_dtypes(a: str, b: str) -> None:
    """NumPy's promotion."""
    x, y = pairs(VALUES[a][:6], VALUES[b][:6])
    names = "add subtract multiply divide maximum minimum less equal floor_divide"
    formulas: dict[str, Callable[[Any, Any], Any]] = {n: getattr(np, n) for n in names.split()}
    formulas["where"] = lambda x, y: np.where(x > 0, x, y)
    formulas["chain"] = lambda x, y: (x * y + x) * y
    with np.errstate(all="ignore"):
        kept = {n: f for n, f in formulas.items() if not isinstance(outcome(lambda f=f: f(x, y)), type)}  # type: ignore[misc]
        found = replayed(lambda x, y: {n: f(x, y) for n, f in kept.items()}, x, y)
        for n, f in kept.items():
            assert_same(found[n].numpy(), f(x, y), n, True, n not in SELECTING)


NUMBERS: dict[str, Callable[[Any], Any]] = {
    "x + 1": lambda x: x + 1,
    "x - 3": lambda x: x - 3,
    "3 - x": lambda x: 3 - x,
    "x * 2": lambda x: x * 2,
    "x * 2.5": lambda x: x * 2.5,
    "x / 3": lambda x: x / 3,
    "1 / x": lambda x: 1 / x,
    "x // 2": lambda x: x // 2,
    "x % 3": lambda x: x % 3,
    "x ** 2": lambda x: np.power(x, 2),
    "x ** 3": lambda x: np.power(x, 3),
    "x ** 0.5": lambda x: np.power(x, 0.5),
    "x ** 0": lambda x: np.power(x, 0),
    "x > 1": lambda x: x > 1,
    "x * True": lambda x: x * True,
    "max(x, 0)": lambda x: np.maximum(x, 0),
    "where": lambda x: np.where(x > 0, x, 0),
    "clip": lambda x: np.clip(x, 0, 2),
    "all of it": lambda x: (x * 3 + 2) * x - 1,
}


@pytest.mark.parametrize("dtype", VALUES)
@pytest.mark.parametrize("name", NUMBERS)
def test_with_python_numbers(name: str, dtype: str) -> None:
    formula, x = NUMBERS[name], VALUES[dtype]
    expected = outcome(lambda: formula(x))
    if isinstance(expected, type):
        with pytest.raises((TypeError, ValueError)):
            replayed(formula, x)
        return
    if (name, dtype) == (
        "x ** 0.5",
        "float16",
    ):  # of -inf NumPy has NaN in float32, in which it is computed here, inf in float16
        expected = outcome(lambda: formula(x.astype(np.float32)).astype(np.float16))
    assert_same(replayed(formula, x).numpy(), expected, name, "0.5" not in name, name not in ("max(x, 0)", "clip"))


# Booleans, with which Numba and C calculate otherwise

LOGIC: dict[str, Callable[[Any, Any, Any], Any]] = {  # of p = x > 0, q = x < 2
    "p + q": lambda p, q, x: p + q,
    "p + q + p": lambda p, q, x: p + q + p,
    "p * q": lambda p, q, x: p * q,
    "p / q": lambda p, q, x: p / q,
    "p + 1": lambda p, q, x: p + 1,
    "p * 2.5": lambda p, q, x: p * 2.5,
    "(p + q) * 1": lambda p, q, x: (p + q) * 1,
    "1 - (p + q)": lambda p, q, x: 1 - (p + q),
    "x * (p + q)": lambda p, q, x: x * (p + q),
    "x + (p + q)": lambda p, q, x: x + (p + q),
    "x / (p + q)": lambda p, q, x: x / (p + q),
    "max": lambda p, q, x: np.maximum(p, q) * x,
    "min": lambda p, q, x: np.minimum(p, q) * x,
    "p < q": lambda p, q, x: (p < q) * x,
    "p >= q": lambda p, q, x: (p >= q) * x,
    "p == q": lambda p, q, x: (p == q) * x,
    "p != q": lambda p, q, x: (p != q) * x,
    "abs": lambda p, q, x: np.absolute(p + q) * x,
    "square": lambda p, q, x: np.square(p + q) * x,
    "not": lambda p, q, x: np.logical_not(p + q) * x,
    "where": lambda p, q, x: np.where(p, q, p) * x,
    "where x": lambda p, q, x: np.where(p + q, x, 2 * x),
    "sum": lambda p, q, x: (p + q).sum() * x,
    "mean": lambda p, q, x: (p + q).mean() * x,
    "sum of columns": lambda p, q, x: (p + q).sum(0) * x,
    "max of all": lambda p, q, x: (p + q).max() * x,
    "any": lambda p, q, x: (p + q).any() * x,
}


@KERNELS
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", LOGIC)
def test_arithmetic_of_booleans(name: str, dtype: str, numba: bool) -> None:
    x = np.array([-1, 0, 1, 2, 3], dtype)

    def formula(x: Any) -> Any:
        return LOGIC[name](x > 0, x < 2, x)

    with kernels(numba), np.errstate(all="ignore"):
        assert_same(replayed(formula, x).numpy(), formula(x), name, True)


@pytest.mark.parametrize("name", ["-", "subtract"])
def test_what_numpy_does_not_do_with_booleans(name: str) -> None:
    with pytest.raises(TypeError):
        replayed(lambda x: -(x > 0) if name == "-" else (x > 0) - (x < 2), np.ones(3))


# The package's own functions

OWN: dict[str, Callable[[Any], Any]] = {
    **{n: getattr(ops, n) for n in (*activation.__all__, "erf")},
    "gelu by tanh": lambda x: ops.gelu(x, "tanh"),
    "round": lambda x: ops.round(x, 1),
    "softmax": ops.softmax,
    "log_softmax": ops.log_softmax,
    "half": lambda x: x.astype("float16"),
    "double": lambda x: x.astype("float64"),
    "booleans": lambda x: x.astype(bool),
    "there and back": lambda x: x.astype("float64").astype(x.dtype) * 2,
    "norm": ops.norm,
}


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", OWN)
def test_own_functions_and_their_gradients(name: str, dtype: str) -> None:
    """The step's own values."""

    def formula(x: Any) -> Any:
        x = x.detach().requires_grad_()
        y = OWN[name](x)
        return y, tg.grad((y * np.asarray(0.5, y.dtype)).sum(), x) if y.requires_grad else ()

    for x in (VALUES[dtype], np.linspace(-3, 3, 50).astype(dtype)):
        with np.errstate(all="ignore"):
            assert_close(replayed(formula, x), formula(Tensor(x)), {"float16": 4e-3, "float32": 1e-6}.get(dtype, 1e-14))


# Cross-entropy


@KERNELS
@pytest.mark.parametrize("labels", ["int8", "int32", "int64", "uint8", ">i4"])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("classes", [1, 2, 5, 200])
def test_cross_entropy(classes: int, dtype: str, labels: str, numba: bool) -> None:
    """The formula in float64; of rows with what is no finite number the step's own."""
    rng = np.random.default_rng(0)

    def formula(z: Any, t: Any) -> Any:
        z = z.detach().requires_grad_()
        loss = F.cross_entropy(z, t)
        return loss, *tg.grad(loss, z)

    with kernels(numba), np.errstate(all="ignore"), lowered(CLASSES=100):
        compiled = tg.compile(formula)
        for n in (1, 7, 7, 7, 7):
            z, t = rng.normal(size=(n, classes)).astype(dtype) * 5, rng.integers(0, min(classes, 100), n).astype(labels)
            p = z.astype("float64")
            p = p - p.max(1, keepdims=True)
            logp = p - np.log(np.exp(p).sum(1, keepdims=True))
            expected = -logp[np.arange(n), t].mean(), (np.exp(logp) - (np.arange(classes) == t[:, None])) / n
            for a, b in zip(compiled(z, t), expected, strict=True):
                assert a.dtype == dtype
                bound = {"float16": 1e-2, "float32": 1e-6, "float64": 1e-14}[dtype]
                np.testing.assert_allclose(a.numpy(), b, bound, bound)
        for bad in (np.nan, np.inf, -np.inf):
            z[2, classes // 2] = bad
            assert_close(compiled(z, t), formula(*as_tensors((z, t))), 1e-2 if dtype == "float16" else None)
